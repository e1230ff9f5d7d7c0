// The simulated driver under many threads, by dlopen as a program would: for the sanitizers.
//   stress LIBRARY IMAGE     IMAGE: a file with the kernel `add`: adds 1 to each float of its first parameter
#include <dlfcn.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "simulator/cuda/cuda_types.h"

#define CHECK(condition)                                                             \
  do {                                                                               \
    if (!(condition)) {                                                              \
      std::fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                                  \
    }                                                                                \
  } while (false)
#define OK(call) CHECK((call) == CUDA_SUCCESS)

namespace {

void* library = nullptr;

// A function of the driver, asked for by its name as cuda.h has it.
template <typename... Parameters>
auto find(const char* name) {
  using Get = CUresult (*)(const char*, void**, int, uint64_t, CUdriverProcAddressQueryResult*);
  static const auto get = reinterpret_cast<Get>(dlsym(library, "cuGetProcAddress_v2"));
  void* function = nullptr;
  OK(get(name, &function, 13000, 0, nullptr));
  return reinterpret_cast<CUresult (*)(Parameters...)>(function);
}

constexpr size_t kCount = 1000;
std::vector<char> image;

struct Worker {
  const decltype(find<CUcontext>("")) set_current = find<CUcontext>("cuCtxSetCurrent");
  const decltype(find<CUdeviceptr*, size_t>("")) allocate = find<CUdeviceptr*, size_t>("cuMemAlloc");
  const decltype(find<CUdeviceptr>("")) release = find<CUdeviceptr>("cuMemFree");
  const decltype(find<CUdeviceptr, unsigned, size_t, CUstream>("")) fill =
      find<CUdeviceptr, unsigned, size_t, CUstream>("cuMemsetD32Async");
  const decltype(find<CUdeviceptr, CUdeviceptr, size_t, CUstream>("")) copy =
      find<CUdeviceptr, CUdeviceptr, size_t, CUstream>("cuMemcpyAsync");
  const decltype(find<CUstream*, unsigned, int>("")) make_stream =
      find<CUstream*, unsigned, int>("cuStreamCreateWithPriority");
  const decltype(find<CUstream>("")) destroy_stream = find<CUstream>("cuStreamDestroy");
  const decltype(find<CUstream>("")) synchronize = find<CUstream>("cuStreamSynchronize");
  const decltype(find<CUstream, CUevent, unsigned>("")) wait = find<CUstream, CUevent, unsigned>("cuStreamWaitEvent");
  const decltype(find<CUevent*, unsigned>("")) make_event = find<CUevent*, unsigned>("cuEventCreate");
  const decltype(find<CUevent, CUstream>("")) record = find<CUevent, CUstream>("cuEventRecord");
  const decltype(find<CUevent>("")) destroy_event = find<CUevent>("cuEventDestroy");
  const decltype(find<CUstream, CUhostFn, void*>("")) call = find<CUstream, CUhostFn, void*>("cuLaunchHostFunc");
  const decltype(find<CUmodule*, const void*, unsigned, CUjit_option*, void**>("")) load =
      find<CUmodule*, const void*, unsigned, CUjit_option*, void**>("cuModuleLoadDataEx");
  const decltype(find<CUmodule>("")) unload = find<CUmodule>("cuModuleUnload");
  const decltype(find<CUfunction*, CUmodule, const char*>("")) get =
      find<CUfunction*, CUmodule, const char*>("cuModuleGetFunction");
  const decltype(find<const CUlaunchConfig*, CUfunction, void**, void**>("")) launch =
      find<const CUlaunchConfig*, CUfunction, void**, void**>("cuLaunchKernelEx");
  const decltype(find<CUstream, CUstreamCaptureMode>("")) begin =
      find<CUstream, CUstreamCaptureMode>("cuStreamBeginCapture");
  const decltype(find<CUstream, CUgraph*>("")) end = find<CUstream, CUgraph*>("cuStreamEndCapture");
  const decltype(find<CUgraphExec*, CUgraph, unsigned long long>("")) instantiate =
      find<CUgraphExec*, CUgraph, unsigned long long>("cuGraphInstantiateWithFlags");
  const decltype(find<CUgraphExec, CUstream>("")) launch_graph = find<CUgraphExec, CUstream>("cuGraphLaunch");
  const decltype(find<CUgraphExec>("")) destroy_exec = find<CUgraphExec>("cuGraphExecDestroy");
  const decltype(find<CUgraph>("")) destroy_graph = find<CUgraph>("cuGraphDestroy");

  void add(CUfunction function, CUdeviceptr data, CUstream stream) const {
    CUlaunchConfig config{kCount, 1, 1, 128, 1, 1, 0, stream, nullptr, 0};
    void* parameters[] = {&data};
    OK(launch(&config, function, parameters, nullptr));
  }

  // Fills on one stream, adds on another, replays a graph of both, and looks at what came of it.
  void turn(CUfunction function) const {
    CUstream first = nullptr;
    CUstream second = nullptr;
    CUevent event = nullptr;
    CUevent back = nullptr;
    CUdeviceptr data = 0;
    OK(make_stream(&first, CU_STREAM_NON_BLOCKING, 0));
    OK(make_stream(&second, CU_STREAM_NON_BLOCKING, -1));
    OK(make_event(&event, CU_EVENT_DISABLE_TIMING));
    OK(make_event(&back, 0));
    OK(allocate(&data, kCount * sizeof(float)));
    const auto work = [&] {
      OK(fill(data, 0, kCount, first));
      OK(record(event, first));
      OK(wait(second, event, 0));
      add(function, data, second);
      OK(record(back, second));
      OK(wait(first, back, 0));
      add(function, data, first);
    };
    work();
    CUgraph graph = nullptr;
    CUgraphExec exec = nullptr;
    OK(synchronize(first));
    OK(begin(first, CU_STREAM_CAPTURE_MODE_RELAXED));
    work();
    OK(end(first, &graph));
    OK(instantiate(&exec, graph, 0));
    for (int i = 0; i < 3; ++i) OK(launch_graph(exec, first));
    add(function, data, first);
    std::atomic<int> calls{0};
    OK(call(first, [](void* counter) { ++*static_cast<std::atomic<int>*>(counter); }, &calls));
    std::vector<float> out(kCount);
    OK(copy(reinterpret_cast<uintptr_t>(out.data()), data, kCount * sizeof(float), first));
    CHECK(calls == 1);
    for (const float value : out) CHECK(value == 3);
    OK(destroy_exec(exec));
    OK(destroy_graph(graph));
    OK(release(data));
    OK(destroy_event(event));
    OK(destroy_event(back));
    OK(destroy_stream(first));
    OK(destroy_stream(second));
  }

  void run(CUcontext context) const {
    OK(set_current(context));
    CUmodule module = nullptr;
    CUfunction function = nullptr;
    OK(load(&module, image.data(), 0, nullptr, nullptr));
    OK(get(&function, module, "add"));
    for (int i = 0; i < 10; ++i) turn(function);
    OK(unload(module));
  }
};

// Kernels whose pointer leads nowhere, resets, and work of others in between.
void fault_and_reset(int device) {
  const Worker worker;
  const auto retain = find<CUcontext*, CUdevice>("cuDevicePrimaryCtxRetain");
  const auto reset = find<CUdevice>("cuDevicePrimaryCtxReset");
  for (int i = 0; i < 5; ++i) {
    CUcontext context = nullptr;
    OK(retain(&context, device));
    OK(worker.set_current(context));
    CUmodule module = nullptr;
    CUfunction function = nullptr;
    OK(worker.load(&module, image.data(), 0, nullptr, nullptr));
    OK(worker.get(&function, module, "add"));
    worker.add(function, 64, nullptr);
    CHECK(worker.synchronize(nullptr) == CUDA_ERROR_ILLEGAL_ADDRESS);
    CHECK(worker.unload(module) == CUDA_ERROR_ILLEGAL_ADDRESS);
    OK(reset(device));
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
      reinterpret_cast<int (*)(int, int, uint64_t, const char*)>(dlsym(library, "unify_simulator_configure"));
  CHECK(configure(3, 90, uint64_t{64} << 20, nullptr) == 0);
  OK(find<unsigned>("cuInit")(0));
  CUcontext contexts[2] = {};
  for (int i = 0; i < 2; ++i) OK((find<CUcontext*, CUdevice>("cuDevicePrimaryCtxRetain")(&contexts[i], i)));
  std::vector<std::thread> threads;
  for (int i = 0; i < 16; ++i) threads.emplace_back([&, i] { Worker().run(contexts[i % 2]); });
  threads.emplace_back([] { fault_and_reset(2); });
  for (std::thread& thread : threads) thread.join();
  const auto live = reinterpret_cast<int64_t (*)(int, const char*)>(dlsym(library, "unify_simulator_live"));
  for (const char* kind : {"bytes", "allocations", "streams", "events", "modules", "graphs", "graph_execs"}) {
    for (int device = 0; device < 3; ++device) CHECK(live(device, kind) == 0);
  }
  std::puts("well");
  return 0;
}
