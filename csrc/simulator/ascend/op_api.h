// What the vendor's library of operators, libopapi.so, would be: a few operators on tensors of the simulated device.
// One takes two calls: aclnnXGetWorkspaceSize looks at the tensors and makes an executor, aclnnX runs it on a stream.
// An operator that is not here is not exported: who looks for it is told that the library lacks it.
#pragma once

#include "acl_types.h"

enum aclDataType : int {
  ACL_FLOAT = 0,
  ACL_FLOAT16 = 1,
  ACL_INT8 = 2,
  ACL_INT32 = 3,
  ACL_UINT8 = 4,
  ACL_INT16 = 6,
  ACL_INT64 = 9,
  ACL_DOUBLE = 11,
  ACL_BOOL = 12,
  ACL_BF16 = 27,
};
enum aclFormat : int { ACL_FORMAT_ND = 2 };

using aclnnStatus = int;
constexpr aclnnStatus ACLNN_ERR_PARAM_NULLPTR = 161001;
constexpr aclnnStatus ACLNN_ERR_PARAM_INVALID = 161002;

struct aclTensor;
struct aclScalar;
struct aclOpExecutor;

UNIFY_SIMULATOR_EXPORT aclTensor* aclCreateTensor(const int64_t* viewDims, uint64_t viewDimsNum, aclDataType dataType,
                                                  const int64_t* stride, int64_t offset, aclFormat format,
                                                  const int64_t* storageDims, uint64_t storageDimsNum,
                                                  void* tensorData);
UNIFY_SIMULATOR_EXPORT aclnnStatus aclDestroyTensor(const aclTensor* tensor);
// The sizes are the caller's, to be freed by delete[].
UNIFY_SIMULATOR_EXPORT aclnnStatus aclGetViewShape(const aclTensor* tensor, int64_t** viewDims, uint64_t* viewDimsNum);
UNIFY_SIMULATOR_EXPORT aclScalar* aclCreateScalar(void* value, aclDataType dataType);
UNIFY_SIMULATOR_EXPORT aclnnStatus aclDestroyScalar(const aclScalar* scalar);

UNIFY_SIMULATOR_EXPORT aclnnStatus aclnnAddGetWorkspaceSize(const aclTensor* self, const aclTensor* other,
                                                            const aclScalar* alpha, aclTensor* out,
                                                            uint64_t* workspaceSize, aclOpExecutor** executor);
UNIFY_SIMULATOR_EXPORT aclnnStatus aclnnAdd(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                            aclrtStream stream);
UNIFY_SIMULATOR_EXPORT aclnnStatus aclnnAddsGetWorkspaceSize(const aclTensor* self, const aclScalar* other,
                                                             const aclScalar* alpha, aclTensor* out,
                                                             uint64_t* workspaceSize, aclOpExecutor** executor);
UNIFY_SIMULATOR_EXPORT aclnnStatus aclnnAdds(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                             aclrtStream stream);
UNIFY_SIMULATOR_EXPORT aclnnStatus aclnnInplaceCopyGetWorkspaceSize(aclTensor* selfRef, const aclTensor* src,
                                                                    uint64_t* workspaceSize, aclOpExecutor** executor);
UNIFY_SIMULATOR_EXPORT aclnnStatus aclnnInplaceCopy(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                                    aclrtStream stream);
