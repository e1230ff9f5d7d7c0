// The simulated ACL under many threads: see ../stress.h. The kernel's data is args[3].
#include "../stress.h"

#include "simulator/ascend/acl.h"

#define OK(call) CHECK((call) == ACL_SUCCESS)
#define FUNCTION(name) decltype(&::name) name = reinterpret_cast<decltype(&::name)>(dlsym(library, #name))

namespace {

struct Module {
  aclrtBinHandle handle = nullptr;
  aclrtFuncHandle function = nullptr;
};
// ACL's handles are all void*; these tell them apart.
struct Stream {
  aclrtStream handle = nullptr;
};
struct Event {
  aclrtEvent handle = nullptr;
};
struct Graph {
  aclmdlRI handle = nullptr;
};
struct Data {
  void* address = nullptr;
};

struct Acl {
  static constexpr const char* kAlsoGone = "retained";

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

  static void configure() {
    const auto set = reinterpret_cast<int (*)(int, const char*, uint64_t)>(dlsym(library, "unify_simulator_configure"));
    CHECK(set(3, "910B3", uint64_t{64} << 20) == 0);
  }

  void use(int device) const { OK(aclrtSetDevice(device)); }
  void leave(int device) const { OK(aclrtResetDevice(device)); }
  Module load() const {
    Module module;
    OK(aclrtBinaryLoadFromData(image.data(), image.size(), nullptr, &module.handle));
    OK(aclrtBinaryGetFunction(module.handle, "add", &module.function));
    return module;
  }
  void unload(const Module& module) const { OK(aclrtBinaryUnLoad(module.handle)); }
  Stream make_stream(int) const {
    Stream stream;
    OK(aclrtCreateStreamWithConfig(&stream.handle, 0, ACL_STREAM_FAST_LAUNCH | ACL_STREAM_FAST_SYNC));
    return stream;
  }
  Event make_event(int) const {
    Event event;
    OK(aclrtCreateEventExWithFlag(&event.handle, ACL_EVENT_SYNC));
    return event;
  }
  Data allocate() const {
    Data data;
    OK(aclrtMalloc(&data.address, kBytes, ACL_MEM_MALLOC_HUGE_FIRST));
    return data;
  }
  void fill(Data data, Stream stream) const { OK(aclrtMemsetAsync(data.address, kBytes, 0, kBytes, stream.handle)); }
  void record(Event event, Stream stream) const { OK(aclrtRecordEvent(event.handle, stream.handle)); }
  void wait(Stream stream, Event event) const { OK(aclrtStreamWaitEvent(stream.handle, event.handle)); }
  void add(const Module& module, Data data, Stream stream) const {
    const void* args[4] = {nullptr, nullptr, nullptr, data.address};
    OK(aclrtLaunchKernelWithHostArgs(module.function, kCount, stream.handle, nullptr, static_cast<void*>(args),
                                     sizeof args, nullptr, 0));
  }
  void synchronize(Stream stream) const { OK(aclrtSynchronizeStream(stream.handle)); }
  void begin(Stream stream) const { OK(aclmdlRICaptureBegin(stream.handle, ACL_MODEL_RI_CAPTURE_MODE_RELAXED)); }
  Graph end(Stream stream) const {
    Graph graph;
    OK(aclmdlRICaptureEnd(stream.handle, &graph.handle));
    return graph;
  }
  void launch(Graph graph, Stream stream) const { OK(aclmdlRIExecuteAsync(graph.handle, stream.handle)); }
  void call(Stream stream, aclrtHostFunc function, void* user) const {
    OK(aclrtLaunchHostFunc(stream.handle, function, user));
  }
  std::vector<float> read(Data data, Stream stream) const {
    void* pinned = nullptr;
    OK(aclrtMallocHost(&pinned, kBytes));
    OK(aclrtMemcpyAsync(pinned, kBytes, data.address, kBytes, ACL_MEMCPY_DEVICE_TO_HOST, stream.handle));
    OK(aclrtSynchronizeStream(stream.handle));
    const auto* values = static_cast<const float*>(pinned);
    const std::vector<float> out(values, values + kCount);
    OK(aclrtFreeHost(pinned));
    return out;
  }
  void destroy(Graph graph) const { OK(aclmdlRIDestroy(graph.handle)); }
  void destroy(Data data) const { OK(aclrtFree(data.address)); }
  void destroy(Event event) const { OK(aclrtDestroyEvent(event.handle)); }
  void destroy(Stream stream) const { OK(aclrtDestroyStream(stream.handle)); }

  // Kernels whose pointer leads nowhere, aborts and resets.
  void fault_and_reset(int device) const {
    for (int i = 0; i < 5; ++i) {
      OK(aclrtSetDevice(device));
      const Module module = load();
      const Stream stream = make_stream(0);
      const Data nowhere{reinterpret_cast<void*>(64)};
      add(module, nowhere, stream);
      CHECK(aclrtSynchronizeStream(stream.handle) == ACL_ERROR_RT_AICORE_EXCEPTION);
      CHECK(std::string(aclGetRecentErrMsg()).find("fault kernel_name=add") != std::string::npos);
      synchronize(stream);
      OK(aclrtSetStreamFailureMode(stream.handle, ACL_STOP_ON_FAILURE));
      add(module, nowhere, stream);
      CHECK(aclrtSynchronizeStream(stream.handle) == ACL_ERROR_RT_AICORE_EXCEPTION);
      CHECK(aclrtSynchronizeStream(stream.handle) == ACL_ERROR_RT_AICORE_EXCEPTION);
      OK(aclrtDeviceTaskAbort(device, 0));
      synchronize(stream);
      OK(aclrtResetDeviceForce(device));
    }
  }
};

}  // namespace

int main(int count, char** arguments) { return stress<Acl>(count, arguments); }
