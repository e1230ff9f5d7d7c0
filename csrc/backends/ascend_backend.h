// What the files of the Ascend backend share: ACL's functions, its handles, and how a call of ACL ends.
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
#include <utility>
#include <vector>

#include "answer.h"
#include "ascend_image.h"
#include "ascend_types.h"
#include "stream_work.h"

namespace unify::ascend {

// The functions of ascend_api.inc, filled once when the library is opened. One that is not required may be null.
struct Driver {
#define API(result, name, required, parameters) result(*name) parameters = nullptr;
#include "ascend_api.inc"
#undef API
};
extern Driver driver;

// The thread that serves host functions where ACL has none of its own.
class Reporter;

struct Device;
struct Stream;

// Memory for the locks of kernels whose blocks wait for each other.
struct LockMemory {
  void* address = nullptr;
  uint64_t bytes = 0;
};

// Those of a stream that ended, of whose launches the last may still run.
struct RetiredLocks {
  std::vector<void*> memory;
  aclrtEvent last_launch = nullptr;
};

// A stream's, for its launches one after another. A member of it, so that they end when ~Stream has waited.
class StreamLocks {
 public:
  ~StreamLocks();
  // Memory for the stream's next launch, which `note_launch` follows.
  aclError take(Stream& stream, uint64_t bytes, void*& out);
  aclError note_launch(const Stream& stream);

 private:
  Device* device_ = nullptr;  // null: there are none
  LockMemory memory_;
  std::vector<void*> outgrown_;
  aclrtEvent last_launch_ = nullptr;  // of another library's stream, for whose work nobody waits
};

struct Device {
  Device();
  ~Device();
  int32_t index = 0;
  aclrtContext context = nullptr;            // null: not opened, after a reset that failed
  std::atomic<aclError> fault{ACL_SUCCESS};  // the sticky code that its context answers with
  std::atomic<bool> is_gone{false};
  StreamCalls calls;
  uint32_t ai_cores = 0;
  uint32_t vector_cores = 0;
  uint64_t shared_bytes = 0;
  std::mutex export_mutex;  // before the other
  std::mutex mutex;         // of what follows
  std::unordered_set<std::shared_ptr<Stream>> streams;
  // Given up while they still ran: ACL would wait for them.
  std::vector<std::shared_ptr<Stream>> retired_streams;
  std::vector<std::unique_ptr<struct Graph>> retired_graphs;
  std::unique_ptr<Reporter> reporter;
  std::unordered_map<unify_address, size_t> allocated;  // bytes of each
  std::unordered_set<unify_address> reserved;
  struct Committed {
    size_t bytes;
    aclrtDrvMemHandle handle;
  };
  std::unordered_map<unify_address, Committed> committed;
  std::vector<Device*> peers;                               // that may use this device's memory, as it may theirs
  std::unordered_map<unify_address, std::string> imported;  // keys of other processes' memory
  std::unordered_map<unify_address, std::string> exported;  // keys that others have of this device's
  std::vector<RetiredLocks> retired_locks;
  std::unordered_map<aclmdlRI, std::vector<void*>> recorded_locks;
};

struct Stream : std::enable_shared_from_this<Stream> {
  ~Stream();  // waits for what is enqueued
  Device* device = nullptr;
  aclrtStream handle = nullptr;  // null: a reset has taken it away
  bool is_owned = true;
  std::atomic<bool> is_drawn_in{false};  // it waited for work that another library captured, if ever
  WorkCount work;
  StreamLocks locks;
};

struct Event {
  Device* device = nullptr;
  aclrtEvent handle = nullptr;
  bool has_timing = false;
  std::atomic<bool> is_recorded{false};
  std::atomic<bool> is_captured{false};  // the last record is a part of another library's graph
};

struct Function {
  struct Module* module = nullptr;
  aclrtFuncHandle handle = nullptr;
};

struct Module {
  Device* device = nullptr;
  aclrtBinHandle handle = nullptr;
  Image image;                   // without its payload, which ACL has copied
  LockMemory lock;               // what the words of a lock hold before a launch
  void* sync_address = nullptr;  // where cube and vector cores of a block meet
  std::mutex mutex;              // of `functions`
  std::vector<std::unique_ptr<Function>> functions;
};

struct Graph {
  ~Graph();  // waits for launches under way
  Device* device = nullptr;
  aclmdlRI handle = nullptr;
  // The last launch on each stream: aclmdlRIDestroy waits for those under way, for 10 seconds, and then refuses.
  std::unordered_map<aclrtStream, aclrtEvent> launches;
  std::vector<void*> locks;
};

inline Device* of(unify_device device) { return reinterpret_cast<Device*>(device); }
inline Stream* of(unify_stream stream) { return reinterpret_cast<Stream*>(stream); }
inline Event* of(unify_event event) { return reinterpret_cast<Event*>(event); }
inline Module* of(unify_module module) { return reinterpret_cast<Module*>(module); }
inline Function* of(unify_function function) { return reinterpret_cast<Function*>(function); }
inline Graph* of(unify_graph graph) { return reinterpret_cast<Graph*>(graph); }

inline void* pointer(unify_address address) { return reinterpret_cast<void*>(static_cast<uintptr_t>(address)); }
inline unify_address address_of(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); }

// ---- errors: ascend_error.cpp ----

// The status of ACL's answer, kept for last_error with ACL's text. A sticky code marks the device as faulted, and may
// be any operation's; any other failure is that of `operation`.
unify_status status_of(Device* device, aclError code, uint64_t operation = 0);
// The failure that was kept last, where it means something else than usual.
unify_status status_as(unify_status status);
// Whether a call succeeded whose failure is no error: what ACL says of it would be told with the next one.
bool succeeds(aclError code);
// A refusal of the backend's own.
unify_status refuse(unify_status status, std::string message);
// The same after a call that ACL refused: what ACL says of it is added.
unify_status refuse_after(aclError code, unify_status status, const std::string& message);
// "aicore exception: E39999: … (ACL_ERROR_RT_AICORE_EXCEPTION, 507015)"
std::string text_of(aclError code);
void last_error(unify_error* out);

// Makes the device's context the thread's, and puts back what the host program had there. ACL cannot take a context
// away from a thread (aclrtSetCurrentContext refuses null): one that had none keeps this device's.
class Entered {
 public:
  explicit Entered(const Device& device) {
    if (device.context == nullptr) {
      result_ = ACL_ERROR_RT_CONTEXT_NULL;
      return;
    }
    if (driver.aclrtGetCurrentContext(&before_) != ACL_SUCCESS) before_ = nullptr;
    if (before_ != device.context) {
      result_ = driver.aclrtSetCurrentContext(device.context);
      is_changed_ = result_ == ACL_SUCCESS;
    }
    if (driver.aclmdlRICaptureThreadExchangeMode != nullptr && result_ == ACL_SUCCESS) {
      is_relaxed_ = driver.aclmdlRICaptureThreadExchangeMode(&mode_) == ACL_SUCCESS;
    }
  }
  ~Entered() {
    if (is_relaxed_) driver.aclmdlRICaptureThreadExchangeMode(&mode_);
    if (is_changed_ && before_ != nullptr) driver.aclrtSetCurrentContext(before_);
  }
  Entered(const Entered&) = delete;
  Entered& operator=(const Entered&) = delete;
  [[nodiscard]] aclError result() const noexcept { return result_; }

 private:
  aclrtContext before_ = nullptr;
  // Elsewhere: torch_npu captures in a mode that allows nobody to allocate or to ask an event.
  int mode_ = ACL_MODEL_RI_CAPTURE_MODE_RELAXED;
  aclError result_ = ACL_SUCCESS;
  bool is_changed_ = false;
  bool is_relaxed_ = false;
};

// A call of ACL inside of the device's context.
template <typename Call>
unify_status run(Device& device, Call call, uint64_t operation = 0) {
  const Entered entered(device);
  return status_of(&device, entered.result() != ACL_SUCCESS ? entered.result() : call(), operation);
}

// A call of ACL that enqueues a piece of work.
template <typename Call>
unify_status enqueue(Stream& stream, Call call, uint64_t operation = 0) {
  const unify_status status = run(*stream.device, call, operation);
  stream.work.add();
  return status;
}

// A call that waits: what it waits for has ended then, also where it failed. Streams of other libraries, and old
// versions, go on after a failure and say it once only.
template <typename Call>
unify_status wait(Device& device, Call call) {
  const unify_status status = run(device, call);
  if (device.fault.load() == ACL_SUCCESS) return status;
  device.calls.wait();
  return status == UNIFY_OK ? status_of(&device, device.fault.load()) : status;
}

// A call that asks, likewise.
template <typename Call>
unify_status ask(Device& device, Call call) {
  const unify_status status = run(device, call);
  if (device.fault.load() == ACL_SUCCESS) return status;
  if (device.calls.are_running()) return UNIFY_NOT_READY;
  return status == UNIFY_OK ? status_of(&device, device.fault.load()) : status;
}

// ---- host functions: ascend_host_call.cpp ----

bool has_host_calls();
unify_status host_call(unify_stream stream, unify_host_function function, void* user);
void stop_serving(Stream& stream);    // after the calls in it, in the device's context
void finish_serving(Device& device);  // waits for the calls in other libraries' streams
void stop_reporter(Device& device);

// ---- each file's part of the backend's table ----

// Whether the stream records a graph now; *out_graph is the one that it records.
aclError is_recording(const Stream& stream, bool& out_is_recording, aclmdlRI* out_graph = nullptr);
// Whether another library may record it.
inline bool may_be_recorded(const Stream& stream) { return !stream.is_owned || stream.is_drawn_in.load(); }
// Destroys what was given up and has come to its end since.
void sweep(Device& device);

uint32_t virtual_granularity(const Device& device);  // 0 without virtual memory
void drop_memory(Device& device);
aclError open_virtual(Device& device, Device& peer);  // its virtual memory, now and later
void forget_peers(Device& device);
void release(const RetiredLocks& locks);  // in the device's context

void add_memory(unify_backend& table);
void add_streams(unify_backend& table);
void add_events(unify_backend& table);
void add_kernels(unify_backend& table);
void add_graphs(unify_backend& table);
void add_sharing(unify_backend& table);

}  // namespace unify::ascend
