// The simulated ACL under many threads, by dlopen as a program would: for the sanitizers.
//   stress LIBRARY IMAGE     IMAGE: a file with the kernel `add`: adds 1 to each float of args[3]
#include <dlfcn.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "simulator/ascend/acl.h"

#define CHECK(condition)                                                             \
  do {                                                                               \
    if (!(condition)) {                                                              \
      std::fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                                  \
    }                                                                                \
  } while (false)
#define OK(call) CHECK((call) == ACL_SUCCESS)
#define FUNCTION(name) decltype(&::name) name = reinterpret_cast<decltype(&::name)>(dlsym(library, #name))

namespace {

void* library = nullptr;
std::vector<char> image;
constexpr uint32_t kCount = 1000;
constexpr size_t kBytes = kCount * sizeof(float);

struct Worker {
  FUNCTION(aclrtSetDevice);
  FUNCTION(aclrtResetDevice);
  FUNCTION(aclrtMalloc);
  FUNCTION(aclrtFree);
  FUNCTION(aclrtMallocHost);
  FUNCTION(aclrtFreeHost);
  FUNCTION(aclrtMemsetAsync);
  FUNCTION(aclrtMemcpyAsync);
  FUNCTION(aclrtCreateStreamWithConfig);
  FUNCTION(aclrtDestroyStream);
  FUNCTION(aclrtSynchronizeStream);
  FUNCTION(aclrtStreamWaitEvent);
  FUNCTION(aclrtCreateEventExWithFlag);
  FUNCTION(aclrtDestroyEvent);
  FUNCTION(aclrtRecordEvent);
  FUNCTION(aclrtLaunchHostFunc);
  FUNCTION(aclrtBinaryLoadFromData);
  FUNCTION(aclrtBinaryGetFunction);
  FUNCTION(aclrtBinaryUnLoad);
  FUNCTION(aclrtLaunchKernelWithHostArgs);
  FUNCTION(aclmdlRICaptureBegin);
  FUNCTION(aclmdlRICaptureEnd);
  FUNCTION(aclmdlRIExecuteAsync);
  FUNCTION(aclmdlRIDestroy);
  FUNCTION(aclrtDeviceTaskAbort);
  FUNCTION(aclrtResetDeviceForce);
  FUNCTION(aclrtSetStreamFailureMode);
  FUNCTION(aclGetRecentErrMsg);

  aclrtFuncHandle load(aclrtBinHandle& binary) const {
    aclrtFuncHandle function = nullptr;
    OK(aclrtBinaryLoadFromData(image.data(), image.size(), nullptr, &binary));
    OK(aclrtBinaryGetFunction(binary, "add", &function));
    return function;
  }

  void add(aclrtFuncHandle function, void* data, aclrtStream stream) const {
    const void* args[4] = {nullptr, nullptr, nullptr, data};
    OK(aclrtLaunchKernelWithHostArgs(function, kCount, stream, nullptr, static_cast<void*>(args), sizeof args, nullptr,
                                     0));
  }

  // Fills on one stream, adds on another, replays a graph of both, and looks at what came of it.
  void turn(aclrtFuncHandle function) const {
    aclrtStream first = nullptr;
    aclrtStream second = nullptr;
    aclrtEvent event = nullptr;
    aclrtEvent back = nullptr;
    void* data = nullptr;
    void* host = nullptr;
    OK(aclrtCreateStreamWithConfig(&first, 0, ACL_STREAM_FAST_LAUNCH | ACL_STREAM_FAST_SYNC));
    OK(aclrtCreateStreamWithConfig(&second, 0, ACL_STREAM_FAST_LAUNCH | ACL_STREAM_FAST_SYNC));
    OK(aclrtCreateEventExWithFlag(&event, ACL_EVENT_SYNC));
    OK(aclrtCreateEventExWithFlag(&back, ACL_EVENT_SYNC));
    OK(aclrtMalloc(&data, kBytes, ACL_MEM_MALLOC_HUGE_FIRST));
    OK(aclrtMallocHost(&host, kBytes));
    const auto work = [&] {
      OK(aclrtMemsetAsync(data, kBytes, 0, kBytes, first));
      OK(aclrtRecordEvent(event, first));
      OK(aclrtStreamWaitEvent(second, event));
      add(function, data, second);
      OK(aclrtRecordEvent(back, second));
      OK(aclrtStreamWaitEvent(first, back));
      add(function, data, first);
    };
    work();
    aclmdlRI graph = nullptr;
    OK(aclrtSynchronizeStream(first));
    OK(aclmdlRICaptureBegin(first, ACL_MODEL_RI_CAPTURE_MODE_RELAXED));
    work();
    OK(aclmdlRICaptureEnd(first, &graph));
    for (int i = 0; i < 3; ++i) OK(aclmdlRIExecuteAsync(graph, first));
    add(function, data, first);
    std::atomic<int> calls{0};
    OK(aclrtLaunchHostFunc(first, [](void* counter) { ++*static_cast<std::atomic<int>*>(counter); }, &calls));
    OK(aclrtMemcpyAsync(host, kBytes, data, kBytes, ACL_MEMCPY_DEVICE_TO_HOST, first));
    OK(aclrtSynchronizeStream(first));
    CHECK(calls == 1);
    for (uint32_t i = 0; i < kCount; ++i) CHECK(static_cast<float*>(host)[i] == 3);
    OK(aclmdlRIDestroy(graph));
    OK(aclrtFree(data));
    OK(aclrtFreeHost(host));
    OK(aclrtDestroyEvent(event));
    OK(aclrtDestroyEvent(back));
    OK(aclrtDestroyStream(first));
    OK(aclrtDestroyStream(second));
  }

  void run(int32_t device) const {
    OK(aclrtSetDevice(device));
    aclrtBinHandle binary = nullptr;
    const aclrtFuncHandle function = load(binary);
    for (int i = 0; i < 10; ++i) turn(function);
    OK(aclrtBinaryUnLoad(binary));
    OK(aclrtResetDevice(device));
  }
};

// Kernels whose pointer leads nowhere, aborts, resets, and work of others in between.
void fault_and_reset(int32_t device) {
  const Worker worker;
  for (int i = 0; i < 5; ++i) {
    OK(worker.aclrtSetDevice(device));
    aclrtBinHandle binary = nullptr;
    const aclrtFuncHandle function = worker.load(binary);
    aclrtStream stream = nullptr;
    OK(worker.aclrtCreateStreamWithConfig(&stream, 0, ACL_STREAM_FAST_LAUNCH | ACL_STREAM_FAST_SYNC));
    worker.add(function, reinterpret_cast<void*>(64), stream);
    CHECK(worker.aclrtSynchronizeStream(stream) == ACL_ERROR_RT_AICORE_EXCEPTION);
    CHECK(std::string(worker.aclGetRecentErrMsg()).find("fault kernel_name=add") != std::string::npos);
    OK(worker.aclrtSynchronizeStream(stream));
    OK(worker.aclrtSetStreamFailureMode(stream, ACL_STOP_ON_FAILURE));
    worker.add(function, reinterpret_cast<void*>(64), stream);
    CHECK(worker.aclrtSynchronizeStream(stream) == ACL_ERROR_RT_AICORE_EXCEPTION);
    CHECK(worker.aclrtSynchronizeStream(stream) == ACL_ERROR_RT_AICORE_EXCEPTION);
    OK(worker.aclrtDeviceTaskAbort(device, 0));
    OK(worker.aclrtSynchronizeStream(stream));
    OK(worker.aclrtResetDeviceForce(device));
  }
}

}  // namespace

int main(int count, char** arguments) {
  CHECK(count == 3);
  library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) std::fprintf(stderr, "%s\n", dlerror());
  CHECK(library != nullptr);
  std::ifstream file(arguments[2], std::ios::binary);
  image.assign(std::istreambuf_iterator<char>(file), {});
  CHECK(!image.empty());
  const auto configure =
      reinterpret_cast<int (*)(int, const char*, uint64_t)>(dlsym(library, "unify_simulator_configure"));
  CHECK(configure(3, "910B3", uint64_t{64} << 20) == 0);
  std::vector<std::thread> threads;
  for (int i = 0; i < 16; ++i) threads.emplace_back([i] { Worker().run(i % 2); });
  threads.emplace_back([] { fault_and_reset(2); });
  for (std::thread& thread : threads) thread.join();
  const auto live = reinterpret_cast<int64_t (*)(int, const char*)>(dlsym(library, "unify_simulator_live"));
  for (const char* kind : {"bytes", "allocations", "streams", "events", "modules", "graphs", "retained"}) {
    for (int device = 0; device < 3; ++device) CHECK(live(device, kind) == 0);
  }
  std::puts("well");
  return 0;
}
