// ACL's functions for streams.
#include <atomic>
#include <cstring>

#include "acl.h"
#include "calls.h"
#include "simulator/graph.h"

using namespace unify::simulator;

namespace {

constexpr uint32_t kMostStreams = 2048;

// "These do nothing and succeed": of streams that no host waits for.
bool is_waited_for(const Stream& stream) {
  constexpr uint32_t kApart = ACL_STREAM_PERSISTENT | ACL_STREAM_DEVICE_USE_ONLY | ACL_STREAM_CPU_SCHEDULE;
  return (static_cast<const AclStream&>(stream).flags & kApart) == 0;
}

Result make(Call& call, aclrtStream* out, uint32_t priority, uint32_t flags) {
  if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
  if (driver().streams.size() >= kMostStreams) return ACL_ERROR_RT_NO_STREAM_RESOURCE;
  constexpr uint32_t kAbsent = ACL_STREAM_PERSISTENT | ACL_STREAM_DEVICE_USE_ONLY | ACL_STREAM_CPU_SCHEDULE;
  if ((flags & kAbsent) != 0) {
    return refuse(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "Streams for models, for the device alone, and for AI CPUs.");
  }
  const auto context = std::static_pointer_cast<AclContext>(call.context);
  const auto stream = make_stream(context, flags, static_cast<int>(priority));
  stream->handle = driver().streams.add<uintptr_t>(stream);
  *out = reinterpret_cast<aclrtStream>(stream->handle);
  return ACL_SUCCESS;
}

Result destroy(Call& call, aclrtStream handle, Stream& stream, bool waits) {
  if (handle == nullptr || acl().default_streams.find(handle) != nullptr) return ACL_ERROR_RT_PARAM_INVALID;
  if (stream.capture != nullptr) return ACL_ERROR_RT_STREAM_CAPTURED;
  if (waits) {
    wait_for_work(call.lock, stream, stream.tail);
    // Another thread may have been faster.
    if (driver().streams.find(handle) == nullptr) return ACL_ERROR_RT_INVALID_HANDLE;
  } else {
    of(stream).is_aborting = true;
    ++of(stream).aborts;
    driver().progress.notify_all();
  }
  driver().streams.remove(handle);
  close_stream(stream);
  return ACL_SUCCESS;
}

// Whoever waits for a stream or asks it while it is captured, in whichever mode, makes the capture fail (the runtime's
// FAQ, "Submission restrictions during ACL Graph capture").
Result refuse_captured(Stream& stream) {
  return invalidate(*stream.capture,
                    refuse(ACL_ERROR_RT_STREAM_CAPTURED, "Stream (stream_id=" + std::to_string(of(stream).id) +
                                                             ") during the capture stage is not supported."));
}

Result synchronize(Call& call, Stream& stream, Deadline until) {
  if (stream.capture != nullptr) return refuse_captured(stream);
  return is_waited_for(stream) ? wait_for_work(call.lock, stream, stream.tail, until) : ACL_SUCCESS;
}

// A word of 64 bits in device memory as the chip sees it, or null.
std::atomic<uint64_t>* word_at(uint64_t address) {
  std::vector<Piece> pieces;
  if (address % 8 != 0 || !driver().memory.resolve(address, 8, pieces) || pieces.size() != 1) return nullptr;
  return reinterpret_cast<std::atomic<uint64_t>*>(pieces.front().alias);
}

bool is_reached(uint64_t found, uint64_t value, uint32_t flag) {
  switch (flag) {
    case ACL_STREAM_WAIT_VALUE_GEQ:
      return static_cast<int64_t>(found - value) >= 0;
    case ACL_STREAM_WAIT_VALUE_EQ:
      return found == value;
    case ACL_STREAM_WAIT_VALUE_AND:
      return (found & value) != 0;
    default:
      return ~(found | value) != 0;
  }
}

Result set_failure_mode(Stream& stream, uint64_t mode) {
  if (mode > ACL_STOP_ON_FAILURE) return ACL_ERROR_RT_PARAM_INVALID;
  if (stream.capture != nullptr) return ACL_ERROR_RT_STREAM_CAPTURED;
  // "Only once for a stream": nothing goes back to ACL_CONTINUE_ON_FAILURE.
  AclStream& self = of(stream);
  if (mode == ACL_CONTINUE_ON_FAILURE) return self.is_mode_set ? ACL_ERROR_RT_FEATURE_NOT_SUPPORT : ACL_SUCCESS;
  self.is_mode_set = true;
  of(*stream.context).stops_on_failure = true;
  return ACL_SUCCESS;
}

}  // namespace

UNIFY_SIMULATOR_EXPORT aclError aclrtCreateStream(aclrtStream* out) {
  return with_context("aclrtCreateStream", [&](Call& call) { return make(call, out, 0, 0); });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtCreateStreamWithConfig(aclrtStream* out, uint32_t priority, uint32_t flags) {
  return with_context("aclrtCreateStreamWithConfig", [&](Call& call) { return make(call, out, priority, flags); });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtDestroyStream(aclrtStream handle) {
  return with_stream("aclrtDestroyStream", handle,
                     [&](Call& call, Stream& stream) { return destroy(call, handle, stream, true); });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtDestroyStreamForce(aclrtStream handle) {
  return with_stream("aclrtDestroyStreamForce", handle,
                     [&](Call& call, Stream& stream) { return destroy(call, handle, stream, false); });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtSynchronizeStream(aclrtStream handle) {
  return with_stream("aclrtSynchronizeStream", handle,
                     [&](Call& call, Stream& stream) { return synchronize(call, stream, kForever); });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtSynchronizeStreamWithTimeout(aclrtStream handle, int32_t timeout) {
  return with_stream("aclrtSynchronizeStreamWithTimeout", handle, [&](Call& call, Stream& stream) -> Result {
    Deadline until;
    return read_timeout(timeout, until) ? synchronize(call, stream, until) : ACL_ERROR_RT_PARAM_INVALID;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtStreamQuery(aclrtStream handle, aclrtStreamStatus* out) {
  return with_stream("aclrtStreamQuery", handle, [&](Call&, Stream& stream) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    if (stream.capture != nullptr) return refuse_captured(stream);
    if (const Result result = result_of(*stream.context); result != ACL_SUCCESS) return result;
    *out = is_idle(stream) ? ACL_STREAM_STATUS_COMPLETE : ACL_STREAM_STATUS_NOT_READY;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtStreamGetPriority(aclrtStream handle, uint32_t* out) {
  return with_stream("aclrtStreamGetPriority", handle, [&](Call&, const Stream& stream) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    *out = static_cast<uint32_t>(stream.priority);
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtStreamGetFlags(aclrtStream handle, uint32_t* out) {
  return with_stream("aclrtStreamGetFlags", handle, [&](Call&, Stream& stream) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    *out = of(stream).flags;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtStreamGetId(aclrtStream handle, int32_t* out) {
  return with_stream("aclrtStreamGetId", handle, [&](Call&, Stream& stream) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    *out = of(stream).id;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtStreamAbort(aclrtStream handle) {
  return with_driver("aclrtStreamAbort", [&](Call& call) -> Result {
    std::shared_ptr<Stream> stream;
    if (const Result result = find_stream(handle, stream); result != ACL_SUCCESS) return result;
    if (const Result result = admit(call, stream->context); result != ACL_SUCCESS) return result;
    AclStream& self = of(*stream);
    self.is_aborting = true;
    ++self.aborts;
    drain(call.lock, {stream});
    self.is_aborting = false;
    self.failure = kSuccess;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtSetStreamFailureMode(aclrtStream handle, uint64_t mode) {
  return with_stream("aclrtSetStreamFailureMode", handle,
                     [&](Call&, Stream& stream) { return set_failure_mode(stream, mode); });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtGetStreamAvailableNum(uint32_t* out) {
  return with_context("aclrtGetStreamAvailableNum", [&](Call&) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    *out = kMostStreams - static_cast<uint32_t>(driver().streams.size());
    return ACL_SUCCESS;
  });
}

// Kernels of the CPU say nothing of overflows: the switch is kept, and no operator is here to ask for what it counts.
UNIFY_SIMULATOR_EXPORT aclError aclrtSetStreamOverflowSwitch(aclrtStream handle, uint32_t flag) {
  return with_stream("aclrtSetStreamOverflowSwitch", handle, [&](Call&, Stream& stream) -> Result {
    if (flag > 1) return ACL_ERROR_RT_PARAM_INVALID;
    of(stream).attributes[ACL_STREAM_ATTR_FLOAT_OVERFLOW_CHECK] = flag;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtGetStreamOverflowSwitch(aclrtStream handle, uint32_t* out) {
  return with_stream("aclrtGetStreamOverflowSwitch", handle, [&](Call&, Stream& stream) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    *out = of(stream).attributes[ACL_STREAM_ATTR_FLOAT_OVERFLOW_CHECK];
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtSetStreamAttribute(aclrtStream handle, aclrtStreamAttr attribute,
                                                        aclrtStreamAttrValue* value) {
  return with_stream("aclrtSetStreamAttribute", handle, [&](Call&, Stream& stream) -> Result {
    if (value == nullptr) return ACL_ERROR_INVALID_PARAM;
    switch (attribute) {
      case ACL_STREAM_ATTR_FAILURE_MODE:
        return set_failure_mode(stream, value->failureMode);
      case ACL_STREAM_ATTR_FLOAT_OVERFLOW_CHECK:
      case ACL_STREAM_ATTR_CACHE_OP_INFO:
        if (value->overflowSwitch > 1) return ACL_ERROR_RT_PARAM_INVALID;
        break;
      case ACL_STREAM_ATTR_USER_CUSTOM_TAG:
        break;
      case ACL_STREAM_ATTR_PRIORITY:
        return refuse(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "A stream's priority changes on no simulated device.");
      default:
        return ACL_ERROR_RT_PARAM_INVALID;
    }
    of(stream).attributes[attribute] = value->overflowSwitch;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtGetStreamAttribute(aclrtStream handle, aclrtStreamAttr attribute,
                                                        aclrtStreamAttrValue* out) {
  return with_stream("aclrtGetStreamAttribute", handle, [&](Call&, Stream& stream) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    switch (attribute) {
      case ACL_STREAM_ATTR_FAILURE_MODE:
        out->failureMode = of(*stream.context).stops_on_failure ? ACL_STOP_ON_FAILURE : ACL_CONTINUE_ON_FAILURE;
        return ACL_SUCCESS;
      case ACL_STREAM_ATTR_FLOAT_OVERFLOW_CHECK:
      case ACL_STREAM_ATTR_USER_CUSTOM_TAG:
      case ACL_STREAM_ATTR_CACHE_OP_INFO:
        out->userCustomTag = of(stream).attributes[attribute];
        return ACL_SUCCESS;
      case ACL_STREAM_ATTR_PRIORITY:
        out->streamPriority = static_cast<uint32_t>(stream.priority);
        return ACL_SUCCESS;
      default:
        return ACL_ERROR_RT_PARAM_INVALID;
    }
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtValueWrite(void* memory, uint64_t value, uint32_t flag, aclrtStream handle) {
  return with_work("aclrtValueWrite", handle, [&](Call& call, Stream& stream) -> Result {
    const auto address = reinterpret_cast<uintptr_t>(memory);
    if (flag != 0 || word_at(address) == nullptr) return ACL_ERROR_RT_PARAM_INVALID;
    Operation operation;
    operation.kind = OperationKind::kFill;
    operation.run = [address, value](Stream&) -> Result {
      const Lock lock(driver().mutex);
      std::atomic<uint64_t>* const word = word_at(address);
      if (word == nullptr) return ACL_ERROR_RT_SYS_DMA;
      word->store(value);
      driver().progress.notify_all();
      return ACL_SUCCESS;
    };
    return submit(call, stream, std::move(operation));
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtValueWait(void* memory, uint64_t value, uint32_t flag, aclrtStream handle) {
  return with_work("aclrtValueWait", handle, [&](Call& call, Stream& stream) -> Result {
    const auto address = reinterpret_cast<uintptr_t>(memory);
    if (flag > ACL_STREAM_WAIT_VALUE_NOR || word_at(address) == nullptr) return ACL_ERROR_RT_PARAM_INVALID;
    Operation operation;
    operation.run = [address, value, flag, context = stream.context](Stream& on) -> Result {
      Lock lock(driver().mutex);
      // What kernels and other processes write wakes nobody here.
      while (result_of(*context) == kSuccess && !of(on).is_aborting) {
        const std::atomic<uint64_t>* const word = word_at(address);
        if (word == nullptr) return ACL_ERROR_RT_SYS_DMA;
        if (is_reached(word->load(), value, flag)) break;
        driver().progress.wait_until(lock, Clock::now() + std::chrono::milliseconds(1));
      }
      return ACL_SUCCESS;
    };
    return submit(call, stream, std::move(operation));
  });
}
