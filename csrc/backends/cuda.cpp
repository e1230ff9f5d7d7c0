// The CUDA backend: the driver API behind unify's C ABI. It needs libcuda at run time and nothing at build time. Here:
// the driver's library, devices, and the table.
#include "cuda_backend.h"

#include <dlfcn.h>

#include <cstdio>

namespace unify::cuda {

Driver driver;

namespace {

using GetProcAddress = CUresult (*)(const char*, void**, int, uint64_t, int*);
using Init = CUresult (*)(unsigned);

std::string text_of(CUresult code) {
  const char* name = nullptr;
  const char* words = nullptr;
  if (driver.cuGetErrorName != nullptr) driver.cuGetErrorName(code, &name);
  if (driver.cuGetErrorString != nullptr) driver.cuGetErrorString(code, &words);
  return (words != nullptr ? words : "error") + std::string(" (") + (name != nullptr ? name : "CUDA") + ", " +
         std::to_string(code) + ")";
}

// Fills the table of functions. Returns why the driver cannot be used, or nothing.
std::string open_driver(const char* path) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = dlerror();
    return std::string("there is no CUDA driver: ") + (reason != nullptr ? reason : path) +
           ". It comes with NVIDIA's driver for the device.";
  }
  const auto init = reinterpret_cast<Init>(dlsym(library, "cuInit"));
  const auto find = reinterpret_cast<GetProcAddress>(dlsym(library, "cuGetProcAddress_v2"));
  if (init == nullptr) return std::string(path) + " is no CUDA driver: it has no cuInit";
  if (find == nullptr) return "the CUDA driver is older than 12.0; install version 525 or newer";
  std::string missing;
  const auto load = [&](const char* name, int since, bool is_required, auto& function) {
    void* address = nullptr;
    int found = 0;
    if (find(name, &address, since, 0, &found) == CUDA_SUCCESS && address != nullptr) {
      function = reinterpret_cast<std::decay_t<decltype(function)>>(address);
    } else if (is_required) {
      missing += std::string(missing.empty() ? "" : ", ") + name;
    }
  };
#define API(name, since, required, parameters) load(#name, since, required, driver.name);
#include "cuda_api.inc"
#undef API
  if (!missing.empty()) return "the CUDA driver lacks " + missing + "; install version 525 or newer";
  const CUresult code = init(0);
  return code == CUDA_SUCCESS ? "" : "the CUDA driver does not start: " + text_of(code);
}

int attribute(CUdevice id, int which) {
  int value = 0;
  driver.cuDeviceGetAttribute(&value, which, id);
  return value;
}

uint32_t positive(int value) { return static_cast<uint32_t>(std::max(value, 0)); }

std::string version_text() {
  int version = 0;
  driver.cuDriverGetVersion(&version);
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

unify_status device_count(uint32_t* out) {
  int count = 0;
  const CUresult code = driver.cuDeviceGetCount(&count);
  *out = positive(count);
  return status_of(nullptr, code);
}

unify_status device_open(const unify_device_open_args* args, unify_device* out) {
  if (args->options != nullptr && *args->options != 0) {
    return refuse(UNIFY_INVALID_ARGUMENT, std::string("options '") + args->options + "': there are none");
  }
  auto device = std::make_unique<Device>();
  device->index = static_cast<int>(args->index);
  CUresult code = driver.cuDeviceGet(&device->id, device->index);
  if (code == CUDA_SUCCESS) code = driver.cuDevicePrimaryCtxRetain(&device->context, device->id);
  if (code != CUDA_SUCCESS) return status_of(nullptr, code);
  *out = reinterpret_cast<unify_device>(device.release());
  return UNIFY_OK;
}

void device_close(unify_device handle) {
  std::unique_ptr<Device> device(of(handle));
  if (device->context != nullptr) {
    const Entered entered(*device);
    driver.cuCtxSynchronize();
  }
  device->calls.run_forgotten();
  if (device->context != nullptr) driver.cuDevicePrimaryCtxRelease(device->id);
}

void read_identity(CUdevice id, unify_device_info& info) {
  driver.cuDeviceGetName(info.name, sizeof info.name, id);
  std::snprintf(info.target, sizeof info.target, "cuda:%d%d",
                attribute(id, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
                attribute(id, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR));
  std::snprintf(info.driver_version, sizeof info.driver_version, "%s", version_text().c_str());
  if (driver.cuDeviceGetPCIBusId != nullptr) driver.cuDeviceGetPCIBusId(info.bus_id, sizeof info.bus_id, id);
  CUuuid uuid{};
  if (driver.cuDeviceGetUuid != nullptr && driver.cuDeviceGetUuid(&uuid, id) == CUDA_SUCCESS) {
    std::memcpy(info.uuid, uuid.bytes, sizeof info.uuid);
  }
}

unify_status device_info(unify_device handle, unify_device_info* out) {
  const Device& device = *of(handle);
  const CUdevice id = device.id;
  unify_device_info info{};
  read_identity(id, info);
  if (attribute(id, CU_DEVICE_ATTRIBUTE_INTEGRATED) != 0) info.flags |= UNIFY_DEVICE_INTEGRATED;
  info.dlpack_type = 2;  // kDLCUDA
  info.dlpack_id = device.index;
  size_t bytes = 0;
  if (const CUresult code = driver.cuDeviceTotalMem(&bytes, id); code != CUDA_SUCCESS) return status_of(nullptr, code);
  info.memory_bytes = bytes;
  info.cache_bytes = positive(attribute(id, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE));
  // Two transfers a clock, in kHz, on a bus counted in bits.
  info.bandwidth_bytes_s = uint64_t{2000} * positive(attribute(id, CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)) *
                           positive(attribute(id, CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)) / 8;
  info.cores = positive(attribute(id, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT));
  info.clock_khz = positive(attribute(id, CU_DEVICE_ATTRIBUTE_CLOCK_RATE));
  info.warp_size = positive(attribute(id, CU_DEVICE_ATTRIBUTE_WARP_SIZE));
  info.max_threads = positive(attribute(id, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK));
  for (int axis = 0; axis < 3; ++axis) {
    info.max_grid[axis] = positive(attribute(id, CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X + axis));
  }
  info.shared_bytes = positive(attribute(id, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN));
  info.alignment = 256;  // CUDA C++ Programming Guide, "Device memory accesses"
  info.virtual_granularity = virtual_granularity(device);
  const Entered entered(device);
  driver.cuCtxGetStreamPriorityRange(&info.priority_least, &info.priority_greatest);
  answer(out, info);
  return UNIFY_OK;
}

// Stream by stream: cuCtxSynchronize would end the recordings of other threads. Of streams that are others' only where
// work of ours may be left: they may have ended since.
unify_status device_synchronize(unify_device handle) {
  Device& device = *of(handle);
  std::vector<std::shared_ptr<Stream>> streams;
  {
    const std::lock_guard<std::mutex> lock(device.mutex);
    streams.assign(device.streams.begin(), device.streams.end());
  }
  for (const std::shared_ptr<Stream>& stream : streams) {
    if (!stream->is_owned && stream->work.is_proven()) continue;
    const uint64_t pieces = stream->work.pieces();
    bool can_wait = false;
    const unify_status status = wait(device, [&] {
      const CUresult code = find_capture(*stream, can_wait);
      return code == CUDA_SUCCESS && can_wait ? driver.cuStreamSynchronize(stream->handle) : code;
    });
    if (status != UNIFY_OK) {
      if (!stream->is_owned) stream->work.prove(pieces);  // its end is told once
      return status;
    }
    if (can_wait) stream->work.prove(pieces);
  }
  return status_of(&device, device.fault.load());
}

// There is no call that asks a device how it is; what it said last holds.
unify_status device_status(unify_device handle, unify_device_state* out) {
  const Device& device = *of(handle);
  *out = device.is_gone.load()                 ? UNIFY_DEVICE_GONE
         : device.fault.load() != CUDA_SUCCESS ? UNIFY_DEVICE_FAULTED
                                               : UNIFY_DEVICE_HEALTHY;
  return UNIFY_OK;
}

// Retains the primary context anew, and sees whether it does any work: only work shows.
CUresult retain_again(Device& device) {
  CUresult code = driver.cuDevicePrimaryCtxRetain(&device.context, device.id);
  if (code != CUDA_SUCCESS) {
    device.context = nullptr;
    return code;
  }
  const Entered entered(device);
  CUdeviceptr probe = 0;
  code = driver.cuMemAlloc(&probe, 256);
  if (code == CUDA_SUCCESS) code = driver.cuMemFree(probe);
  return code == CUDA_SUCCESS ? driver.cuCtxSynchronize() : code;
}

// Also takes away what other libraries have in the context: CUDA has one for each device of a process.
unify_status device_reset(unify_device handle) {
  Device& device = *of(handle);
  std::unordered_set<std::shared_ptr<Stream>> streams;
  {
    const std::lock_guard<std::mutex> lock(device.mutex);
    streams.swap(device.streams);
  }
  for (const std::shared_ptr<Stream>& stream : streams) stream->is_owned = false;  // the reset destroys them
  CUresult code = driver.cuDevicePrimaryCtxReset(device.id);
  if (device.context != nullptr) driver.cuDevicePrimaryCtxRelease(device.id);
  device.context = nullptr;
  device.calls.run_forgotten();
  drop_virtual(device);
  if (code == CUDA_SUCCESS) code = retain_again(device);
  device.is_gone = code != CUDA_SUCCESS;
  if (code != CUDA_SUCCESS) return status_as(UNIFY_DEVICE_LOST, code);
  device.fault = CUDA_SUCCESS;
  return UNIFY_OK;
}

unify_backend make_table(const char* version) {
  unify_backend table{};
  table.struct_size = sizeof table;
  table.abi_major = UNIFY_ABI_MAJOR;
  table.abi_minor = UNIFY_ABI_MINOR;
  table.name = "cuda";
  table.version = version;
  table.device_count = device_count;
  table.device_open = device_open;
  table.device_close = device_close;
  table.device_info = device_info;
  table.device_synchronize = device_synchronize;
  table.device_status = device_status;
  table.device_reset = device_reset;
  add_memory(table);
  add_streams(table);
  add_kernels(table);
  add_graphs(table);
  add_sharing(table);
  table.last_error = last_error;
  return table;
}

}  // namespace
}  // namespace unify::cuda

// Linked in, so under a name of its own; otherwise as any backend's unify_backend_get.
extern "C" const unify_backend* unify_cuda_backend_get(unify_backend_get_args* args) {
  static const std::string why = unify::cuda::open_driver(args->library != nullptr ? args->library : "libcuda.so.1");
  if (!why.empty()) {
    args->why = why.c_str();
    return nullptr;
  }
  static const std::string version = unify::cuda::version_text();
  static const unify_backend table = unify::cuda::make_table(version.c_str());
  return &table;
}
