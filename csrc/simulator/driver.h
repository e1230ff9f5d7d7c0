// The state of the simulated driver, and what every call does before its own work.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#include "device.h"
#include "memory.h"
#include "registry.h"
#include "stream.h"

namespace unify::simulator {

struct Module;
struct Function;
struct Graph;
struct GraphExec;

constexpr int kDriverVersion = 13000;

struct Settings {
  int count = 1;
  int capability = 90;
  uint64_t memory_bytes = uint64_t{1} << 30;
  std::string name;  // empty: the chip's
};

struct Driver {
  std::mutex mutex;                  // of everything below and all that hangs on it
  std::condition_variable progress;  // work was done, or a context is over

  Settings settings;
  Memory memory;
  std::vector<std::unique_ptr<Device>> devices;  // empty until they are needed
  std::vector<std::unique_ptr<Device>> retired;  // of an earlier configuration: threads may still look at them
  Registry<Stream> streams{0x51000000};
  Registry<Event> events{0xe1000000};
  Registry<Module> modules{0x31000000};
  Registry<Function> functions{0xf1000000};
  Registry<Graph> graphs{0x61000000};
  Registry<GraphExec> graph_execs{0x71000000};
  Registry<Block> blocks{0xb1000000};  // cuMemCreate
  std::vector<std::shared_ptr<Capture>> captures;
};

// Never destroyed: threads of streams may run when the process ends.
Driver& driver();

// CUDA_SUCCESS, or what every call returns: in the child of a fork, while the process ends, in a host function, before
// cuInit.
CUresult availability(bool needs_init) noexcept;
CUresult initialize(unsigned flags);

// A call on its way: the mutex is held, and the faults that it is due are known.
struct Call {
  const char* name;
  Lock lock;
  std::shared_ptr<Context> context;  // of the stream if there is one, else the current one; null if none is needed
  Fault fault;                       // for the work that the call enqueues
};

// With the mutex: makes the devices that the settings ask for, and takes them away again.
void make_devices();
void retire_devices();

Device* find_device(CUdevice device);
Device* find_device(CUcontext context);
// The current context of this thread, or why there is none.
CUresult current_context(std::shared_ptr<Context>& out);
CUcontext current_handle() noexcept;
void set_current_handle(CUcontext context) noexcept;

// The checks of a call: of its context's health, and the faults planned for it.
CUresult admit(Call& call, const std::shared_ptr<Context>& context);
CUresult find_stream(CUstream handle, std::shared_ptr<Stream>& out);

// Appends an operation to a stream, or to the graph that it captures.
CUresult submit(Call& call, Stream& stream, Operation operation, std::vector<MarkPtr> after = {});

// Runs `work()`, whose std::bad_alloc becomes a result: no exception leaves a C function.
template <typename Work>
CUresult guarded(Work&& work) {
  try {
    return work();
  } catch (const std::bad_alloc&) {
    return CUDA_ERROR_OUT_OF_MEMORY;
  } catch (const std::exception&) {
    return CUDA_ERROR_UNKNOWN;
  }
}

// A call that needs the driver alone. `work(call)` is its own part.
template <typename Work>
CUresult with_driver(const char* name, Work&& work) {
  if (const CUresult result = availability(true); result != CUDA_SUCCESS) return result;
  return guarded([&] {
    Call call{name, Lock(driver().mutex), nullptr, {}};
    return work(call);
  });
}

// A call that needs a current context.
template <typename Work>
CUresult with_context(const char* name, Work&& work) {
  return with_driver(name, [&](Call& call) {
    std::shared_ptr<Context> context;
    if (const CUresult result = current_context(context); result != CUDA_SUCCESS) return result;
    if (const CUresult result = admit(call, context); result != CUDA_SUCCESS) return result;
    return work(call);
  });
}

// A call on a stream: `work(call, stream)`. The current context matters for the default streams only.
template <typename Work>
CUresult with_stream(const char* name, CUstream handle, Work&& work) {
  return with_driver(name, [&](Call& call) {
    std::shared_ptr<Stream> stream;
    if (const CUresult result = find_stream(handle, stream); result != CUDA_SUCCESS) return result;
    if (const CUresult result = admit(call, stream->context); result != CUDA_SUCCESS) return result;
    return work(call, *stream);
  });
}

}  // namespace unify::simulator
