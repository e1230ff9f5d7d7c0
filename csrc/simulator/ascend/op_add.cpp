// Sums: self + alpha * other.
#include "op_tensor.h"

using namespace unify::simulator;

namespace {

struct Sum {
  std::array<View, 3> views;  // out, self, other
  Number other;               // instead of the third
  Number alpha;
  bool has_other;
};

int32_t add(const unify_host_call* call, uint64_t, uint64_t) {
  const Sum& sum = *static_cast<const Sum*>(call->args);
  const auto& [out, self, other] = sum.views;
  const bool whole = is_whole(out.type);
  for_each(sum.views, [&, out_type = out.type, self_type = self.type, other_type = other.type](const auto& at) {
    const Number x = load(at[1], self_type);
    const Number y = sum.has_other ? load(at[2], other_type) : sum.other;
    Number result;
    if (whole) {
      result.whole = static_cast<int64_t>(static_cast<uint64_t>(x.whole) +
                                          static_cast<uint64_t>(sum.alpha.whole) * static_cast<uint64_t>(y.whole));
    } else {
      result.real = x.real + sum.alpha.real * y.real;
    }
    store(at[0], out_type, result);
  });
  return 0;
}

aclnnStatus prepare(const char* name, Sum& sum, uint64_t* workspace, aclOpExecutor** out) {
  for (View& view : sum.views) {
    if (bytes_of(view.type) == 0) {
      return refuse_operator(name, ACLNN_ERR_PARAM_INVALID,
                             "Elements of type " + std::to_string(view.type) + " are not served.");
    }
    if (is_whole(sum.views[0].type) && !is_whole(view.type)) {
      return refuse_operator(name, ACLNN_ERR_PARAM_INVALID, "A sum of real numbers does not fit into whole ones.");
    }
    if (!broadcast(sum.views[0], view)) {
      return refuse_operator(name, ACLNN_ERR_PARAM_INVALID, "The shapes do not fit together.");
    }
  }
  *workspace = 0;
  *out = make_executor(add, sum);
  return ACL_SUCCESS;
}

}  // namespace

UNIFY_SIMULATOR_EXPORT aclnnStatus aclnnAddGetWorkspaceSize(const aclTensor* self, const aclTensor* other,
                                                            const aclScalar* alpha, aclTensor* out, uint64_t* workspace,
                                                            aclOpExecutor** executor) {
  if (self == nullptr || other == nullptr || alpha == nullptr || out == nullptr || workspace == nullptr ||
      executor == nullptr) {
    return ACLNN_ERR_PARAM_NULLPTR;
  }
  Sum sum{{out->view, self->view, other->view}, {}, alpha->value, true};
  return prepare("aclnnAddGetWorkspaceSize", sum, workspace, executor);
}

UNIFY_SIMULATOR_EXPORT aclnnStatus aclnnAdd(void*, uint64_t, aclOpExecutor* executor, aclrtStream stream) {
  return run("aclnnAdd", executor, stream);
}

UNIFY_SIMULATOR_EXPORT aclnnStatus aclnnAddsGetWorkspaceSize(const aclTensor* self, const aclScalar* other,
                                                             const aclScalar* alpha, aclTensor* out,
                                                             uint64_t* workspace, aclOpExecutor** executor) {
  if (self == nullptr || other == nullptr || alpha == nullptr || out == nullptr || workspace == nullptr ||
      executor == nullptr) {
    return ACLNN_ERR_PARAM_NULLPTR;
  }
  Sum sum{{out->view, self->view, self->view}, other->value, alpha->value, false};
  return prepare("aclnnAddsGetWorkspaceSize", sum, workspace, executor);
}

UNIFY_SIMULATOR_EXPORT aclnnStatus aclnnAdds(void*, uint64_t, aclOpExecutor* executor, aclrtStream stream) {
  return run("aclnnAdds", executor, stream);
}
