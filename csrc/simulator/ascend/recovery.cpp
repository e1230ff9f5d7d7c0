// ACL's functions for faults: what went wrong, stopping what is under way, repair.
#include "recovery.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "acl.h"
#include "simulator/graph.h"

struct aclrtExceptionInfo {
  uint32_t task;
  uint32_t stream;
  uint32_t thread;
  uint32_t device;
  uint32_t code;
};

namespace unify::simulator {
namespace {

constexpr uint32_t kUnknown = UINT32_MAX;  // what the getters answer for no exception

aclrtExceptionInfoCallback exception_callback = nullptr;  // with the mutex

struct AbortCallback {
  aclrtDeviceTaskAbortCallback function;
  void* data;
};
std::map<std::string, AbortCallback>& abort_callbacks() {
  static auto* const all = new std::map<std::string, AbortCallback>;
  return *all;
}

bool is_of_memory(Result fault) {
  return fault == ACL_ERROR_RT_HBM_MULTI_BIT_ECC_ERROR || fault == ACL_ERROR_RT_DEVICE_MEM_ERROR ||
         fault == ACL_ERROR_RT_SUSPECT_DEVICE_MEM_ERROR;
}

aclrtErrorType type_of(Result fault) {
  if (fault == ACL_SUCCESS) return ACL_RT_NO_ERROR;
  if (is_of_memory(fault)) return ACL_RT_ERROR_MEMORY;
  switch (fault) {
    case ACL_ERROR_RT_AICORE_EXCEPTION:
    case ACL_ERROR_RT_AICORE_TIMEOUT:
    case ACL_ERROR_RT_AICORE_TRAP_EXCEPTION:
    case ACL_ERROR_RT_VECTOR_CORE_EXCEPTION:
    case ACL_ERROR_RT_VECTOR_CORE_TIMEOUT:
    case ACL_ERROR_RT_VECTOR_CORE_TRAP_EXCEPTION:
      return ACL_RT_ERROR_AICORE;
    case ACL_ERROR_RT_LINK_ERROR:
      return ACL_RT_ERROR_LINK;
    case ACL_ERROR_RT_L3_PORT_ERROR:
      return ACL_RT_ERROR_L3_PORT;
    default:
      return ACL_RT_ERROR_OTHERS;
  }
}

// A page of the device's that the program uses: where an error of the chip's memory strikes.
uint64_t used_page(const Device& device) {
  for (const auto& [address, range] : driver().memory.ranges()) {
    if (range->device == device.index && range->kind != RangeKind::kPinned) return address;
  }
  return 0;
}

void write_uce(uint64_t address, aclrtMemUceInfo& out) {
  out = {};
  out.addr = reinterpret_cast<void*>(static_cast<uintptr_t>(address));
  out.len = kPage;
}

// Runs the program's functions without the mutex. What the first that fails returns.
Result call_back(Lock& lock, int32_t device, aclrtDeviceTaskAbortStage stage, uint32_t timeout) {
  const std::map<std::string, AbortCallback> all = abort_callbacks();
  lock.unlock();
  Result result = ACL_SUCCESS;
  for (const auto& [name, callback] : all) {
    if (result == ACL_SUCCESS && callback.function(device, stage, timeout, callback.data) != 0) {
      result = refuse(ACL_ERROR_RT_INTERNAL_ERROR, "The callback '" + name + "' failed.");
    }
  }
  lock.lock();
  return result;
}

// Ends what is under way in the contexts of a device, and lets them go on.
Result abort_tasks(Call& call, Device& device, uint32_t timeout_ms) {
  const auto contexts = contexts_of(device);
  if (contexts.empty()) return ACL_ERROR_RT_CONTEXT_NULL;
  const Deadline until =
      timeout_ms == 0 ? kForever : std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  std::vector<std::shared_ptr<Stream>> streams;
  for (const auto& context : contexts) {
    context->result = ACL_ERROR_RT_DEVICE_TASK_ABORT;
    ++context->aborts;
    invalidate_captures_of(*context);
    streams.insert(streams.end(), context->streams.begin(), context->streams.end());
  }
  driver().progress.notify_all();
  Result result = call_back(call.lock, device.index, ACL_RT_DEVICE_TASK_ABORT_PRE, timeout_ms);
  if (result == ACL_SUCCESS && !drain(call.lock, streams, until)) result = ACL_ERROR_RT_WAIT_TIMEOUT;
  if (result == ACL_SUCCESS) result = call_back(call.lock, device.index, ACL_RT_DEVICE_TASK_ABORT_POST, timeout_ms);
  if (result != ACL_SUCCESS) return result;
  for (const auto& context : contexts) context->result = kSuccess;
  for (const auto& stream : streams) of(*stream).failure = kSuccess;
  return ACL_SUCCESS;
}

uint32_t read(const aclrtExceptionInfo* info, uint32_t aclrtExceptionInfo::*field) {
  return info == nullptr ? kUnknown : info->*field;
}

}  // namespace

void remember_fault(Device& device, Result result) {
  AclDevice& self = acl().devices[device.index];
  self.fault = result;
  if (is_of_memory(result)) self.faulty_address = used_page(device);
}

void tell_of_fault(Lock& lock, const Device& device, const AclStream& stream, Result result) {
  const aclrtExceptionInfoCallback callback = exception_callback;
  if (callback == nullptr) return;
  aclrtExceptionInfo info{stream.tasks, static_cast<uint32_t>(stream.id), static_cast<uint32_t>(syscall(SYS_gettid)),
                          static_cast<uint32_t>(device.index), static_cast<uint32_t>(result)};
  lock.unlock();
  callback(&info);
  lock.lock();
}

}  // namespace unify::simulator

using namespace unify::simulator;

UNIFY_SIMULATOR_EXPORT aclError aclrtDeviceTaskAbort(int32_t number, uint32_t timeout) {
  return with_device("aclrtDeviceTaskAbort", number, [&](Call& call, Device& device) -> Result {
    return device.is_lost ? kResults.device_is_lost : abort_tasks(call, device, timeout);
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtSetDeviceTaskAbortCallback(const char* name, aclrtDeviceTaskAbortCallback callback,
                                                                void* data) {
  return with_driver("aclrtSetDeviceTaskAbortCallback", [&](Call&) -> Result {
    if (name == nullptr) return ACL_ERROR_RT_PARAM_INVALID;
    abort_callbacks().erase(name);
    if (callback != nullptr) abort_callbacks()[name] = {callback, data};
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtGetMemUceInfo(int32_t number, aclrtMemUceInfo* out, size_t most, size_t* count) {
  return with_device("aclrtGetMemUceInfo", number, [&](Call&, const Device& device) -> Result {
    if (out == nullptr || count == nullptr) return ACL_ERROR_INVALID_PARAM;
    const uint64_t address = acl().devices[device.index].faulty_address;
    *count = address == 0 ? 0 : 1;
    if (most < *count) return refuse(ACL_ERROR_INVALID_PARAM, "arraySize must be greater than or equal to 1.");
    if (address != 0) write_uce(address, out[0]);
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtMemUceRepair(int32_t number, aclrtMemUceInfo* faulty, size_t count) {
  return with_device("aclrtMemUceRepair", number, [&](Call&, const Device& device) -> Result {
    if (faulty == nullptr) return ACL_ERROR_INVALID_PARAM;
    AclDevice& self = acl().devices[device.index];
    for (size_t i = 0; i < count; ++i) {
      if (reinterpret_cast<uintptr_t>(faulty[i].addr) == self.faulty_address) self.faulty_address = 0;
    }
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtGetErrorVerbose(int32_t number, aclrtErrorInfo* out) {
  return with_device("aclrtGetErrorVerbose", number, [&](Call&, const Device& device) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    const AclDevice& self = acl().devices[device.index];
    *out = {};
    out->errorType = type_of(self.fault);
    if (out->errorType == ACL_RT_ERROR_MEMORY && self.faulty_address != 0) {
      out->hasDetail = 1;
      out->detail.uceInfo.arraySize = 1;
      write_uce(self.faulty_address, out->detail.uceInfo.memUceInfoArray[0]);
    }
    if (out->errorType == ACL_RT_ERROR_AICORE) out->detail.aicoreErrType = ACL_RT_AICORE_ERROR_UNKNOWN;
    out->tryRepair = out->errorType == ACL_RT_ERROR_MEMORY || out->errorType == ACL_RT_ERROR_LINK ||
                             out->errorType == ACL_RT_ERROR_L3_PORT
                         ? 1
                         : 0;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtRepairError(int32_t number, const aclrtErrorInfo* info) {
  return with_device("aclrtRepairError", number, [&](Call&, const Device& device) -> Result {
    if (info == nullptr) return ACL_ERROR_INVALID_PARAM;
    if (info->errorType == ACL_RT_ERROR_OTHERS || info->errorType == ACL_RT_ERROR_AICORE) {
      return refuse(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "An error of this type cannot be repaired.");
    }
    AclDevice& self = acl().devices[device.index];
    self.fault = ACL_SUCCESS;
    self.faulty_address = 0;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtSetExceptionInfoCallback(aclrtExceptionInfoCallback callback) {
  return with_driver("aclrtSetExceptionInfoCallback", [&](Call&) -> Result {
    exception_callback = callback;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT uint32_t aclrtGetTaskIdFromExceptionInfo(const aclrtExceptionInfo* info) {
  return read(info, &aclrtExceptionInfo::task);
}

UNIFY_SIMULATOR_EXPORT uint32_t aclrtGetStreamIdFromExceptionInfo(const aclrtExceptionInfo* info) {
  return read(info, &aclrtExceptionInfo::stream);
}

UNIFY_SIMULATOR_EXPORT uint32_t aclrtGetThreadIdFromExceptionInfo(const aclrtExceptionInfo* info) {
  return read(info, &aclrtExceptionInfo::thread);
}

UNIFY_SIMULATOR_EXPORT uint32_t aclrtGetDeviceIdFromExceptionInfo(const aclrtExceptionInfo* info) {
  return read(info, &aclrtExceptionInfo::device);
}

UNIFY_SIMULATOR_EXPORT uint32_t aclrtGetErrorCodeFromExceptionInfo(const aclrtExceptionInfo* info) {
  return read(info, &aclrtExceptionInfo::code);
}
