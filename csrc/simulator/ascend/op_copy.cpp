// Copies between tensors of any layout and type.
#include "op_tensor.h"

using namespace unify::simulator;

namespace {

struct Copy {
  std::array<View, 2> views;  // to, from
};

int32_t copy(const unify_host_call* call, uint64_t, uint64_t) {
  const Copy& copy = *static_cast<const Copy*>(call->args);
  const auto& [to, from] = copy.views;
  for_each(copy.views, [to_type = to.type, from_type = from.type](const auto& at) {
    store(at[0], to_type, load(at[1], from_type));
  });
  return 0;
}

}  // namespace

UNIFY_SIMULATOR_EXPORT aclnnStatus aclnnInplaceCopyGetWorkspaceSize(aclTensor* to, const aclTensor* from,
                                                                    uint64_t* workspace, aclOpExecutor** executor) {
  constexpr char kName[] = "aclnnInplaceCopyGetWorkspaceSize";
  if (to == nullptr || from == nullptr || workspace == nullptr || executor == nullptr) return ACLNN_ERR_PARAM_NULLPTR;
  Copy work{{to->view, from->view}};
  if (bytes_of(to->view.type) == 0 || bytes_of(from->view.type) == 0) {
    return refuse_operator(kName, ACLNN_ERR_PARAM_INVALID, "Elements of such a type are not served.");
  }
  if (!broadcast(work.views[0], work.views[1])) {
    return refuse_operator(kName, ACLNN_ERR_PARAM_INVALID, "The shapes do not fit together.");
  }
  *workspace = 0;
  *executor = make_executor(copy, work);
  return ACL_SUCCESS;
}

UNIFY_SIMULATOR_EXPORT aclnnStatus aclnnInplaceCopy(void*, uint64_t, aclOpExecutor* executor, aclrtStream stream) {
  return run("aclnnInplaceCopy", executor, stream);
}
