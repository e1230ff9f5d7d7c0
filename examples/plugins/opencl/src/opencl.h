// A backend over OpenCL: what its files share.
//
// unify has 64-bit device addresses with arithmetic, OpenCL 1's buffers are opaque. Shared virtual memory (SVM, since
// OpenCL 2.0) has addresses that a kernel, a copy and the host agree on, so memory is SVM and a device without it is
// left out: a buffer cannot be named by an address that the core made by adding to another.
//
// The devices of a platform share a context, hence addresses and events. A stream is an in-order queue.
#pragma once

#define CL_TARGET_OPENCL_VERSION 300
#include <CL/cl.h>
#include <unify/backend.h>

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

namespace opencl {

// The functions of the loader; null until open_library() has found them.
#define CL(name) extern decltype(&::name) name;
#include "api.inc"
#undef CL

// Empty if all functions are there, else why not.
std::string open_library(const char* path);

// The alignment of memory: of OpenCL's largest type, long16, beyond which clSVMAlloc may refuse.
constexpr uint32_t kAlignment = 128;

// ---- errors: each thread's last one

[[nodiscard]] unify_status fail(unify_status status, std::string message, cl_int code = 0, uint64_t operation = 0);
// What a code of OpenCL is in the words of unify; OK for CL_SUCCESS.
[[nodiscard]] unify_status check(cl_int code, const char* what, uint64_t operation = 0);
void last_error(unify_error* out_error) noexcept;

// A child of a fork has none of the threads that OpenCL works with: a call would wait for them for ever.
[[nodiscard]] bool is_forked() noexcept;

// ---- devices

// A device that can be used, as it was found.
struct Found {
  cl_device_id id = nullptr;
  cl_context* context = nullptr;  // of its platform, made when the first of its devices is opened
};

// Finds the devices; `out_why` says what was left out and why.
std::vector<Found> find_devices(std::string& out_why);
std::string text_of(cl_device_id device, cl_device_info what);

template <typename Value>
Value value_of(cl_device_id device, cl_device_info what) {
  Value value{};
  clGetDeviceInfo(device, what, sizeof value, &value, nullptr);
  return value;
}

}  // namespace opencl

struct unify_device_s {
  uint32_t index = 0;
  cl_device_id id = nullptr;
  cl_context context = nullptr;
  std::mutex mutex;                                   // of what follows
  std::unordered_map<unify_address, size_t> blocks;   // what is allocated
  uint64_t allocated_bytes = 0;                       // of device memory
  std::vector<std::shared_ptr<unify_stream_s>> open;  // streams that live, also those of others
  std::vector<cl_event> left;                         // the last commands of streams that were destroyed before them
};

namespace opencl {

// A command that may still be under way.
struct Pending {
  cl_event event;
  uint64_t operation;
};

struct HostCall {
  cl_event before;  // what it waits for
  cl_event done;    // what waits for it
  unify_host_function function;
  void* user;
};

// Runs the host calls of a stream, one after the other. Ends when it is empty and its stream is gone.
struct Caller {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<HostCall> calls;
  bool is_closing = false;
};

}  // namespace opencl

struct unify_stream_s {
  unify_device device = nullptr;
  cl_command_queue queue = nullptr;
  std::shared_ptr<opencl::Caller> caller;  // made by the first host call
  std::mutex mutex;                        // of what follows: anybody may ask while another enqueues
  std::deque<opencl::Pending> pending;     // in the order of the queue
  opencl::Pending failed{};                // the first that failed and was not reported
  cl_int failure = CL_SUCCESS;
};

struct unify_event_s {
  unify_device device = nullptr;
  uint32_t flags = 0;
  std::mutex mutex;
  cl_event mark = nullptr;  // null until recorded
};

namespace opencl {

// Notes a command that was enqueued, and lets the device begin with it.
unify_status enqueued(unify_stream stream, cl_int code, cl_event event, const char* what, uint64_t operation = 0);

// The functions of the table, by their files.
unify_status device_count(uint32_t* out_count);
unify_status device_open(const unify_device_open_args* args, unify_device* out_device);
void device_close(unify_device device);
unify_status device_info(unify_device device, unify_device_info* out_info);
unify_status device_synchronize(unify_device device);
unify_status peer_access(unify_device device, unify_device peer, uint32_t enable, uint32_t* out_can);

unify_status memory_allocate(unify_device device, const unify_allocate_args* args, unify_address* out_address);
unify_status memory_free(unify_device device, unify_memory_kind kind, unify_address address);
unify_status memory_info(unify_device device, uint64_t* out_free_bytes, uint64_t* out_total_bytes);
unify_status copy(unify_stream stream, const unify_copy_args* args);
unify_status copy_rows(unify_stream stream, const unify_copy_rows_args* args);
unify_status fill(unify_stream stream, const unify_fill_args* args);

unify_status stream_create(unify_device device, unify_stream_args* args, unify_stream* out_stream);
unify_status stream_destroy(unify_stream stream);
unify_status stream_synchronize(unify_stream stream);
unify_status stream_query(unify_stream stream);
unify_status stream_wait_event(unify_stream stream, unify_event event);
unify_status host_call(unify_stream stream, unify_host_function function, void* user);

unify_status event_create(unify_device device, const unify_event_args* args, unify_event* out_event);
unify_status event_destroy(unify_event event);
unify_status event_record(unify_event event, unify_stream stream);
unify_status event_synchronize(unify_event event);
unify_status event_query(unify_event event);
unify_status event_elapsed(unify_event start, unify_event stop, int64_t* out_nanoseconds);

unify_status module_load(unify_device device, const unify_module_args* args, unify_module* out_module);
unify_status module_unload(unify_module module);
unify_status function_get(unify_module module, unify_function_args* args, unify_function* out_function);
unify_status launch(unify_stream stream, unify_function function, const unify_launch_args* args);

}  // namespace opencl
