// The part of the runtime under ACL that Huawei's Triton and torch_npu call: no header of it is public (its signatures
// are those of triton-ascend's npu_utils.cpp).
#pragma once

#include "acl_types.h"

struct rtDevBinary_t {
  uint32_t magic;
  uint32_t version;
  const void* data;
  uint64_t length;
};

UNIFY_SIMULATOR_EXPORT aclError rtDevBinaryRegister(const rtDevBinary_t* binary, void** out);
UNIFY_SIMULATOR_EXPORT aclError rtFunctionRegister(void* binary, const void* stub, const char* stub_name,
                                                   const void* kernel_name, uint32_t mode);
UNIFY_SIMULATOR_EXPORT aclError rtKernelLaunch(const void* stub, uint32_t blocks, void* args, uint32_t args_bytes,
                                               void* memory_description, void* stream);
UNIFY_SIMULATOR_EXPORT aclError rtGetC2cCtrlAddr(uint64_t* out, uint32_t* length);
