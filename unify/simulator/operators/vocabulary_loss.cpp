// Cross entropy of a linear layer whose vocabulary is divided among devices, in the parts between which they talk.
#include <ATen/Functions.h>

#include "wide.h"

using namespace unify::operators;

namespace {

void refuse_smoothing(double smoothing) {
  TORCH_CHECK(smoothing == 0, "labelSmoothing of ", smoothing, " is not supported: 0 is.");
}

Tensor bits() { return at::tensor({128, 64, 32, 16, 8, 4, 2, 1}, at::TensorOptions(ScalarType::Byte)); }

// A bit for each token, the first one the highest of a byte; those behind the last token are 1.
Tensor pack(const Tensor& mask) {
  const Tensor whole = at::constant_pad_nd(mask.to(ScalarType::Byte), {0, (8 - mask.numel() % 8) % 8}, 1).view({-1, 8});
  return whole.mul(bits()).sum(1, false, ScalarType::Byte);
}
Tensor unpack(const Tensor& mask, int64_t tokens) {
  return mask.unsqueeze(1).bitwise_and(bits()).ne(0).flatten().narrow(0, 0, tokens);
}

// target: [B] in the whole vocabulary; this device has first to last of it.
void largest_and_sum(const Tensor& input, const Tensor& weight, const Tensor& target, int64_t first, int64_t last,
                     const Out& largest, const Out& sum, const Out& predicted, const Out& mask, const Out& own_target,
                     const Out& out_logits) {
  TORCH_CHECK(first >= 0 && last >= first, "vocabStartIndex is ", first, ", vocabEndIndex ", last, ".");
  const Tensor logits = wide(input).matmul(wide(weight).t());
  const Tensor most = at::amax(logits, -1), below = logits - most.unsqueeze(-1);
  const Tensor elsewhere = (target < first) | (target > last);
  const Tensor own = at::where(elsewhere, at::zeros_like(target), target - first);
  largest = most;
  sum = below.exp().sum(-1);
  predicted = below.gather(-1, own.to(ScalarType::Long).unsqueeze(-1)).squeeze(-1).masked_fill(elsewhere, 0);
  mask = pack(elsewhere);
  own_target = own;
  out_logits = logits;
}

void loss(const Tensor& largest, const Tensor& sum, const Tensor& predicted, double smoothing,
          const optional<Tensor>& logits, const Out& out, const Out& softmax) {
  refuse_smoothing(smoothing);
  out = at::log(sum) - predicted;
  if (logits.has_value()) softmax = at::exp(wide(*logits) - largest.unsqueeze(-1)) / sum.unsqueeze(-1);
}

void gradients(const Tensor& grad, const Tensor& input, const Tensor& weight, const Tensor& mask, const Tensor& target,
               double smoothing, const optional<Tensor>& largest, const optional<Tensor>& sum,
               const optional<Tensor>& softmax, const Out& by_input, const Out& by_weight) {
  refuse_smoothing(smoothing);
  const auto again = [&] {  // where nobody kept it, to save memory
    TORCH_CHECK(largest.has_value() && sum.has_value(), "without softmax, logitsMax and sumExpLogits are needed.");
    const Tensor logits = wide(input).matmul(wide(weight).t());
    return at::exp(logits - largest->unsqueeze(-1)) / sum->unsqueeze(-1);
  };
  const Tensor shares = softmax.has_value() ? wide(*softmax) : again();
  const Tensor here = unpack(mask, input.size(0)).logical_not().to(shares.scalar_type());
  const Tensor index = target.to(ScalarType::Long).unsqueeze(-1);
  const Tensor by_logits = shares.scatter_add(-1, index, -here.unsqueeze(-1)) * grad.unsqueeze(-1);
  by_input = by_logits.matmul(wide(weight));
  by_weight = by_logits.t().matmul(wide(input));
}

}  // namespace

OPERATOR(aclnnFusedLinearOnlineMaxSum,
         (Tensor input, Tensor weight, Tensor target, int64_t first, int64_t last, Out largest, Out sum, Out predicted,
          Out mask, Out own_target, Out logits),
         largest_and_sum(input, weight, target, first, last, largest, sum, predicted, mask, own_target, logits))
// torch_npu gives the smoothing as a double where the vendor's header has a float.
OPERATOR(aclnnFusedCrossEntropyLossWithMaxSum,
         (Tensor largest, Tensor sum, Tensor predicted, double smoothing, optional<Tensor> input,
          optional<Tensor> weight, optional<Tensor> logits, Out out, Out softmax),
         TORCH_CHECK(!input.has_value() && !weight.has_value(), "input and weight are not supported by the chip yet.");
         loss(largest, sum, predicted, smoothing, logits, out, softmax))
OPERATOR(aclnnFusedLinearCrossEntropyLossGrad,
         (Tensor grad, Tensor input, Tensor weight, Tensor mask, Tensor target, double smoothing,
          optional<Tensor> largest, optional<Tensor> sum, optional<Tensor> softmax, Out by_input, Out by_weight),
         gradients(grad, input, weight, mask, target, smoothing, largest, sum, softmax, by_input, by_weight))
