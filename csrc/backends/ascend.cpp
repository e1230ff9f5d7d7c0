// The Ascend backend: ACL behind unify's C ABI. It needs CANN's libascendcl.so at run time and nothing at build time.
// Here: the library, devices, and the table.
//
// What is said of ACL without another source was read in the vendor's own runtime, https://gitcode.com/cann/runtime.
#include <dlfcn.h>

#include <cstdio>
#include <string_view>

#include "ascend_backend.h"

namespace unify::ascend {

Driver driver;

namespace {

std::string absent;  // optional functions that this version lacks, after commas

// Fills the table of functions, and starts ACL. Returns why it cannot be used, or nothing.
std::string open_driver(const char* path) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = dlerror();
    return std::string("there is no CANN: ") + (reason != nullptr ? reason : path) +
           ". Where it is installed, its set_env.sh says where: source it. Without a chip: "
           "UNIFY_SIMULATE=ascend:910B3.";
  }
  std::string missing;
  const auto load = [&](const char* name, bool is_required, auto& function) {
    function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, name));
    if (function != nullptr) return;
    std::string& list = is_required ? missing : absent;
    list += std::string(list.empty() ? "" : ", ") + name;
  };
#define API(result, name, required, parameters) load(#name, required, driver.name);
#include "ascend_api.inc"
#undef API
  if (driver.aclInit == nullptr) return std::string(path) + " is no libascendcl: it has no aclInit";
  if (!missing.empty()) return "this CANN lacks " + missing + "; install a newer one";
  // Once for a process: torch_npu may have been first, or comes later. Nobody finalizes what another may still use.
  const aclError code = driver.aclInit(nullptr);
  return code == ACL_SUCCESS || code == ACL_ERROR_REPEAT_INITIALIZE ? "" : "ACL does not start: " + text_of(code);
}

std::string package_version(const char* package) {
  char name[ACL_PKG_VERSION_MAX_SIZE] = {};
  char version[ACL_PKG_VERSION_MAX_SIZE] = {};
  std::snprintf(name, sizeof name, "%s", package);
  const bool is_known = driver.aclsysGetVersionStr != nullptr && succeeds(driver.aclsysGetVersionStr(name, version));
  return is_known ? version : "";
}

// Of CANN, or of ACL where CANN does not say.
std::string version_text() {
  const std::string version = package_version("runtime");
  if (!version.empty()) return version;
  int32_t parts[3] = {};
  if (driver.aclrtGetVersion == nullptr) return "unknown";
  driver.aclrtGetVersion(&parts[0], &parts[1], &parts[2]);
  return "ACL " + std::to_string(parts[0]) + "." + std::to_string(parts[1]) + "." + std::to_string(parts[2]);
}

uint64_t attribute(const Device& device, int attribute, int capability) {
  int64_t value = 0;
  const auto id = static_cast<uint32_t>(device.index);
  if (driver.aclrtGetDeviceInfo != nullptr && succeeds(driver.aclrtGetDeviceInfo(id, attribute, &value))) {
    return static_cast<uint64_t>(std::max<int64_t>(value, 0));
  }
  value = 0;
  if (driver.aclGetDeviceCapability != nullptr && capability >= 0) {
    (void)succeeds(driver.aclGetDeviceCapability(id, capability, &value));
  }
  return static_cast<uint64_t>(std::max<int64_t>(value, 0));
}

unify_status device_count(uint32_t* out) {
  *out = 0;
  return status_of(nullptr, driver.aclrtGetDeviceCount(out));
}

// Takes a reference to the device's own context, the one that torch_npu uses too, without leaving it current.
aclError retain(Device& device) {
  aclrtContext before = nullptr;
  if (!succeeds(driver.aclrtGetCurrentContext(&before))) before = nullptr;
  aclError code = driver.aclrtSetDevice(device.index);
  if (code == ACL_SUCCESS) code = driver.aclrtGetCurrentContext(&device.context);
  if (code != ACL_SUCCESS) device.context = nullptr;
  if (before != nullptr && before != device.context) driver.aclrtSetCurrentContext(before);
  return code;
}

unify_status device_open(const unify_device_open_args* args, unify_device* out) {
  if (args->options != nullptr && *args->options != 0) {
    return refuse(UNIFY_INVALID_ARGUMENT, std::string("options '") + args->options + "': there are none");
  }
  auto device = std::make_unique<Device>();
  device->index = static_cast<int32_t>(args->index);
  if (const aclError code = retain(*device); code != ACL_SUCCESS) return status_of(nullptr, code);
  const Entered entered(*device);
  device->ai_cores =
      static_cast<uint32_t>(attribute(*device, ACL_DEV_ATTR_AICORE_CORE_NUM, ACL_DEVICE_INFO_AI_CORE_NUM));
  device->vector_cores =
      static_cast<uint32_t>(attribute(*device, ACL_DEV_ATTR_VECTOR_CORE_NUM, ACL_DEVICE_INFO_VECTOR_CORE_NUM));
  device->shared_bytes = attribute(*device, ACL_DEV_ATTR_UBUF_PER_VECTOR_CORE, -1);
  *out = reinterpret_cast<unify_device>(device.release());
  return UNIFY_OK;
}

// Forgets what a reset takes away, without destroying it: that would wait, on a lost device without end.
void forget_all(Device& device) {
  std::unordered_set<std::shared_ptr<Stream>> streams;
  std::vector<std::unique_ptr<Graph>> graphs;
  forget_peers(device);
  {
    const std::lock_guard<std::mutex> lock(device.mutex);
    streams.swap(device.streams);
    streams.insert(device.retired_streams.begin(), device.retired_streams.end());
    device.retired_streams.clear();
    graphs.swap(device.retired_graphs);
    device.imported.clear();
  }
  for (const std::shared_ptr<Stream>& stream : streams) stream->handle = nullptr;
  for (const std::unique_ptr<Graph>& graph : graphs) graph->handle = nullptr;
}

void device_close(unify_device handle) {
  std::unique_ptr<Device> device(of(handle));
  if (device->is_gone || device->fault != ACL_SUCCESS) {
    forget_all(*device);
  } else {
    finish_serving(*device);
  }
  forget_peers(*device);
  device->retired_streams.clear();
  device->retired_graphs.clear();
  device->calls.run_forgotten();
  stop_reporter(*device);
  if (device->context == nullptr) return;
  {
    const Entered entered(*device);
    drop_memory(*device);
  }
  driver.aclrtResetDevice(device->index);  // gives the reference back
}

void read_identity(const Device& device, unify_device_info& info) {
  const char* soc = driver.aclrtGetSocName();
  const std::string name = soc != nullptr ? soc : "Ascend";
  const std::string of_driver = package_version("driver");
  // torch_npu takes the name of the chip at its word, so that a device which is none says so elsewhere.
  const bool is_simulated = of_driver.find("(simulated)") != std::string::npos;
  std::snprintf(info.name, sizeof info.name, "%s%s", name.c_str(), is_simulated ? " (simulated)" : "");
  constexpr std::string_view kFamily = "Ascend";
  std::snprintf(info.target, sizeof info.target, "ascend:%s",
                name.c_str() + (name.rfind(kFamily, 0) == 0 ? kFamily.size() : 0));
  std::snprintf(info.driver_version, sizeof info.driver_version, "%s",
                (of_driver.empty() ? "CANN " + version_text() : of_driver).c_str());
  aclrtUuid uuid{};
  if (driver.aclrtDeviceGetUuid != nullptr && succeeds(driver.aclrtDeviceGetUuid(device.index, &uuid))) {
    std::memcpy(info.uuid, uuid.bytes, sizeof info.uuid);
  }
}

unify_status memory_of(Device& device, size_t& out_free, size_t& out_total) {
  return run(device, [&] {
    const aclError code = driver.aclrtGetMemInfo(ACL_HBM_MEM, &out_free, &out_total);
    return code == ACL_SUCCESS && out_total == 0 ? driver.aclrtGetMemInfo(ACL_DDR_MEM, &out_free, &out_total) : code;
  });
}

unify_status memory_info(unify_device device, uint64_t* out_free, uint64_t* out_total) {
  size_t free_bytes = 0;
  size_t total = 0;
  const unify_status status = memory_of(*of(device), free_bytes, total);
  *out_free = free_bytes;
  *out_total = total;
  return status;
}

unify_status device_info(unify_device handle, unify_device_info* out) {
  Device& device = *of(handle);
  unify_device_info info{};
  read_identity(device, info);
  info.dlpack_type = 12;  // kDLExtDev: what torch_npu's arrays say, since they are torch's PrivateUse1
  info.dlpack_id = device.index;
  size_t free_bytes = 0;
  size_t total = 0;
  if (const unify_status status = memory_of(device, free_bytes, total); status != UNIFY_OK) return status;
  info.memory_bytes = total;
  info.cache_bytes = attribute(device, ACL_DEV_ATTR_L2_CACHE_SIZE, ACL_DEVICE_INFO_L2_SIZE);
  info.cores = device.ai_cores;
  info.warp_size = 1;
  info.max_threads = 1;
  // The chip counts blocks in one dimension, up to 65535; a kernel that loops over a larger grid has no such limit.
  for (uint32_t& axis : info.max_grid) axis = INT32_MAX;
  info.shared_bytes = device.shared_bytes;
  info.alignment = 64;  // aclrtMalloc, "Description"
  info.virtual_granularity = virtual_granularity(device);
  if (driver.aclrtDeviceGetStreamPriorityRange != nullptr) {
    driver.aclrtDeviceGetStreamPriorityRange(&info.priority_least, &info.priority_greatest);
  }
  answer(out, info);
  return UNIFY_OK;
}

// A stream that records now cannot be waited for.
aclError synchronize(const Stream& stream, bool& out_records) {
  const Entered entered(*stream.device);
  if (entered.result() != ACL_SUCCESS) return entered.result();
  const aclError code = is_recording(stream, out_records);
  return code != ACL_SUCCESS || out_records ? code : driver.aclrtSynchronizeStream(stream.handle);
}

// Stream by stream: aclrtSynchronizeDevice would end the recordings of other threads. Of streams that are others' only
// where work of ours may be left: they may have ended since. All of them, though one fails.
unify_status device_synchronize(unify_device handle) {
  Device& device = *of(handle);
  std::vector<std::shared_ptr<Stream>> streams;
  {
    const std::lock_guard<std::mutex> lock(device.mutex);
    streams.assign(device.streams.begin(), device.streams.end());
    streams.insert(streams.end(), device.retired_streams.begin(), device.retired_streams.end());
  }
  unify_status status = UNIFY_OK;
  for (const std::shared_ptr<Stream>& stream : streams) {
    if (!stream->is_owned && stream->work.is_proven()) continue;
    const uint64_t pieces = stream->work.pieces();
    bool records = false;
    const aclError code = synchronize(*stream, records);
    const bool is_over = code == ACL_SUCCESS ? !records : !stream->is_owned;  // whose end is told once
    if (is_over) stream->work.prove(pieces);
    if (status == UNIFY_OK) {
      status = status_of(&device, code);
    } else {
      (void)succeeds(code);
    }
  }
  sweep(device);
  if (device.fault.load() == ACL_SUCCESS) return status;
  device.calls.wait();
  return status == UNIFY_OK ? status_of(&device, device.fault.load()) : status;
}

unify_status device_status(unify_device handle, unify_device_state* out) {
  const Device& device = *of(handle);
  int state = ACL_RT_DEVICE_STATUS_NORMAL;
  if (driver.aclrtQueryDeviceStatus != nullptr) (void)succeeds(driver.aclrtQueryDeviceStatus(device.index, &state));
  const bool is_gone = device.is_gone.load() || state == ACL_RT_DEVICE_STATUS_ABNORMAL;
  *out = is_gone ? UNIFY_DEVICE_GONE : device.fault.load() != ACL_SUCCESS ? UNIFY_DEVICE_FAULTED : UNIFY_DEVICE_HEALTHY;
  return UNIFY_OK;
}

// Whether the new context does any work: only work shows.
aclError probe(Device& device) {
  const Entered entered(device);
  if (entered.result() != ACL_SUCCESS) return entered.result();
  void* memory = nullptr;
  char bytes[64] = {};
  aclError code = driver.aclrtMalloc(&memory, sizeof bytes, ACL_MEM_MALLOC_HUGE_FIRST);
  if (code != ACL_SUCCESS) return code;
  code = driver.aclrtMemcpy(memory, sizeof bytes, bytes, sizeof bytes, ACL_MEMCPY_HOST_TO_DEVICE);
  driver.aclrtFree(memory);
  return code;
}

// Also takes away what torch_npu has in the context: ACL has one for each device of a process.
unify_status device_reset(unify_device handle) {
  Device& device = *of(handle);
  constexpr uint32_t kAbortMilliseconds = 10000;
  // aclrtResetDeviceForce waits for tasks under way, and so for a kernel that hangs.
  if (driver.aclrtDeviceTaskAbort != nullptr) driver.aclrtDeviceTaskAbort(device.index, kAbortMilliseconds);
  forget_all(device);
  if (device.context != nullptr) {
    const Entered entered(device);
    drop_memory(device);
  }
  stop_reporter(device);
  aclError code = device.context == nullptr                 ? ACL_SUCCESS
                  : driver.aclrtResetDeviceForce != nullptr ? driver.aclrtResetDeviceForce(device.index)
                                                            : driver.aclrtResetDevice(device.index);
  device.context = nullptr;
  device.calls.run_forgotten();
  if (code == ACL_SUCCESS) code = retain(device);
  if (code == ACL_SUCCESS) code = probe(device);
  const unify_status status = status_of(nullptr, code);
  const bool is_full = status == UNIFY_OUT_OF_MEMORY && device.context != nullptr;  // which is no fault of the device
  device.is_gone = status != UNIFY_OK && !is_full;
  if (device.is_gone) return status_as(UNIFY_DEVICE_LOST);
  device.fault = ACL_SUCCESS;
  return UNIFY_OK;
}

unify_backend make_table(const char* version) {
  unify_backend table{};
  table.struct_size = sizeof table;
  table.abi_major = UNIFY_ABI_MAJOR;
  table.abi_minor = UNIFY_ABI_MINOR;
  table.name = "ascend";
  table.version = version;
  table.device_count = device_count;
  table.device_open = device_open;
  table.device_close = device_close;
  table.device_info = device_info;
  table.device_synchronize = device_synchronize;
  table.device_status = device_status;
  table.device_reset = device_reset;
  table.memory_info = memory_info;
  add_memory(table);
  add_streams(table);
  add_events(table);
  add_kernels(table);
  add_graphs(table);
  add_sharing(table);
  table.last_error = last_error;
  return table;
}

}  // namespace
}  // namespace unify::ascend

// Linked in, so under a name of its own; otherwise as any backend's unify_backend_get.
extern "C" const unify_backend* unify_ascend_backend_get(unify_backend_get_args* args) {
  static const std::string why =
      unify::ascend::open_driver(args->library != nullptr ? args->library : "libascendcl.so");
  if (!why.empty()) {
    args->why = why.c_str();
    return nullptr;
  }
  static const std::string version =
      unify::ascend::version_text() + (unify::ascend::absent.empty() ? "" : ", without " + unify::ascend::absent);
  static const unify_backend table = unify::ascend::make_table(version.c_str());
  return &table;
}
