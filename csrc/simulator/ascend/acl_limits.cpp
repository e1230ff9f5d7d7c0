// ACL's functions for limits: of time, and of cores.
#include <algorithm>

#include "acl.h"
#include "calls.h"
#include "chips.h"

using namespace unify::simulator;

namespace {

constexpr uint64_t kTimeoutStep = 1000000;        // microseconds
constexpr uint64_t kLongestTimeout = 1091000000;  // "1091 seconds": aclrtSetOpExecuteTimeOut

thread_local std::weak_ptr<AclStream> limited_by;  // whose limits of cores this thread's launches have

uint64_t set_timeout(uint64_t microseconds) {
  const uint64_t steps = (microseconds + kTimeoutStep - 1) / kTimeoutStep;
  const uint64_t actual = microseconds == 0 ? kLongestTimeout : std::min(steps * kTimeoutStep, kLongestTimeout);
  acl().operation_timeout_us = actual;
  return actual;
}

uint32_t cores(const Device& device, aclrtDevResLimitType type) {
  const Chip& chip = chip_of(device);
  return static_cast<uint32_t>(type == ACL_RT_DEV_RES_CUBE_CORE ? chip.cube_cores : chip.vector_cores);
}

bool is_type(aclrtDevResLimitType type) { return type <= ACL_RT_DEV_RES_VECTOR_CORE; }

uint32_t limit_of(const Device& device, aclrtDevResLimitType type) {
  const auto& limits = acl().devices[device.index].core_limits;
  const auto found = limits.find(static_cast<int>(type));
  return found == limits.end() ? cores(device, type) : found->second;
}

uint32_t limit_of(const AclStream& stream, aclrtDevResLimitType type) {
  const auto found = stream.core_limits.find(static_cast<int>(type));
  return found == stream.core_limits.end() ? limit_of(*stream.context->device, type) : found->second;
}

Result set_limit(std::map<int, uint32_t>& limits, const Device& device, aclrtDevResLimitType type, uint32_t value) {
  if (!is_type(type) || value == 0 || value > cores(device, type)) return ACL_ERROR_RT_PARAM_INVALID;
  limits[static_cast<int>(type)] = value;
  return ACL_SUCCESS;
}

}  // namespace

UNIFY_SIMULATOR_EXPORT aclError aclrtSetOpWaitTimeout(uint32_t seconds) {
  return with_driver("aclrtSetOpWaitTimeout", [&](Call&) -> Result {
    acl().wait_timeout_s = seconds;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtSetOpExecuteTimeOut(uint32_t seconds) {
  return with_driver("aclrtSetOpExecuteTimeOut", [&](Call&) -> Result {
    set_timeout(uint64_t{seconds} * 1000000);
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtSetOpExecuteTimeOutWithMs(uint32_t milliseconds) {
  return with_driver("aclrtSetOpExecuteTimeOutWithMs", [&](Call&) -> Result {
    set_timeout(uint64_t{milliseconds} * 1000);
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtSetOpExecuteTimeOutV2(uint64_t microseconds, uint64_t* out) {
  return with_driver("aclrtSetOpExecuteTimeOutV2", [&](Call&) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    *out = set_timeout(microseconds);
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtGetOpTimeOutInterval(uint64_t* out) {
  return with_driver("aclrtGetOpTimeOutInterval", [&](Call&) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    *out = kTimeoutStep;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtGetOpExecuteTimeout(uint32_t* const out) {
  return with_driver("aclrtGetOpExecuteTimeout", [&](Call&) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    const uint64_t set = acl().operation_timeout_us;
    *out = static_cast<uint32_t>((set == 0 ? kLongestTimeout : set) / 1000);
    return ACL_SUCCESS;
  });
}

// The limits are kept and given back. Programs run one after the other here, with or without them.
UNIFY_SIMULATOR_EXPORT aclError aclrtGetDeviceResLimit(int32_t number, aclrtDevResLimitType type, uint32_t* out) {
  return with_device("aclrtGetDeviceResLimit", number, [&](Call&, const Device& device) -> Result {
    if (out == nullptr || !is_type(type)) return ACL_ERROR_INVALID_PARAM;
    *out = limit_of(device, type);
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtSetDeviceResLimit(int32_t number, aclrtDevResLimitType type, uint32_t value) {
  return with_device("aclrtSetDeviceResLimit", number, [&](Call&, const Device& device) {
    return set_limit(acl().devices[device.index].core_limits, device, type, value);
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtResetDeviceResLimit(int32_t number) {
  return with_device("aclrtResetDeviceResLimit", number, [&](Call&, const Device& device) -> Result {
    acl().devices[device.index].core_limits.clear();
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtGetStreamResLimit(aclrtStream handle, aclrtDevResLimitType type, uint32_t* out) {
  return with_stream("aclrtGetStreamResLimit", handle, [&](Call&, Stream& stream) -> Result {
    if (out == nullptr || !is_type(type)) return ACL_ERROR_INVALID_PARAM;
    *out = limit_of(of(stream), type);
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtSetStreamResLimit(aclrtStream handle, aclrtDevResLimitType type, uint32_t value) {
  return with_stream("aclrtSetStreamResLimit", handle, [&](Call&, Stream& stream) {
    return set_limit(of(stream).core_limits, *stream.context->device, type, value);
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtResetStreamResLimit(aclrtStream handle) {
  return with_stream("aclrtResetStreamResLimit", handle, [&](Call&, Stream& stream) -> Result {
    of(stream).core_limits.clear();
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtUseStreamResInCurrentThread(aclrtStream handle) {
  return with_stream("aclrtUseStreamResInCurrentThread", handle, [&](Call&, const Stream& stream) -> Result {
    const auto& all = stream.context->streams;
    const auto self = std::find_if(all.begin(), all.end(), [&](const auto& each) { return each.get() == &stream; });
    if (self == all.end()) return ACL_ERROR_RT_INVALID_HANDLE;
    limited_by = std::static_pointer_cast<AclStream>(*self);
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtUnuseStreamResInCurrentThread(aclrtStream handle) {
  return with_stream("aclrtUnuseStreamResInCurrentThread", handle, [&](Call&, Stream&) -> Result {
    limited_by.reset();
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtGetResInCurrentThread(aclrtDevResLimitType type, uint32_t* out) {
  return with_context("aclrtGetResInCurrentThread", [&](Call& call) -> Result {
    if (out == nullptr || !is_type(type)) return ACL_ERROR_INVALID_PARAM;
    const auto stream = limited_by.lock();
    *out = stream == nullptr ? limit_of(*call.context->device, type) : limit_of(*stream, type);
    return ACL_SUCCESS;
  });
}
