// The simulated CUDA driver under many threads: see stress.h. The kernel's data is its first parameter.
#include "stress.h"

#include "simulator/cuda/cuda_types.h"

#define OK(call) CHECK((call) == CUDA_SUCCESS)

namespace {

// A function of the driver, asked for by its name as cuda.h has it.
template <typename... Parameters>
auto find(const char* name) {
  using Get = CUresult (*)(const char*, void**, int, uint64_t, CUdriverProcAddressQueryResult*);
  static const auto get = reinterpret_cast<Get>(dlsym(library, "cuGetProcAddress_v2"));
  void* function = nullptr;
  OK(get(name, &function, 13000, 0, nullptr));
  return reinterpret_cast<CUresult (*)(Parameters...)>(function);
}
#define FUNCTION(name, ...) const decltype(find<__VA_ARGS__>("")) name = find<__VA_ARGS__>(#name)

CUcontext contexts[2] = {};

struct Module {
  CUmodule handle = nullptr;
  CUfunction function = nullptr;
};
struct Graph {
  CUgraph recorded = nullptr;
  CUgraphExec exec = nullptr;
};

struct Cuda {
  static constexpr const char* kAlsoGone = "graph_execs";

  FUNCTION(cuCtxSetCurrent, CUcontext);
  FUNCTION(cuDevicePrimaryCtxRetain, CUcontext*, CUdevice);
  FUNCTION(cuDevicePrimaryCtxReset, CUdevice);
  FUNCTION(cuMemAlloc, CUdeviceptr*, size_t);
  FUNCTION(cuMemFree, CUdeviceptr);
  FUNCTION(cuMemsetD32Async, CUdeviceptr, unsigned, size_t, CUstream);
  FUNCTION(cuMemcpyAsync, CUdeviceptr, CUdeviceptr, size_t, CUstream);
  FUNCTION(cuStreamCreateWithPriority, CUstream*, unsigned, int);
  FUNCTION(cuStreamDestroy, CUstream);
  FUNCTION(cuStreamSynchronize, CUstream);
  FUNCTION(cuStreamWaitEvent, CUstream, CUevent, unsigned);
  FUNCTION(cuEventCreate, CUevent*, unsigned);
  FUNCTION(cuEventRecord, CUevent, CUstream);
  FUNCTION(cuEventDestroy, CUevent);
  FUNCTION(cuLaunchHostFunc, CUstream, CUhostFn, void*);
  FUNCTION(cuModuleLoadDataEx, CUmodule*, const void*, unsigned, CUjit_option*, void**);
  FUNCTION(cuModuleUnload, CUmodule);
  FUNCTION(cuModuleGetFunction, CUfunction*, CUmodule, const char*);
  FUNCTION(cuLaunchKernelEx, const CUlaunchConfig*, CUfunction, void**, void**);
  FUNCTION(cuStreamBeginCapture, CUstream, CUstreamCaptureMode);
  FUNCTION(cuStreamEndCapture, CUstream, CUgraph*);
  FUNCTION(cuGraphInstantiateWithFlags, CUgraphExec*, CUgraph, unsigned long long);
  FUNCTION(cuGraphLaunch, CUgraphExec, CUstream);
  FUNCTION(cuGraphExecDestroy, CUgraphExec);
  FUNCTION(cuGraphDestroy, CUgraph);

  static void configure() {
    const auto set =
        reinterpret_cast<int (*)(int, int, uint64_t, const char*)>(dlsym(library, "unify_simulator_configure"));
    CHECK(set(3, 90, uint64_t{64} << 20, nullptr) == 0);
    OK(find<unsigned>("cuInit")(0));
    for (int i = 0; i < 2; ++i) OK((find<CUcontext*, CUdevice>("cuDevicePrimaryCtxRetain")(&contexts[i], i)));
  }

  void use(int device) const { OK(cuCtxSetCurrent(contexts[device])); }
  void leave(int) const {}
  Module load() const {
    Module module;
    OK(cuModuleLoadDataEx(&module.handle, image.data(), 0, nullptr, nullptr));
    OK(cuModuleGetFunction(&module.function, module.handle, "add"));
    return module;
  }
  void unload(const Module& module) const { OK(cuModuleUnload(module.handle)); }
  CUstream make_stream(int number) const {
    CUstream stream = nullptr;
    OK(cuStreamCreateWithPriority(&stream, CU_STREAM_NON_BLOCKING, -number));
    return stream;
  }
  CUevent make_event(int number) const {
    CUevent event = nullptr;
    OK(cuEventCreate(&event, number == 0 ? unsigned{CU_EVENT_DISABLE_TIMING} : 0));
    return event;
  }
  CUdeviceptr allocate() const {
    CUdeviceptr data = 0;
    OK(cuMemAlloc(&data, kBytes));
    return data;
  }
  void fill(CUdeviceptr data, CUstream stream) const { OK(cuMemsetD32Async(data, 0, kCount, stream)); }
  void record(CUevent event, CUstream stream) const { OK(cuEventRecord(event, stream)); }
  void wait(CUstream stream, CUevent event) const { OK(cuStreamWaitEvent(stream, event, 0)); }
  void add(const Module& module, CUdeviceptr data, CUstream stream) const {
    CUlaunchConfig config{kCount, 1, 1, 128, 1, 1, 0, stream, nullptr, 0};
    void* parameters[] = {&data};
    OK(cuLaunchKernelEx(&config, module.function, parameters, nullptr));
  }
  void synchronize(CUstream stream) const { OK(cuStreamSynchronize(stream)); }
  void begin(CUstream stream) const { OK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED)); }
  Graph end(CUstream stream) const {
    Graph graph;
    OK(cuStreamEndCapture(stream, &graph.recorded));
    OK(cuGraphInstantiateWithFlags(&graph.exec, graph.recorded, 0));
    return graph;
  }
  void launch(const Graph& graph, CUstream stream) const { OK(cuGraphLaunch(graph.exec, stream)); }
  void call(CUstream stream, CUhostFn function, void* user) const { OK(cuLaunchHostFunc(stream, function, user)); }
  std::vector<float> read(CUdeviceptr data, CUstream stream) const {
    std::vector<float> out(kCount);  // of pageable memory: the copy waits
    OK(cuMemcpyAsync(reinterpret_cast<uintptr_t>(out.data()), data, kBytes, stream));
    return out;
  }
  void destroy(const Graph& graph) const {
    OK(cuGraphExecDestroy(graph.exec));
    OK(cuGraphDestroy(graph.recorded));
  }
  void destroy(CUdeviceptr data) const { OK(cuMemFree(data)); }
  void destroy(CUevent event) const { OK(cuEventDestroy(event)); }
  void destroy(CUstream stream) const { OK(cuStreamDestroy(stream)); }

  // Kernels whose pointer leads nowhere, and resets.
  void fault_and_reset(int device) const {
    for (int i = 0; i < 5; ++i) {
      CUcontext context = nullptr;
      OK(cuDevicePrimaryCtxRetain(&context, device));
      OK(cuCtxSetCurrent(context));
      const Module module = load();
      add(module, 64, nullptr);
      CHECK(cuStreamSynchronize(nullptr) == CUDA_ERROR_ILLEGAL_ADDRESS);
      CHECK(cuModuleUnload(module.handle) == CUDA_ERROR_ILLEGAL_ADDRESS);
      OK(cuDevicePrimaryCtxReset(device));
    }
  }
};

}  // namespace

int main(int count, char** arguments) { return stress<Cuda>(count, arguments); }
