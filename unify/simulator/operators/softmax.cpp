// Softmax and its logarithm.
#include <ATen/Functions.h>

#include "wide.h"

using namespace unify::operators;

namespace {

// What is masked counts as -10000 (torch_npu's npu_scaled_masked_softmax).
Tensor masked_softmax(const Tensor& input, const Tensor& mask, double scale) {
  return at::softmax((wide(input) * scale).masked_fill(mask.to(ScalarType::Bool), -10000.0), -1);
}

}  // namespace

OPERATOR(aclnnSoftmax, (Tensor self, int64_t dim, Out out), out = at::_softmax(self.to(out->scalar_type()), dim, false))
OPERATOR(aclnnSoftmaxBackward, (Tensor grad, Tensor output, int64_t dim, Out grad_input),
         grad_input = at::_softmax_backward_data(wide(grad), wide(output), dim, wide(output).scalar_type()))
OPERATOR(aclnnLogSoftmax, (Tensor self, int64_t dim, Out out),
         out = at::_log_softmax(self.to(out->scalar_type()), dim, false))
OPERATOR(aclnnLogSoftmaxBackward, (Tensor grad, Tensor output, int64_t dim, Out grad_input),
         grad_input = at::_log_softmax_backward_data(wide(grad), wide(output), dim, wide(output).scalar_type()))
OPERATOR(aclnnScaledMaskedSoftmax, (Tensor self, Tensor mask, double scale, bool is_triangle, Out out),
         TORCH_CHECK(!is_triangle, "fixed_triu_mask is not simulated.");
         out = masked_softmax(self, mask, scale))
OPERATOR(aclnnScaledMaskedSoftmaxBackward,
         (Tensor grad, Tensor output, Tensor mask, double scale, bool is_triangle, Out grad_input),
         TORCH_CHECK(!is_triangle, "fixed_triu_mask is not simulated.");
         const Tensor by_logits = at::_softmax_backward_data(wide(grad), wide(output), -1, wide(output).scalar_type());
         grad_input = (by_logits * scale).masked_fill(mask.to(ScalarType::Bool), 0))
