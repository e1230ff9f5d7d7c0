// What the files of the CUDA backend share: the driver's functions, its handles, and how a call of the driver ends.
#pragma once

#include <unify/backend.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "answer.h"
#include "cuda_types.h"
#include "stream_work.h"

namespace unify::cuda {

// The functions of cuda_api.inc, filled once when the driver is opened. One that is not required may be null.
struct Driver {
#define API(name, since, required, parameters) CUresult(*name) parameters = nullptr;
#include "cuda_api.inc"
#undef API
};
extern Driver driver;

struct Device {
  CUdevice id = 0;
  int index = 0;
  CUcontext context = nullptr;                // null: not retained, after a reset that failed
  std::atomic<CUresult> fault{CUDA_SUCCESS};  // the sticky code that its context answers with
  std::atomic<bool> is_gone{false};
  StreamCalls calls;
  std::mutex mutex;  // of what follows
  std::unordered_set<std::shared_ptr<struct Stream>> streams;
  std::unordered_map<unify_address, size_t> pinned;  // bytes of each
  // Virtual memory is of no context: neither a reset takes it away, nor does cuCtxEnablePeerAccess open it.
  std::unordered_map<unify_address, size_t> reserved;
  std::unordered_map<unify_address, size_t> committed;
  std::vector<CUdevice> peers;  // that may use this device's memory
};

struct Stream : std::enable_shared_from_this<Stream> {
  ~Stream();  // what is enqueued still runs
  Device* device = nullptr;
  CUstream handle = nullptr;
  bool is_owned = true;
  std::atomic<bool> is_drawn_in{false};  // it waited for work that another library captured, if ever
  WorkCount work;
};

struct Event {
  Device* device = nullptr;
  CUevent handle = nullptr;
};

// One for each of the driver's: what the driver is told of a function holds for all who found it.
struct Function {
  Device* device = nullptr;
  CUfunction handle = nullptr;
  std::mutex mutex;                       // for raising the limit
  std::atomic<uint64_t> shared_limit{0};  // dynamic shared memory that the driver was told of
};

struct Module {
  Device* device = nullptr;
  CUmodule handle = nullptr;
  std::mutex mutex;  // of `functions`
  std::vector<std::unique_ptr<Function>> functions;
};

struct Graph {
  Device* device = nullptr;
  CUgraph graph = nullptr;
  CUgraphExec exec = nullptr;
};

inline Device* of(unify_device device) { return reinterpret_cast<Device*>(device); }
inline Stream* of(unify_stream stream) { return reinterpret_cast<Stream*>(stream); }
inline Event* of(unify_event event) { return reinterpret_cast<Event*>(event); }
inline Module* of(unify_module module) { return reinterpret_cast<Module*>(module); }
inline Function* of(unify_function function) { return reinterpret_cast<Function*>(function); }
inline Graph* of(unify_graph graph) { return reinterpret_cast<Graph*>(graph); }

// ---- errors: cuda_error.cpp ----

// The status of a driver's answer, kept for last_error. A sticky code marks the device as faulted, and may be any
// operation's; any other failure is that of `operation`.
unify_status status_of(Device* device, CUresult code, uint64_t operation = 0);
// A driver's answer where it means something else than usual.
unify_status status_as(unify_status status, CUresult code);
// A refusal of the backend's own.
unify_status refuse(unify_status status, std::string message);
// Adds what is known besides to the failure that was kept last, and returns its status.
unify_status add_to_message(const std::string& text);
void last_error(unify_error* out);

// Makes the device's context the thread's, and puts back whatever the host program had there.
class Entered {
 public:
  explicit Entered(const Device& device) {
    driver.cuThreadExchangeStreamCaptureMode(&mode_);
    driver.cuCtxGetCurrent(&before_);
    if (before_ == device.context) return;
    result_ = driver.cuCtxSetCurrent(device.context);
    is_changed_ = result_ == CUDA_SUCCESS;
  }
  ~Entered() {
    if (is_changed_) driver.cuCtxSetCurrent(before_);
    driver.cuThreadExchangeStreamCaptureMode(&mode_);
  }
  Entered(const Entered&) = delete;
  Entered& operator=(const Entered&) = delete;
  [[nodiscard]] CUresult result() const noexcept { return result_; }

 private:
  CUcontext before_ = nullptr;
  // Elsewhere: torch captures in a mode that allows nobody to allocate or to ask an event.
  int mode_ = CU_STREAM_CAPTURE_MODE_RELAXED;
  CUresult result_ = CUDA_SUCCESS;
  bool is_changed_ = false;
};

// A call of the driver inside of the device's context.
template <typename Call>
unify_status run(Device& device, Call call, uint64_t operation = 0) {
  if (device.context == nullptr) return refuse(UNIFY_DEVICE_LOST, "its last reset failed");
  const Entered entered(device);
  return status_of(&device, entered.result() != CUDA_SUCCESS ? entered.result() : call(), operation);
}

// Whether a stream can be asked and waited for without breaking a capture: not one that is captured, nor the legacy
// stream while one is that orders itself with it. In the device's context.
CUresult find_capture(const Stream& stream, bool& out_can_wait);

// A call of the driver that enqueues a piece of work.
template <typename Call>
unify_status enqueue(Stream& stream, Call call, uint64_t operation = 0) {
  const unify_status status = run(*stream.device, call, operation);
  stream.work.add();
  return status;
}

// A call that waits: what it waits for has ended then, also where it failed.
template <typename Call>
unify_status wait(Device& device, Call call) {
  const unify_status status = run(device, call);
  if (device.fault.load() != CUDA_SUCCESS) device.calls.wait();
  return status;
}

// A call that asks, likewise.
template <typename Call>
unify_status ask(Device& device, Call call) {
  const unify_status status = run(device, call);
  return device.fault.load() != CUDA_SUCCESS && device.calls.are_running() ? UNIFY_NOT_READY : status;
}

// Each file's part of the backend's table.
uint32_t virtual_granularity(const Device& device);  // 0 without virtual memory
void drop_virtual(Device& device);
CUresult open_virtual(Device& device, CUdevice peer);  // its virtual memory, now and later

void add_memory(unify_backend& table);
void add_streams(unify_backend& table);
void add_kernels(unify_backend& table);
void add_graphs(unify_backend& table);
void add_sharing(unify_backend& table);

}  // namespace unify::cuda
