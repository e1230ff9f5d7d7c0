// Devices: those of all platforms, as far as they have shared virtual memory.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "opencl.h"

namespace opencl {
namespace {

std::string why_unusable(cl_device_id device) {
  if (value_of<cl_bool>(device, CL_DEVICE_AVAILABLE) == CL_FALSE) return "it is not available";
  if (value_of<cl_uint>(device, CL_DEVICE_ADDRESS_BITS) != 64) return "its addresses have not 64 bits";
  if ((value_of<cl_device_svm_capabilities>(device, CL_DEVICE_SVM_CAPABILITIES) & CL_DEVICE_SVM_COARSE_GRAIN_BUFFER) ==
      0) {
    return "it has no shared virtual memory, so its memory has no addresses to count with";
  }
  return {};
}

// Found once: what OpenCL offers does not change while a process runs.
struct Devices {
  std::vector<Found> found;
  std::string left_out;
  std::mutex mutex;  // of the contexts
};

Devices* enumerate() {
  auto* result = new Devices;
  cl_uint platform_count = 0;
  clGetPlatformIDs(0, nullptr, &platform_count);  // fails where there is none
  std::vector<cl_platform_id> platforms(platform_count);
  if (platform_count != 0) clGetPlatformIDs(platform_count, platforms.data(), nullptr);
  for (cl_platform_id platform : platforms) {
    cl_uint count = 0;
    if (clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 0, nullptr, &count) != CL_SUCCESS) continue;
    std::vector<cl_device_id> ids(count);
    clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, count, ids.data(), nullptr);
    auto* context = new cl_context(nullptr);
    for (cl_device_id id : ids) {
      const std::string why = why_unusable(id);
      if (why.empty()) {
        result->found.push_back({id, context});
      } else {
        result->left_out += (result->left_out.empty() ? "" : "; ") + text_of(id, CL_DEVICE_NAME) + " (" + why + ")";
      }
    }
  }
  return result;
}

Devices& devices() {
  static Devices* all = enumerate();
  return *all;
}

unify_status context_of(const Found& found, cl_context& out) {
  Devices& all = devices();
  const std::lock_guard<std::mutex> lock(all.mutex);
  if (*found.context == nullptr) {
    std::vector<cl_device_id> siblings;
    for (const Found& other : all.found) {
      if (other.context == found.context) siblings.push_back(other.id);
    }
    cl_int code = CL_SUCCESS;
    *found.context =
        clCreateContext(nullptr, static_cast<cl_uint>(siblings.size()), siblings.data(), nullptr, nullptr, &code);
    if (code != CL_SUCCESS) return check(code, "making a context");
  }
  out = *found.context;
  return UNIFY_OK;
}

// "OpenCL 3.0 PoCL …" is 3.0.
std::string version_of(cl_device_id id) {
  const std::string text = text_of(id, CL_DEVICE_VERSION);
  const size_t from = text.find(' ') + 1;
  return text.substr(from, text.find(' ', from) - from);
}

uint32_t limited(uint64_t value) { return static_cast<uint32_t>(std::min<uint64_t>(value, 0x7fffffff)); }

}  // namespace

std::string text_of(cl_device_id device, cl_device_info what) {
  size_t bytes = 0;
  clGetDeviceInfo(device, what, 0, nullptr, &bytes);
  std::string text(bytes, '\0');
  clGetDeviceInfo(device, what, bytes, text.data(), nullptr);
  return text.c_str();  // without the zero at its end
}

std::vector<Found> find_devices(std::string& out_why) {
  out_why = devices().left_out;
  return devices().found;
}

unify_status device_count(uint32_t* out_count) {
  *out_count = static_cast<uint32_t>(devices().found.size());
  return UNIFY_OK;
}

unify_status device_open(const unify_device_open_args* args, unify_device* out_device) {
  if (is_forked()) return fail(UNIFY_DEVICE_LOST, "OpenCL cannot be used in a child of fork(); start a new process");
  if (args->index >= devices().found.size()) return fail(UNIFY_NOT_FOUND, "OpenCL has no device of this number");
  if (args->options != nullptr && *args->options != 0) {
    return fail(UNIFY_INVALID_ARGUMENT, "the backend 'opencl' knows no options");
  }
  const Found& found = devices().found[args->index];
  auto device = std::make_unique<unify_device_s>();
  device->index = args->index;
  device->id = found.id;
  if (const unify_status status = context_of(found, device->context)) return status;
  *out_device = device.release();
  return UNIFY_OK;
}

void device_close(unify_device device) {
  if (!is_forked()) (void)device_synchronize(device);
  delete device;
}

unify_status device_info(unify_device device, unify_device_info* out_info) {
  if (is_forked()) return fail(UNIFY_DEVICE_LOST, "OpenCL cannot be used in a child of fork()");
  const cl_device_id id = device->id;
  unify_device_info info{};
  info.struct_size = out_info->struct_size;
  info.extension = out_info->extension;
  std::snprintf(info.name, sizeof info.name, "%s", text_of(id, CL_DEVICE_NAME).c_str());
  std::snprintf(info.target, sizeof info.target, "opencl:%s", version_of(id).c_str());
  std::snprintf(info.driver_version, sizeof info.driver_version, "%s", text_of(id, CL_DRIVER_VERSION).c_str());
  if (value_of<cl_bool>(id, CL_DEVICE_HOST_UNIFIED_MEMORY)) info.flags |= UNIFY_DEVICE_INTEGRATED;
  info.dlpack_type = 4;  // kDLOpenCL
  info.dlpack_id = static_cast<int32_t>(device->index);
  info.memory_bytes = value_of<cl_ulong>(id, CL_DEVICE_GLOBAL_MEM_SIZE);
  info.cache_bytes = value_of<cl_ulong>(id, CL_DEVICE_GLOBAL_MEM_CACHE_SIZE);
  info.cores = value_of<cl_uint>(id, CL_DEVICE_MAX_COMPUTE_UNITS);
  info.clock_khz = value_of<cl_uint>(id, CL_DEVICE_MAX_CLOCK_FREQUENCY) * 1000;
  info.warp_size = 1;  // OpenCL promises no lockstep
  info.max_threads = limited(value_of<size_t>(id, CL_DEVICE_MAX_WORK_GROUP_SIZE));
  for (uint32_t& axis : info.max_grid) axis = 0x7fffffff;  // OpenCL counts in size_t, compilers' get_group_id in int
  info.shared_bytes = value_of<cl_ulong>(id, CL_DEVICE_LOCAL_MEM_SIZE);
  info.alignment = kAlignment;
  std::memcpy(out_info, &info, std::min(info.struct_size, sizeof info));
  return UNIFY_OK;
}

unify_status device_synchronize(unify_device device) {
  if (is_forked()) return fail(UNIFY_DEVICE_LOST, "OpenCL cannot be used in a child of fork()");
  std::vector<std::shared_ptr<unify_stream_s>> streams;
  std::vector<cl_event> left;
  {
    const std::lock_guard<std::mutex> lock(device->mutex);
    streams = device->open;
    left.swap(device->left);
  }
  for (cl_event event : left) {
    clWaitForEvents(1, &event);
    clReleaseEvent(event);
  }
  unify_status first = UNIFY_OK;
  for (const auto& stream : streams) {
    const unify_status status = stream_synchronize(stream.get());
    if (first == UNIFY_OK) first = status;
  }
  return first;
}

unify_status peer_access(unify_device device, unify_device peer, uint32_t enable, uint32_t* out_can) {
  (void)enable;  // a context's memory is every device's
  *out_can = device->context == peer->context ? 1 : 0;
  return UNIFY_OK;
}

}  // namespace opencl
