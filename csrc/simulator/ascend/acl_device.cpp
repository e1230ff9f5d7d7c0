// ACL's functions for devices: which there are, which one a thread uses, and what they are.
#include <unistd.h>

#include <cstring>

#include "acl.h"
#include "calls.h"
#include "chips.h"
#include "simulator/graph.h"

using namespace unify::simulator;

namespace {

// Takes all that belongs to a device. Its work ends first, if it is well.
void reset(Call& call, Device& device) {
  device.retained = 0;
  device.context = nullptr;
  for (const auto& context : contexts_of(device)) destroy_context(call.lock, context);
  driver().memory.remove_of(&device);
  forget_peers(device);
  acl().devices[device.index] = {};
}

Result synchronize(Call& call, Deadline until) {
  const std::shared_ptr<Context> context = call.context;
  const std::vector<std::shared_ptr<Stream>> streams = context->streams;
  Result captured = ACL_SUCCESS;
  for (const auto& stream : streams) {
    if (stream->capture != nullptr) captured = invalidate(*stream->capture, ACL_ERROR_RT_STREAM_CAPTURED);
  }
  if (captured != ACL_SUCCESS) return captured;
  if (const Result result = result_of(*context); result != ACL_SUCCESS) return refuse(result, of(*context).why);
  Result first = ACL_SUCCESS;
  for (const auto& stream : streams) {
    const Result result = wait_for_work(call.lock, *stream, stream->tail, until);
    if (first == ACL_SUCCESS) first = result;
  }
  return first;
}

}  // namespace

UNIFY_SIMULATOR_EXPORT aclError aclrtSetDevice(int32_t number) {
  return with_device("aclrtSetDevice", number, [&](Call&, Device& device) -> Result {
    if (device.context == nullptr) {
      if (device.is_lost) return kResults.device_is_lost;
      const auto context = make_context(device);
      context->is_primary = true;
      device.context = context;
    }
    ++device.retained;
    set_current(std::static_pointer_cast<AclContext>(device.context));
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtResetDevice(int32_t number) {
  return with_device("aclrtResetDevice", number, [&](Call& call, Device& device) -> Result {
    if (device.retained == 0) return refuse(ACL_ERROR_RT_CONTEXT_NULL, "The device was reset already, or never set.");
    if (--device.retained == 0) reset(call, device);
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtResetDeviceForce(int32_t number) {
  return with_device("aclrtResetDeviceForce", number, [&](Call& call, Device& device) -> Result {
    if (device.retained == 0) return refuse(ACL_ERROR_RT_CONTEXT_NULL, "The device was reset already, or never set.");
    reset(call, device);
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtGetDevice(int32_t* out) {
  return with_driver("aclrtGetDevice", [&](Call&) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    std::shared_ptr<AclContext> context;
    if (const Result result = current_context(context); result != ACL_SUCCESS) return result;
    *out = context->device->index;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtGetDeviceCount(uint32_t* out) {
  return with_driver("aclrtGetDeviceCount", [&](Call&) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    *out = static_cast<uint32_t>(driver().devices.size());
    return *out == 0 ? ACL_ERROR_RT_NO_DEVICE : ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtSynchronizeDevice() {
  return with_context("aclrtSynchronizeDevice", [&](Call& call) { return synchronize(call, kForever); });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtSynchronizeDeviceWithTimeout(int32_t timeout) {
  return with_context("aclrtSynchronizeDeviceWithTimeout", [&](Call& call) -> Result {
    Deadline until;
    return read_timeout(timeout, until) ? synchronize(call, until) : ACL_ERROR_RT_PARAM_INVALID;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtQueryDeviceStatus(int32_t number, aclrtDeviceStatus* out) {
  return with_device("aclrtQueryDeviceStatus", number, [&](Call&, const Device& device) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    *out = device.is_lost ? ACL_RT_DEVICE_STATUS_ABNORMAL : ACL_RT_DEVICE_STATUS_NORMAL;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtGetDeviceInfo(uint32_t number, aclrtDevAttr attribute, int64_t* out) {
  return with_device("aclrtGetDeviceInfo", static_cast<int32_t>(number), [&](Call&, const Device& device) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    const Chip& chip = chip_of(device);
    // Threads of one instruction came with the 950. Its numbers are not published in a form to rely on.
    switch (attribute) {
      case ACL_DEV_ATTR_AICPU_CORE_NUM:
        *out = kAicpuCores;
        return ACL_SUCCESS;
      case ACL_DEV_ATTR_AICORE_CORE_NUM:
      case ACL_DEV_ATTR_CUBE_CORE_NUM:
        *out = chip.cube_cores;
        return ACL_SUCCESS;
      case ACL_DEV_ATTR_VECTOR_CORE_NUM:
        *out = chip.vector_cores;
        return ACL_SUCCESS;
      case ACL_DEV_ATTR_UBUF_PER_VECTOR_CORE:
        *out = int64_t{chip.ubuf_kib} << 10;
        return ACL_SUCCESS;
      case ACL_DEV_ATTR_TOTAL_GLOBAL_MEM_SIZE:
        *out = static_cast<int64_t>(device.arena.total());
        return ACL_SUCCESS;
      case ACL_DEV_ATTR_L2_CACHE_SIZE:
        *out = int64_t{chip.l2_mib} << 20;
        return ACL_SUCCESS;
      case ACL_DEV_ATTR_PHY_CHIP_ID:
      case ACL_DEV_ATTR_SUPER_POD_DEVICE_ID:
        *out = device.index;
        return ACL_SUCCESS;
      case ACL_DEV_ATTR_SMP_ID:
      case ACL_DEV_ATTR_SUPER_POD_SERVER_ID:
      case ACL_DEV_ATTR_SUPER_POD_ID:
      case ACL_DEV_ATTR_HD_CONNECT_TYPE:
      case ACL_DEV_ATTR_IS_VIRTUAL:
        *out = 0;
        return ACL_SUCCESS;
      case ACL_DEV_ATTR_NPU_ARCH:
        *out = chip.arch;
        return ACL_SUCCESS;
      default:
        return refuse(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "Device attribute " + std::to_string(attribute) + ".");
    }
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclGetDeviceCapability(uint32_t number, aclDeviceInfo what, int64_t* out) {
  return with_device("aclGetDeviceCapability", static_cast<int32_t>(number),
                     [&](Call&, const Device& device) -> Result {
                       if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
                       const Chip& chip = chip_of(device);
                       switch (what) {
                         case ACL_DEVICE_INFO_AI_CORE_NUM:
                           *out = chip.cube_cores;
                           return ACL_SUCCESS;
                         case ACL_DEVICE_INFO_VECTOR_CORE_NUM:
                           *out = chip.vector_cores;
                           return ACL_SUCCESS;
                         case ACL_DEVICE_INFO_L2_SIZE:
                           *out = int64_t{chip.l2_mib} << 20;
                           return ACL_SUCCESS;
                         default:
                           return ACL_ERROR_INVALID_PARAM;
                       }
                     });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtDeviceGetUuid(int32_t number, aclrtUuid* out) {
  return with_device("aclrtDeviceGetUuid", number, [&](Call&, const Device& device) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    *out = aclrtUuid{{'u', 'n', 'i', 'f', 'y', '-', 's', 'i', 'm', 'u', 'l', 'a', 't', 'e', 'd', 0}};
    out->bytes[15] = static_cast<char>(device.index);
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtDeviceGetStreamPriorityRange(int32_t* least, int32_t* greatest) {
  return with_driver("aclrtDeviceGetStreamPriorityRange", [&](Call&) -> Result {
    if (least != nullptr) *least = 7;
    if (greatest != nullptr) *greatest = 0;
    return ACL_SUCCESS;
  });
}

// No device is hidden or renumbered here: all its numbers are one.
static aclError number_of(const char* name, int32_t number, int32_t* out) {
  return with_device(name, number, [&](Call&, const Device& device) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    *out = device.index;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtGetLogicDevIdByUserDevId(const int32_t number, int32_t* const out) {
  return number_of("aclrtGetLogicDevIdByUserDevId", number, out);
}

UNIFY_SIMULATOR_EXPORT aclError aclrtGetUserDevIdByLogicDevId(const int32_t number, int32_t* const out) {
  return number_of("aclrtGetUserDevIdByLogicDevId", number, out);
}

UNIFY_SIMULATOR_EXPORT aclError aclrtGetPhyDevIdByLogicDevId(const int32_t number, int32_t* const out) {
  return number_of("aclrtGetPhyDevIdByLogicDevId", number, out);
}

UNIFY_SIMULATOR_EXPORT aclError aclrtGetLogicDevIdByPhyDevId(const int32_t number, int32_t* const out) {
  return number_of("aclrtGetLogicDevIdByPhyDevId", number, out);
}

UNIFY_SIMULATOR_EXPORT aclError aclrtGetDevicesTopo(uint32_t number, uint32_t other, uint64_t* out) {
  return with_device("aclrtGetDevicesTopo", static_cast<int32_t>(number), [&](Call&, const Device&) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    if (find_device(static_cast<int32_t>(other)) == nullptr) return ACL_ERROR_RT_INVALID_DEVICEID;
    *out = ACL_RT_DEVS_TOPOLOGY_HCCS;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtDeviceGetBareTgid(int32_t* out) {
  return with_driver("aclrtDeviceGetBareTgid", [&](Call&) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    *out = getpid();
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtSetDeviceSatMode(aclrtFloatOverflowMode mode) {
  return with_driver("aclrtSetDeviceSatMode", [&](Call&) -> Result {
    if (mode == ACL_RT_OVERFLOW_MODE_SATURATION) {
      return refuse(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "The simulated device has infinities and NaN alone.");
    }
    if (mode != ACL_RT_OVERFLOW_MODE_INFNAN) return ACL_ERROR_RT_PARAM_INVALID;
    acl().overflow_mode = mode;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtGetDeviceSatMode(aclrtFloatOverflowMode* out) {
  return with_driver("aclrtGetDeviceSatMode", [&](Call&) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    *out = acl().overflow_mode;
    return ACL_SUCCESS;
  });
}
