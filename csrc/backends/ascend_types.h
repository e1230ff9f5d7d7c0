// ACL's types and numbers that the Ascend backend uses, by their names in the vendor's acl_rt.h, so that no CANN is
// needed to build it. tests/test_ascend_abi.py compiles each of them against that header.
#pragma once

#include <cstddef>
#include <cstdint>

namespace unify::ascend {

using aclError = int;
using aclrtContext = void*;
using aclrtStream = void*;
using aclrtEvent = void*;
using aclmdlRI = void*;
using aclrtBinHandle = void*;
using aclrtFuncHandle = void*;
using aclrtDrvMemHandle = void*;
using aclrtCallback = void (*)(void*);

struct aclrtUuid {
  char bytes[16];
};
struct aclrtIpcEventHandle {
  char reserved[64];
};

struct aclrtMemLocation {
  uint32_t id;
  int type;
};
struct aclrtPhysicalMemProp {
  int handleType;
  int allocationType;
  int memAttr;
  aclrtMemLocation location;
  uint64_t reserve;
};
struct aclrtMemAccessDesc {
  int flags;
  aclrtMemLocation location;
  uint8_t rsv[12];
};

union aclrtBinaryLoadOptionValue {
  uint32_t isLazyLoad;
  uint32_t magic;
  uint32_t rsv[4];
};
struct aclrtBinaryLoadOption {
  int type;
  aclrtBinaryLoadOptionValue value;
};
struct aclrtBinaryLoadOptions {
  aclrtBinaryLoadOption* options;
  size_t numOpt;
};

union aclrtLaunchKernelAttrValue {
  uint32_t dynUBufSize;
  uint32_t rsv[4];
};
struct aclrtLaunchKernelAttr {
  int id;
  aclrtLaunchKernelAttrValue value;
};
struct aclrtLaunchKernelCfg {
  aclrtLaunchKernelAttr* attrs;
  size_t numAttrs;
};
struct aclrtPlaceHolderInfo {
  uint32_t addrOffset;
  uint32_t dataOffset;
};

// Errors are in ascend_errors.inc; these are what the backend asks for by name.
enum : aclError {
  ACL_SUCCESS = 0,
  ACL_ERROR_INVALID_PARAM = 100000,
  ACL_ERROR_REPEAT_INITIALIZE = 100002,
  ACL_ERROR_RT_PARAM_INVALID = 107000,
  ACL_ERROR_RT_CONTEXT_NULL = 107002,
  ACL_ERROR_RT_EVENT_TIMESTAMP_REVERSAL = 107007,
  ACL_ERROR_RT_STREAM_SUBSCRIBE = 107011,
  ACL_ERROR_RT_INVALID_HANDLE = 107017,
  ACL_ERROR_RT_FEATURE_NOT_SUPPORT = 207000,
  ACL_ERROR_RT_INTERNAL_ERROR = 507000,
  ACL_ERROR_RT_REPORT_TIMEOUT = 507012,
  ACL_ERROR_RT_KERNEL_LOOKUP = 507027,
};

enum : int {
  ACL_MEM_MALLOC_HUGE_FIRST = 0,
  ACL_RT_MEM_ATTACH_GLOBAL = 1,
  ACL_DDR_MEM = 0,
  ACL_HBM_MEM = 1,
  ACL_HBM_MEM_HUGE = 4,
  ACL_MEM_HANDLE_TYPE_NONE = 0,
  ACL_MEM_ALLOCATION_TYPE_PINNED = 0,
  ACL_MEM_LOCATION_TYPE_DEVICE = 1,
  ACL_RT_MEM_ALLOC_GRANULARITY_MINIMUM = 0,
  ACL_RT_MEM_ACCESS_FLAGS_READWRITE = 3,

  ACL_MEMCPY_HOST_TO_DEVICE = 1,
  ACL_MEMCPY_DEVICE_TO_HOST = 2,
  ACL_MEMCPY_DEVICE_TO_DEVICE = 3,

  ACL_STREAM_FAST_LAUNCH = 1,
  ACL_STREAM_FAST_SYNC = 2,
  ACL_STOP_ON_FAILURE = 1,
  ACL_STREAM_STATUS_COMPLETE = 0,
  ACL_STREAM_STATUS_NOT_READY = 1,
  ACL_CALLBACK_BLOCK = 1,

  ACL_EVENT_SYNC = 1,
  ACL_EVENT_TIME_LINE = 8,
  ACL_EVENT_IPC = 64,
  ACL_EVENT_RECORDED_STATUS_NOT_READY = 0,
  ACL_EVENT_RECORDED_STATUS_COMPLETE = 1,
  ACL_IPC_EVENT_HANDLE_SIZE = 64,

  ACL_RT_DEVICE_STATUS_NORMAL = 0,
  ACL_RT_DEVICE_STATUS_ABNORMAL = 1,

  ACL_DEV_ATTR_AICORE_CORE_NUM = 101,
  ACL_DEV_ATTR_VECTOR_CORE_NUM = 201,
  ACL_DEV_ATTR_UBUF_PER_VECTOR_CORE = 204,
  ACL_DEV_ATTR_TOTAL_GLOBAL_MEM_SIZE = 301,
  ACL_DEV_ATTR_L2_CACHE_SIZE = 302,
  ACL_DEVICE_INFO_AI_CORE_NUM = 0,
  ACL_DEVICE_INFO_VECTOR_CORE_NUM = 1,
  ACL_DEVICE_INFO_L2_SIZE = 2,

  ACL_RT_BINARY_LOAD_OPT_LAZY_LOAD = 1,
  ACL_RT_BINARY_LOAD_OPT_MAGIC = 2,
  ACL_RT_BINARY_MAGIC_ELF_AICORE = 1129660997,
  ACL_RT_BINARY_MAGIC_ELF_VECTOR_CORE = 1094799942,
  ACL_RT_LAUNCH_KERNEL_ATTR_DYN_UBUF_SIZE = 2,

  ACL_MODEL_RI_CAPTURE_MODE_RELAXED = 2,
  ACL_MODEL_RI_CAPTURE_STATUS_NONE = 0,

  ACL_RT_IPC_MEM_EXPORT_FLAG_DISABLE_PID_VALIDATION = 1,
  ACL_RT_IPC_MEM_IMPORT_FLAG_ENABLE_PEER_ACCESS = 1,

  ACL_PKG_VERSION_MAX_SIZE = 128,
};

}  // namespace unify::ascend
