// What every call of ACL does before its own work, and what ACL's contexts, streams and events know besides the shared
// ones.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "acl_types.h"
#include "configure.h"
#include "messages.h"
#include "report.h"
#include "simulator/driver.h"

namespace unify::simulator {

// Made by aclrtSetDevice, one for each device, or by aclrtCreateContext. Its default stream is Context::legacy.
//
// Errors belong to streams. Once aclrtSetStreamFailureMode said so for one of them, the first error of any of them
// stops the context (Context::result), until aclrtDeviceTaskAbort or its end. Errors of the chip's memory and of links
// stop all contexts of the device so.
struct AclContext : Context {
  using Context::Context;
  uintptr_t handle = 0;
  bool is_primary = false;
  bool stops_on_failure = false;
  std::string why;      // what the work said that stopped it
  uint64_t aborts = 0;  // how often aclrtDeviceTaskAbort ended its work
  std::map<int, int64_t> options;
};

struct AclStream : Stream {
  int32_t id = 0;
  uint32_t flags = 0;
  Result failure = kSuccess;  // of the last work that failed; the next synchronisation reports it
  std::string why;            // the vendor's words about it
  std::string told;           // what the work itself said, to be among them
  bool is_mode_set = false;
  bool is_aborting = false;  // aclrtStreamAbort is at work
  uint64_t aborts = 0;
  std::map<int, uint32_t> attributes;  // by aclrtStreamAttr: kept for who asks again
  uint32_t tasks = 0;                  // how many were enqueued: the next one's number
  std::map<int, uint32_t> core_limits;
};

struct AclEvent : Event {
  uint32_t id = 0;
  bool is_new = false;         // aclrtCreateEventExWithFlag: it may be recorded again without a reset
  std::vector<MarkPtr> waits;  // of those that wait in streams
};

// What a device remembers of its faults, until they are repaired.
struct AclDevice {
  Result fault = kSuccess;
  uint64_t faulty_address = 0;
  std::map<int, uint32_t> core_limits;
};

struct Acl {
  uint64_t initialized = 0;
  Registry<AclContext> contexts{0xc1000000};
  Registry<Stream> default_streams{0x5d000000};
  AclDevice devices[kMaxDevices];
  std::map<int, int64_t> options;
  aclrtFloatOverflowMode overflow_mode = ACL_RT_OVERFLOW_MODE_INFNAN;
  uint64_t wait_timeout_s = 0;        // of aclrtStreamWaitEvent; 0: none
  uint64_t operation_timeout_us = 0;  // of a kernel; 0: the longest
  int32_t next_stream = 0;
  uint32_t next_event = 0;
};

// With the driver's mutex.
Acl& acl();

inline AclContext& of(Context& context) { return static_cast<AclContext&>(context); }
inline AclStream& of(Stream& stream) { return static_cast<AclStream&>(stream); }
inline AclEvent& of(Event& event) { return static_cast<AclEvent&>(event); }

// The current context of this thread, or why there is none.
Result current_context(std::shared_ptr<AclContext>& out);
void set_current(const std::shared_ptr<AclContext>& context);
void forget_current();

std::shared_ptr<AclContext> make_context(Device& device);
// Ends a context once its work is done, if it is well.
void destroy_context(Lock& lock, const std::shared_ptr<AclContext>& context);
// A context's graphs end with it, as in Context::TearDown of the vendor's runtime.
void forget_graphs(const Context& context);
std::vector<std::shared_ptr<AclContext>> contexts_of(const Device& device);

std::shared_ptr<AclStream> make_stream(const std::shared_ptr<AclContext>& context, uint32_t flags, int priority);

// What a call answers that is not possible here: in the child of a fork, while the process ends.
Result availability() noexcept;

// The checks of a call in a context, and the faults planned for it.
Result admit(Call& call, const std::shared_ptr<Context>& context);
Result find_stream(aclrtStream handle, std::shared_ptr<Stream>& out);
// What a stream answers to work: it stopped, or its context is not the current one.
Result check_stream(Stream& stream);

// Waits for a mark of a stream, and returns what became of the stream's work.
Result wait_for_work(Lock& lock, Stream& stream, const MarkPtr& mark, Deadline until = kForever);
// The failure that the stream has to report. Says its words.
Result take_failure(Stream& stream);
// From milliseconds, of which -1 are endless. False if they are none.
bool read_timeout(int32_t milliseconds, Deadline& out);

// Holds a call that has no stream for as long as a planned fault makes it hang.
Result hang_here(Call& call);

// Runs `work()`, whose std::bad_alloc becomes a result: no exception leaves a C function.
template <typename Work>
aclError guarded(const char* name, Work&& work) {
  try {
    return finish(name, work());
  } catch (const std::bad_alloc&) {
    return finish(name, ACL_ERROR_RT_MEMORY_ALLOCATION);
  } catch (const std::exception&) {
    return finish(name, ACL_ERROR_RT_INTERNAL_ERROR);
  }
}

// A call that needs the driver alone. `work(call)` is its own part.
template <typename Work>
aclError with_driver(const char* name, Work&& work) {
  return guarded(name, [&]() -> Result {
    if (const Result result = availability(); result != ACL_SUCCESS) return result;
    Call call{name, Lock(driver().mutex), nullptr, {}};
    if (const Result result = open_devices(); result != ACL_SUCCESS) return result;
    count_call(name);
    return work(call);
  });
}

// A call on a device that needs no context: `work(call, device)`.
template <typename Work>
aclError with_device(const char* name, int32_t number, Work&& work) {
  return with_driver(name, [&](Call& call) -> Result {
    Device* device = find_device(number);
    if (device == nullptr) {
      return refuse(ACL_ERROR_RT_INVALID_DEVICEID, "Invalid device ID " + std::to_string(number) + ".");
    }
    apply_due_faults(*device);
    return work(call, *device);
  });
}

// A call that needs a current context.
template <typename Work>
aclError with_context(const char* name, Work&& work) {
  return with_driver(name, [&](Call& call) -> Result {
    std::shared_ptr<AclContext> context;
    if (const Result result = current_context(context); result != ACL_SUCCESS) return result;
    if (const Result result = admit(call, context); result != ACL_SUCCESS) return result;
    return work(call);
  });
}

// A call on a stream: `work(call, stream)`. Null is the default stream of the current context.
template <typename Work>
aclError with_stream(const char* name, aclrtStream handle, Work&& work) {
  return with_driver(name, [&](Call& call) -> Result {
    std::shared_ptr<Stream> stream;
    if (const Result result = find_stream(handle, stream); result != ACL_SUCCESS) return result;
    if (const Result result = admit(call, stream->context); result != ACL_SUCCESS) return result;
    return work(call, *stream);
  });
}

// A call that enqueues work on a stream of the current context.
template <typename Work>
aclError with_work(const char* name, aclrtStream handle, Work&& work) {
  return with_stream(name, handle, [&](Call& call, Stream& stream) -> Result {
    if (const Result result = check_stream(stream); result != ACL_SUCCESS) return result;
    ++of(stream).tasks;
    return work(call, stream);
  });
}

}  // namespace unify::simulator
