// The entry: the loader, errors, and the table.
#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "opencl.h"

namespace opencl {

#define CL(name) decltype(&::name) name = nullptr;
#include "api.inc"
#undef CL

namespace {

struct Failure {
  unify_status status = UNIFY_OK;
  cl_int code = 0;
  uint64_t operation = 0;
  std::string message;
};
thread_local Failure failure;

const char* name_of(cl_int code) {
  switch (code) {
#define CL_ERROR(name, number) \
  case number:                 \
    return #name;
#include "errors.inc"
#undef CL_ERROR
    default:
      return nullptr;
  }
}

unify_status status_of(cl_int code) {
  switch (code) {
    case CL_SUCCESS:
      return UNIFY_OK;
    case CL_MEM_OBJECT_ALLOCATION_FAILURE:
    case CL_OUT_OF_RESOURCES:
    case CL_OUT_OF_HOST_MEMORY:
      return UNIFY_OUT_OF_MEMORY;
    case CL_DEVICE_NOT_AVAILABLE:
      return UNIFY_DEVICE_LOST;
    case CL_COMPILER_NOT_AVAILABLE:
    case CL_LINKER_NOT_AVAILABLE:
    case CL_INVALID_OPERATION:
    case CL_KERNEL_ARG_INFO_NOT_AVAILABLE:
      return UNIFY_UNSUPPORTED;
    case CL_BUILD_PROGRAM_FAILURE:
    case CL_COMPILE_PROGRAM_FAILURE:
    case CL_LINK_PROGRAM_FAILURE:
    case CL_INVALID_BINARY:
    case CL_INVALID_VALUE:
    case CL_INVALID_KERNEL_ARGS:
    case CL_INVALID_ARG_SIZE:
    case CL_INVALID_ARG_VALUE:
    case CL_INVALID_WORK_GROUP_SIZE:
    case CL_INVALID_WORK_ITEM_SIZE:
    case CL_INVALID_GLOBAL_WORK_SIZE:
      return UNIFY_INVALID_ARGUMENT;
    case CL_INVALID_KERNEL_NAME:
      return UNIFY_NOT_FOUND;
    default:
      return UNIFY_INTERNAL;
  }
}

std::atomic<bool> forked{false};

}  // namespace

bool is_forked() noexcept { return forked.load(std::memory_order_relaxed); }

std::string open_library(const char* path) {
  void* library = dlopen(path != nullptr ? path : "libOpenCL.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return std::string("there is no OpenCL loader here: ") + dlerror() +
           ". On Debian and Ubuntu: apt install ocl-icd-libopencl1";
  }
#define CL(name)                                                  \
  name = reinterpret_cast<decltype(name)>(dlsym(library, #name)); \
  if (name == nullptr) return "its OpenCL loader is older than 2.1: it lacks " #name;
#include "api.inc"
#undef CL
  return {};
}

unify_status fail(unify_status status, std::string message, cl_int code, uint64_t operation) {
  failure.status = status;
  failure.code = code;
  failure.operation = operation;
  failure.message = std::move(message);
  return status;
}

unify_status check(cl_int code, const char* what, uint64_t operation) {
  if (code == CL_SUCCESS) return UNIFY_OK;
  return fail(status_of(code), std::string(what) + " failed", code, operation);
}

void last_error(unify_error* out_error) noexcept {
  unify_error error{};
  error.struct_size = out_error->struct_size;
  error.extension = out_error->extension;
  error.status = failure.status;
  error.native_code = failure.code;
  error.native_name = name_of(failure.code);
  error.message = failure.message.empty() ? nullptr : failure.message.c_str();
  error.operation = failure.operation;
  std::memcpy(out_error, &error, std::min(error.struct_size, sizeof error));
}

namespace {

unify_backend make_table() {
  unify_backend table{};
  table.struct_size = sizeof table;
  table.abi_major = UNIFY_ABI_MAJOR;
  table.abi_minor = UNIFY_ABI_MINOR;
  table.name = "opencl";
  table.device_count = opencl::device_count;
  table.device_open = opencl::device_open;
  table.device_close = opencl::device_close;
  table.device_info = opencl::device_info;
  table.device_synchronize = opencl::device_synchronize;
  table.peer_access = opencl::peer_access;
  table.memory_allocate = opencl::memory_allocate;
  table.memory_free = opencl::memory_free;
  table.memory_info = opencl::memory_info;
  table.copy = opencl::copy;
  table.copy_rows = opencl::copy_rows;
  table.fill = opencl::fill;
  table.stream_create = opencl::stream_create;
  table.stream_destroy = opencl::stream_destroy;
  table.stream_synchronize = opencl::stream_synchronize;
  table.stream_query = opencl::stream_query;
  table.stream_wait_event = opencl::stream_wait_event;
  table.host_call = opencl::host_call;
  table.event_create = opencl::event_create;
  table.event_destroy = opencl::event_destroy;
  table.event_record = opencl::event_record;
  table.event_synchronize = opencl::event_synchronize;
  table.event_query = opencl::event_query;
  table.event_elapsed = opencl::event_elapsed;
  table.module_load = opencl::module_load;
  table.module_unload = opencl::module_unload;
  table.function_get = opencl::function_get;
  table.launch = opencl::launch;
  table.last_error = opencl::last_error;
  return table;
}

}  // namespace
}  // namespace opencl

UNIFY_EXPORT const unify_backend* unify_backend_get(unify_backend_get_args* args) {
  static auto* why = new std::string(opencl::open_library(args->library));
  static auto* table = new unify_backend(opencl::make_table());
  static auto* version = new std::string("1.0");
  if (why->empty()) {
    std::string left_out;
    const bool has_devices = !opencl::find_devices(left_out).empty();
    if (!left_out.empty()) *version += "; left out: " + left_out;
    if (!has_devices) *why = left_out.empty() ? "OpenCL finds no device here" : "no device can be used: " + left_out;
  }
  if (!why->empty()) {
    args->why = why->c_str();
    return nullptr;
  }
  pthread_atfork(nullptr, nullptr, [] { opencl::forked.store(true, std::memory_order_relaxed); });
  table->version = version->c_str();
  return table;
}
