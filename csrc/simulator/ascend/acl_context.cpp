// ACL's functions for contexts.
#include "acl.h"
#include "calls.h"

using namespace unify::simulator;

UNIFY_SIMULATOR_EXPORT aclError aclrtCreateContext(aclrtContext* out, int32_t number) {
  return with_device("aclrtCreateContext", number, [&](Call&, Device& device) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    if (device.is_lost) return kResults.device_is_lost;
    const auto context = make_context(device);
    set_current(context);
    *out = reinterpret_cast<aclrtContext>(context->handle);
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtDestroyContext(aclrtContext handle) {
  return with_driver("aclrtDestroyContext", [&](Call& call) -> Result {
    if (handle == nullptr) return ACL_ERROR_INVALID_PARAM;
    const auto context = acl().contexts.find(handle);
    if (context == nullptr) return ACL_ERROR_RT_CONTEXT_NULL;
    if (context->is_primary) {
      return refuse(ACL_ERROR_RT_PARAM_INVALID, "The context is a device's own: aclrtResetDevice ends it.");
    }
    destroy_context(call.lock, context);
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtSetCurrentContext(aclrtContext handle) {
  return with_driver("aclrtSetCurrentContext", [&](Call&) -> Result {
    if (handle == nullptr) return ACL_ERROR_INVALID_PARAM;
    const auto context = acl().contexts.find(handle);
    if (context == nullptr) return refuse(ACL_ERROR_RT_CONTEXT_NULL, "The context is unknown or was destroyed.");
    set_current(context);
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtGetCurrentContext(aclrtContext* out) {
  return with_driver("aclrtGetCurrentContext", [&](Call&) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    std::shared_ptr<AclContext> context;
    if (const Result result = current_context(context); result != ACL_SUCCESS) return result;
    *out = reinterpret_cast<aclrtContext>(context->handle);
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtGetPrimaryCtxState(int32_t number, uint32_t* flags, int32_t* active) {
  return with_device("aclrtGetPrimaryCtxState", number, [&](Call&, const Device& device) -> Result {
    if (active == nullptr) return ACL_ERROR_INVALID_PARAM;
    if (flags != nullptr) *flags = 0;
    *active = device.context != nullptr ? 1 : 0;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtCtxGetCurrentDefaultStream(aclrtStream* out) {
  return with_context("aclrtCtxGetCurrentDefaultStream", [&](Call& call) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    *out = reinterpret_cast<aclrtStream>(call.context->legacy->handle);
    return ACL_SUCCESS;
  });
}
