// A libascendcl that keeps ACL's rules about contexts, streams and events and does nothing else: what is enqueued runs
// at once, or when it is released. To test what the Ascend backend asks of ACL, and in which order.
#include <pthread.h>

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "backends/ascend_types.h"

using namespace unify::ascend;

namespace {

struct Context {
  int device;
  int references = 0;
  bool is_alive = true;
};
struct StubStream {
  Context* context = nullptr;
  uint32_t flags = 0;
  long number = 0;  // of its making
  bool stops = false;
  int recording = 0;
  std::deque<std::function<void()>> tasks;
};
struct StubEvent {
  uint32_t flags;
  bool is_recorded = false;
  bool is_passed = false;
};
struct StubGraph {
  std::vector<std::function<void()>> tasks;
};

std::recursive_mutex mutex;
std::map<std::string, long> values;  // what a test set, and what was counted
std::string calls;                   // names of the calls that a test wants to see in their order
Context* contexts[2] = {};
std::map<int, int> faults;
std::set<StubStream*> streams;
std::map<void*, size_t> device_memory;
std::map<void*, int> physical;
std::map<uint64_t, pthread_t> subscribed;  // by stream
std::deque<std::function<void()>> reports;
// Never destroyed: threads that serve calls wait for it until the process ends.
std::condition_variable_any& reported = *new std::condition_variable_any;
thread_local Context* current = nullptr;
thread_local std::string recent;
std::string last_arguments;
StubGraph* recorded = nullptr;

aclError failed(aclError code, const char* text) {
  recent = std::string("EE9999: ") + text + "\n";
  return code;
}

// What each call in a context begins with.
aclError enter(const char* name) {
  if (values["log"] != 0) calls += std::string(" ") + name;
  if (values.count(std::string("fail:") + name) != 0) {
    const long code = values[std::string("fail:") + name];
    values.erase(std::string("fail:") + name);
    return failed(static_cast<aclError>(code), name);
  }
  values["mode_inside"] = values["mode"];
  if (current == nullptr || !current->is_alive) return failed(107002, "no context");
  if (const int fault = faults[current->device]; fault != 0) return failed(fault, "the device stopped at an error");
  return 0;
}
#define ENTER()                                            \
  const std::lock_guard<std::recursive_mutex> lock(mutex); \
  if (const aclError code = enter(__func__); code != 0) return code

aclError enqueue(aclrtStream handle, std::function<void()> task) {
  auto* stream = static_cast<StubStream*>(handle);
  if (stream->context != current) return failed(107003, "stream not in current context");
  if (stream->recording != 0) {
    recorded->tasks.push_back(std::move(task));
  } else if (values["held"] != 0 || values["held:" + std::to_string(stream->number)] != 0) {
    stream->tasks.push_back(std::move(task));
  } else {
    task();
  }
  return 0;
}

void release(StubStream& stream) {
  while (!stream.tasks.empty()) {
    auto task = std::move(stream.tasks.front());
    stream.tasks.pop_front();
    task();
  }
}

void* allocate(size_t bytes) {
  void* memory = std::aligned_alloc(64, (bytes + 127) / 64 * 64);
  device_memory[memory] = bytes;
  return memory;
}

aclError release_memory(void* memory) {
  if (device_memory.erase(memory) == 0) return failed(107000, "not allocated");
  values["closes_at_free"] = values["closes"];
  std::free(memory);
  return 0;
}

}  // namespace

extern "C" {

// ---- for tests ----
void stub_set(const char* key, long value) {
  const std::lock_guard<std::recursive_mutex> lock(mutex);
  values[key] = value;
  if (std::string(key).rfind("held", 0) == 0 && value == 0) {
    for (StubStream* stream : streams) release(*stream);
  }
  if (std::string(key).rfind("fault:", 0) == 0) faults[std::atoi(key + 6)] = static_cast<int>(value);
}
long stub_get(const char* key) {
  const std::lock_guard<std::recursive_mutex> lock(mutex);
  if (std::string(key) == "device_memory") return static_cast<long>(device_memory.size() + physical.size());
  if (std::string(key) == "streams") return static_cast<long>(streams.size());
  return values[key];
}
const char* stub_calls() {
  static std::string taken;
  taken.swap(calls);
  calls.clear();
  return taken.c_str();
}
const char* stub_arguments() { return last_arguments.data(); }

// ---- ACL ----
aclError aclInit(const char*) {
  const char* code = std::getenv("STUB_INIT");
  return code == nullptr ? 0 : failed(std::atoi(code), "the driver is not there");
}
const char* aclGetRecentErrMsg() {
  thread_local std::string taken;
  taken = std::move(recent);
  recent.clear();
  return taken.empty() ? nullptr : taken.c_str();
}
const char* aclrtGetSocName() { return "Ascend910B3"; }
aclError aclrtGetVersion(int32_t* a, int32_t* b, int32_t* c) {
  *a = 1, *b = 17, *c = 0;
  return 0;
}
aclError aclsysGetVersionStr(char* package, char* version) {
  std::strcpy(version, std::strcmp(package, "driver") == 0 ? "25.2 (simulated)" : "8.5.0");
  return 0;
}
aclError aclrtGetDeviceCount(uint32_t* count) {
  *count = 2;
  return 0;
}
aclError aclrtSetDevice(int32_t device) {
  if (device < 0 || device > 1) return failed(107001, "no such device");
  Context*& context = contexts[device];
  if (context == nullptr) context = new Context{device};
  ++context->references;
  current = context;
  return 0;
}
aclError aclrtResetDevice(int32_t device) {
  calls += " aclrtResetDevice";
  Context*& context = contexts[device];
  if (context == nullptr) return failed(507007, "not set");
  if (--context->references > 0) return 0;
  faults[device] = 0;
  context->is_alive = false;
  if (current == context) current = nullptr;
  context = nullptr;
  return 0;
}
aclError aclrtResetDeviceForce(int32_t device) {
  calls += " aclrtResetDeviceForce";
  if (values["gone"] != 0) return failed(507010, "lost");
  faults[device] = 0;
  if (contexts[device] == nullptr) return failed(507007, "not set");
  contexts[device]->references = 1;
  for (auto it = streams.begin(); it != streams.end();) {
    it = (*it)->context->device == device ? streams.erase(it) : std::next(it);
  }
  return aclrtResetDevice(device);
}
aclError aclrtDeviceTaskAbort(int32_t, uint32_t) {
  calls += " aclrtDeviceTaskAbort";
  return 0;
}
aclError aclrtQueryDeviceStatus(int32_t, int* status) {
  *status = static_cast<int>(values["abnormal"]);
  return 0;
}
aclError aclrtGetDeviceInfo(uint32_t, int attribute, int64_t* value) {
  const std::map<int, int64_t> known = {{101, 20}, {201, 40}, {204, 192 << 10}, {302, 192 << 20}};
  if (known.count(attribute) == 0) return 207000;
  *value = known.at(attribute);
  return 0;
}
aclError aclGetDeviceCapability(uint32_t, int what, int64_t* value) {
  *value = what == 0 ? 20 : what == 1 ? 40 : 192 << 20;
  return 0;
}
aclError aclrtDeviceGetUuid(int32_t device, aclrtUuid* uuid) {
  std::memset(uuid, device + 1, sizeof *uuid);
  return 0;
}
aclError aclrtDeviceGetStreamPriorityRange(int32_t* least, int32_t* greatest) {
  *least = 7, *greatest = 0;
  return 0;
}
aclError aclrtGetCurrentContext(aclrtContext* out) {
  if (current == nullptr) return failed(107002, "no context");
  *out = current;
  return 0;
}
aclError aclrtSetCurrentContext(aclrtContext context) {
  if (context == nullptr || !static_cast<Context*>(context)->is_alive) return failed(100000, "context is null");
  current = static_cast<Context*>(context);
  return 0;
}

aclError aclrtMalloc(void** out, size_t bytes, int) {
  ENTER();
  *out = allocate(bytes);
  return 0;
}
aclError aclrtFree(void* memory) {
  const std::lock_guard<std::recursive_mutex> lock(mutex);
  return release_memory(memory);
}
aclError aclrtMallocHost(void** out, size_t bytes) {
  ENTER();
  *out = std::malloc(bytes);
  return 0;
}
aclError aclrtFreeHost(void* memory) {
  std::free(memory);
  return 0;
}
aclError aclrtMemAllocManaged(void** out, uint64_t bytes, uint32_t) {
  ENTER();
  *out = allocate(bytes);
  return 0;
}
aclError aclrtGetMemInfo(int, size_t* free_bytes, size_t* total) {
  ENTER();
  *free_bytes = 32ull << 30;
  *total = 64ull << 30;
  return 0;
}
aclError aclrtReserveMemAddress(void** out, size_t bytes, size_t alignment, void*, uint64_t) {
  ENTER();
  if (alignment != 0) return 107000;
  *out = allocate(bytes);
  return 0;
}
aclError aclrtReleaseMemAddress(void* memory) { return aclrtFree(memory); }
aclError aclrtMallocPhysical(aclrtDrvMemHandle* out, size_t, const aclrtPhysicalMemProp* properties, uint64_t flags) {
  ENTER();
  if (flags != 0 || properties->location.type != 1) return 100000;
  *out = new int;
  physical[*out] = 0;
  return 0;
}
aclError aclrtFreePhysical(aclrtDrvMemHandle handle) {
  if (physical[handle] != 0) return failed(107000, "it is mapped");
  physical.erase(handle);
  delete static_cast<int*>(handle);
  return 0;
}
aclError aclrtMapMem(void* address, size_t, size_t, aclrtDrvMemHandle handle, uint64_t) {
  ENTER();
  ++physical[handle];
  values["mapped:" + std::to_string(reinterpret_cast<uintptr_t>(address))] = reinterpret_cast<long>(handle);
  return 0;
}
aclError aclrtUnmapMem(void* address) {
  const std::string key = "mapped:" + std::to_string(reinterpret_cast<uintptr_t>(address));
  if (values.count(key) == 0) return failed(107000, "not mapped");
  --physical[reinterpret_cast<void*>(values[key])];
  values.erase(key);
  return 0;
}
aclError aclrtMemGetAllocationGranularity(aclrtPhysicalMemProp*, int, size_t* out) {
  *out = 2 << 20;
  return 0;
}
aclError aclrtMemSetAccess(void*, size_t, aclrtMemAccessDesc* access, size_t) {
  values["access"] = access->location.id;
  return 0;
}

aclError aclrtMemcpy(void* dst, size_t, const void* src, size_t bytes, int) {
  ENTER();
  std::memcpy(dst, src, bytes);
  return 0;
}
aclError aclrtMemcpyAsync(void* dst, size_t room, const void* src, size_t bytes, int kind, aclrtStream stream) {
  ENTER();
  if (kind == 0) return failed(207000, "no copies within the host");
  if (kind < 1 || kind > 3 || room < bytes) return failed(100000, "kind");
  values["kind"] = kind;
  return enqueue(stream, [=] { std::memcpy(dst, src, bytes); });
}
aclError aclrtMemcpy2dAsync(void* dst, size_t dst_pitch, const void* src, size_t src_pitch, size_t width, size_t height,
                            int kind, aclrtStream stream) {
  ENTER();
  if (kind < 1 || kind > 3) return failed(100000, "kind");
  return enqueue(stream, [=] {
    for (size_t i = 0; i < height; ++i) {
      std::memcpy(static_cast<char*>(dst) + i * dst_pitch, static_cast<const char*>(src) + i * src_pitch, width);
    }
  });
}
aclError aclrtMemsetAsync(void* dst, size_t, int32_t value, size_t bytes, aclrtStream stream) {
  ENTER();
  return enqueue(stream, [=] { std::memset(dst, value, bytes); });
}
aclError aclrtMemsetD32Async(void* dst, size_t, uint32_t value, size_t count, aclrtStream stream) {
  ENTER();
  const auto owner = device_memory.upper_bound(dst);
  const bool is_ours = owner != device_memory.begin() && [&] {
    const auto& [begin, bytes] = *std::prev(owner);
    return static_cast<char*>(dst) < static_cast<char*>(begin) + bytes;
  }();
  if (!is_ours || reinterpret_cast<uintptr_t>(dst) % 4 != 0) return failed(100000, "not of aclrtMalloc");
  return enqueue(stream, [=] {
    for (size_t i = 0; i < count; ++i) std::memcpy(static_cast<char*>(dst) + i * 4, &value, 4);
  });
}

aclError aclrtCreateStreamWithConfig(aclrtStream* out, uint32_t priority, uint32_t flags) {
  ENTER();
  if (priority > 7) return 107000;
  auto* stream = new StubStream;
  stream->context = current;
  stream->flags = flags;
  stream->number = values["streams_made"]++;
  streams.insert(stream);
  *out = stream;
  return 0;
}
aclError aclrtDestroyStream(aclrtStream handle) {
  const std::lock_guard<std::recursive_mutex> lock(mutex);
  auto* stream = static_cast<StubStream*>(handle);
  if (stream->context != current) return failed(107003, "stream not in current context");
  if (!stream->tasks.empty()) ++values["destroy_waits"];
  release(*stream);
  streams.erase(stream);
  delete stream;
  return 0;
}
aclError aclrtSetStreamFailureMode(aclrtStream handle, uint64_t mode) {
  static_cast<StubStream*>(handle)->stops = mode == 1;
  ++values["stops"];
  return 0;
}
aclError aclrtSynchronizeStream(aclrtStream handle) {
  ENTER();
  auto* stream = static_cast<StubStream*>(handle);
  if (stream->context != current) return failed(107003, "stream not in current context");
  release(*stream);
  if (const int late = static_cast<int>(values["late"]); late != 0) {
    values["late"] = 0;
    if (stream->stops) faults[current->device] = late;
    return failed(late, "the kernel did it");
  }
  return 0;
}
aclError aclrtStreamQuery(aclrtStream handle, int* status) {
  ENTER();
  *status = static_cast<StubStream*>(handle)->tasks.empty() ? 0 : 1;
  return 0;
}
aclError aclrtStreamWaitEvent(aclrtStream stream, aclrtEvent event) {
  ENTER();
  if (!static_cast<StubEvent*>(event)->is_recorded) return failed(107000, "never recorded");
  return enqueue(stream, [] {});
}
aclError aclrtLaunchHostFunc(aclrtStream stream, aclrtCallback function, void* user) {
  ENTER();
  return enqueue(stream, [=] { function(user); });
}
aclError aclrtSubscribeReport(uint64_t thread, aclrtStream stream) {
  ENTER();
  if (subscribed.count(reinterpret_cast<uintptr_t>(stream)) != 0) return failed(107011, "subscribed twice");
  subscribed[reinterpret_cast<uintptr_t>(stream)] = static_cast<pthread_t>(thread);
  return 0;
}
aclError aclrtUnSubscribeReport(uint64_t, aclrtStream stream) {
  const std::lock_guard<std::recursive_mutex> lock(mutex);
  subscribed.erase(reinterpret_cast<uintptr_t>(stream));
  return 0;
}
aclError aclrtLaunchCallback(aclrtCallback function, void* user, int block, aclrtStream stream) {
  ENTER();
  if (subscribed.count(reinterpret_cast<uintptr_t>(stream)) == 0) return failed(107015, "not subscribed");
  if (block != 1) return 107000;
  return enqueue(stream, [=] {
    reports.push_back([=] { function(user); });
    reported.notify_all();
  });
}
aclError aclrtProcessReport(int32_t milliseconds) {
  std::unique_lock<std::recursive_mutex> lock(mutex);
  bool is_ours = false;
  for (const auto& [stream, thread] : subscribed) is_ours |= pthread_equal(thread, pthread_self()) != 0;
  if (!is_ours) return 107012;
  if (!reported.wait_for(lock, std::chrono::milliseconds(milliseconds), [] { return !reports.empty(); })) return 507012;
  auto report = std::move(reports.front());
  reports.pop_front();
  lock.unlock();
  report();
  return 0;
}

aclError aclrtCreateEventExWithFlag(aclrtEvent* out, uint32_t flags) {
  ENTER();
  if (flags == 0 || ((flags & 64) != 0 && flags != 64)) return failed(107000, "flags");
  *out = new StubEvent{flags};
  ++values["events"];
  return 0;
}
aclError aclrtDestroyEvent(aclrtEvent event) {
  const std::lock_guard<std::recursive_mutex> lock(mutex);
  delete static_cast<StubEvent*>(event);
  --values["events"];
  return 0;
}
aclError aclrtRecordEvent(aclrtEvent handle, aclrtStream stream) {
  ENTER();
  auto* event = static_cast<StubEvent*>(handle);
  event->is_recorded = true;
  event->is_passed = false;
  return enqueue(stream, [=] { event->is_passed = true; });
}
aclError aclrtSynchronizeEvent(aclrtEvent) {
  ENTER();
  for (StubStream* stream : streams) release(*stream);
  return 0;
}
aclError aclrtQueryEventStatus(aclrtEvent handle, int* status) {
  ENTER();
  auto* event = static_cast<StubEvent*>(handle);
  *status = event->is_passed || !event->is_recorded ? 1 : 0;
  return 0;
}
aclError aclrtEventElapsedTime(float* milliseconds, aclrtEvent start, aclrtEvent) {
  ENTER();
  if (values["reversal"] == reinterpret_cast<long>(start)) return failed(107007, "reversal");
  *milliseconds = 1.5f;
  return 0;
}

aclError aclrtBinaryLoadFromData(const void* data, size_t bytes, const aclrtBinaryLoadOptions* options,
                                 aclrtBinHandle* out) {
  ENTER();
  if (bytes < 4 || std::memcmp(data, "\177ELF", 4) != 0) return failed(107000, "no ELF");
  for (size_t i = 0; i < options->numOpt; ++i) {
    if (options->options[i].type == 2) values["magic"] = options->options[i].value.magic;
  }
  ++values["binaries"];
  *out = new int;
  return 0;
}
aclError aclrtBinaryUnLoad(aclrtBinHandle handle) {
  --values["binaries"];
  delete static_cast<int*>(handle);
  return 0;
}
aclError aclrtBinaryGetFunction(const aclrtBinHandle handle, const char* name, aclrtFuncHandle* out) {
  ENTER();
  if (std::strcmp(name, "kernel") != 0) return failed(507000, "Cannot find kernel by name");
  *out = handle;
  return 0;
}
aclError aclrtLaunchKernelWithHostArgs(aclrtFuncHandle, uint32_t blocks, aclrtStream stream,
                                       aclrtLaunchKernelCfg* config, void* arguments, size_t bytes,
                                       aclrtPlaceHolderInfo*, size_t) {
  ENTER();
  if (arguments == nullptr) return failed(100000, "hostArgs is null");
  values["blocks"] = blocks;
  values["scratch"] = config == nullptr ? 0 : config->attrs[0].value.dynUBufSize;
  last_arguments.assign(static_cast<const char*>(arguments), bytes);
  return enqueue(stream, [] { ++values["launches"]; });
}
aclError aclrtGetHardwareSyncAddr(void** out) {
  ENTER();
  *out = reinterpret_cast<void*>(0xff7500);
  return 0;
}

aclError aclmdlRICaptureBegin(aclrtStream handle, int mode) {
  ENTER();
  if (mode != 2) return 107000;
  static_cast<StubStream*>(handle)->recording = 1;
  recorded = new StubGraph;
  return 0;
}
aclError aclmdlRICaptureEnd(aclrtStream handle, aclmdlRI* out) {
  ENTER();
  if (static_cast<StubStream*>(handle)->recording == 0) return failed(107029, "not captured");
  static_cast<StubStream*>(handle)->recording = 0;
  *out = std::exchange(recorded, nullptr);
  ++values["graphs"];
  return 0;
}
aclError aclmdlRICaptureGetInfo(aclrtStream handle, int* state, aclmdlRI* graph) {
  const bool records = static_cast<StubStream*>(handle)->recording != 0;
  *state = records ? 1 : 0;
  *graph = records ? recorded : nullptr;
  return 0;
}
aclError aclmdlRICaptureThreadExchangeMode(int* mode) {
  thread_local int own = 0;
  std::swap(own, *mode);
  values["mode"] = own;
  return 0;
}
aclError aclmdlRIExecuteAsync(aclmdlRI graph, aclrtStream stream) {
  ENTER();
  return enqueue(stream, [=] {
    for (const auto& task : static_cast<StubGraph*>(graph)->tasks) task();
  });
}
aclError aclmdlRIDestroy(aclmdlRI graph) {
  ENTER();
  for (const StubStream* stream : streams) values["destroy_waits"] += !stream->tasks.empty();
  delete static_cast<StubGraph*>(graph);
  --values["graphs"];
  return 0;
}

aclError aclrtDeviceCanAccessPeer(int32_t* can, int32_t device, int32_t peer) {
  ENTER();
  *can = device != peer && values["apart"] == 0 ? 1 : 0;
  return 0;
}
aclError aclrtDeviceEnablePeerAccess(int32_t peer, uint32_t flags) {
  ENTER();
  if (flags != 0 || peer == current->device) return 100000;
  values["open:" + std::to_string(current->device) + std::to_string(peer)] += 1;
  return 0;
}
aclError aclrtIpcMemGetExportKey(void* memory, size_t bytes, char* key, size_t room, uint64_t flags) {
  ENTER();
  if (device_memory.count(memory) == 0 || device_memory[memory] < bytes || room < 65 || flags != 1) return 107000;
  std::snprintf(key, room, "key-%zu", bytes);
  ++values["exports"];
  return 0;
}
aclError aclrtIpcMemImportByKey(void** out, const char* key, uint64_t) {
  ENTER();
  if (std::strncmp(key, "key-", 4) != 0) return failed(507022, "no such key");
  *out = reinterpret_cast<void*>(0x1000);
  return 0;
}
aclError aclrtIpcMemClose(const char* key) {
  values["closed"] = std::atoi(key + 4);
  ++values["closes"];
  return 0;
}
aclError aclrtIpcGetEventHandle(aclrtEvent event, aclrtIpcEventHandle* out) {
  if (static_cast<StubEvent*>(event)->flags != 64) return 107000;
  std::memset(out, 7, sizeof *out);
  return 0;
}
aclError aclrtIpcOpenEventHandle(aclrtIpcEventHandle handle, aclrtEvent* out) {
  if (handle.reserved[63] != 7) return 107000;
  return aclrtCreateEventExWithFlag(out, 64);
}
}
