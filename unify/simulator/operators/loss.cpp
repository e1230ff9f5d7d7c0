// Losses: at::Reduction says how their elements become one (0 none, 1 mean, 2 sum).
#include <ATen/Functions.h>

#include <algorithm>

#include "wide.h"

using namespace unify::operators;

namespace {

// The gradient of each element, which a mean shares out among them.
Tensor share(const Tensor& gradient, int64_t reduction) {
  return reduction == at::Reduction::Mean ? gradient / static_cast<double>(gradient.numel()) : gradient;
}

// Of a class's number torch's CPU operators take int64 alone.
Tensor classes(const Tensor& target) { return target.to(ScalarType::Long); }

int64_t reduction_of(const std::string& name) {
  if (name == "none") return at::Reduction::None;
  if (name == "mean") return at::Reduction::Mean;
  TORCH_CHECK(name == "sum", "reduction '", name, "' is not none, mean or sum.");
  return at::Reduction::Sum;
}

Tensor one_of(const optional<Tensor>& tensor, const Tensor& like) {
  return tensor.has_value() ? wide(*tensor) : at::ones_like(like);
}

// By the logits, of which only the logarithms of the probabilities are left.
Tensor cross_entropy_backward(const Tensor& grad, const Tensor& log_prob, const Tensor& target,
                              const optional<Tensor>& weight, int64_t reduction, int64_t ignored, double smoothing) {
  const Tensor logs = wide(log_prob);
  const int64_t count = logs.size(1);
  const Tensor is_counted = (target != ignored).to(logs.scalar_type());
  const Tensor index = target.masked_fill(target == ignored, 0).unsqueeze(1);
  const Tensor weights = one_of(weight, logs.select(0, 0));
  const Tensor own = weights.index_select(0, index.squeeze(1)) * is_counted;
  Tensor share_of_row = wide(grad).expand_as(own);
  if (reduction == at::Reduction::Mean) share_of_row = share_of_row / own.sum();
  Tensor by_log = at::zeros_like(logs).scatter(1, index, (-(1 - smoothing) * own).unsqueeze(1));
  by_log = by_log - weights * is_counted.unsqueeze(1) * (smoothing / static_cast<double>(count));
  return at::_log_softmax_backward_data(by_log * share_of_row.unsqueeze(1), logs, 1, logs.scalar_type());
}

}  // namespace

// Of classes

#define NLL_LOSS(NAME, FUNCTION)                                                                                       \
  OPERATOR(NAME,                                                                                                       \
           (Tensor self, Tensor target, Tensor weight, int64_t reduction, int64_t ignored, Out out, Out total_weight), \
           write(at::FUNCTION##_forward(self, classes(target), weight.to(self.scalar_type()), reduction, ignored),     \
                 out, total_weight))                                                                                   \
  OPERATOR(NAME##Backward,                                                                                             \
           (Tensor grad, Tensor self, Tensor target, Tensor weight, int64_t reduction, int64_t ignored,                \
            Tensor total_weight, Out grad_input),                                                                      \
           grad_input = at::FUNCTION##_backward(grad, self, classes(target), weight.to(self.scalar_type()), reduction, \
                                                ignored, total_weight))
NLL_LOSS(aclnnNLLLoss, nll_loss)
NLL_LOSS(aclnnNLLLoss2d, nll_loss2d)
#undef NLL_LOSS
OPERATOR(aclnnCrossEntropyLoss,
         (Tensor self, Tensor target, optional<Tensor> weight, std::string reduction, int64_t ignored, double smoothing,
          double zloss_scale, bool is_zloss_wanted, Out loss, Out log_prob, Out, Out),
         TORCH_CHECK(zloss_scale == 0 && !is_zloss_wanted, "zloss is supported neither by the chip nor here.");
         write_reshaped(at::cross_entropy_loss(wide(self), classes(target), wide(weight), reduction_of(reduction),
                                               ignored, smoothing),
                        loss);
         log_prob = at::log_softmax(wide(self), -1))
OPERATOR(aclnnCrossEntropyLossGrad,
         (Tensor grad, Tensor log_prob, Tensor target, optional<Tensor> weight, optional<Tensor>, optional<Tensor>,
          std::string reduction, int64_t ignored, double smoothing, double zloss_scale, Out grad_input),
         TORCH_CHECK(zloss_scale == 0, "zloss is supported neither by the chip nor here.");
         grad_input = cross_entropy_backward(grad, log_prob, classes(target), wide(weight), reduction_of(reduction),
                                             ignored, smoothing))
OPERATOR(aclnnMultilabelMarginLoss, (Tensor self, Tensor target, int64_t reduction, Out out, Out is_target),
         write(at::multilabel_margin_loss_forward(self, classes(target), reduction), out, is_target))
OPERATOR(aclnnCtcLoss,
         (Tensor log_probs, Tensor targets, Ints input_lengths, Ints target_lengths, int64_t blank, bool is_zero,
          Out loss, Out log_alpha),
         const auto [its_loss, alpha] = at::_ctc_loss(log_probs, targets, input_lengths, target_lengths, blank,
                                                      is_zero);
         loss = its_loss;
         // torch_npu rounds its memory up.
         if (log_alpha.is_wanted()) log_alpha->slice(2, 0, alpha.size(2)).copy_(alpha))
OPERATOR(aclnnCtcLossBackward,
         (Tensor grad, Tensor log_probs, Tensor targets, Ints input_lengths, Ints target_lengths, Tensor loss,
          Tensor log_alpha, int64_t blank, bool is_zero, Out grad_input),
         const int64_t longest = *std::max_element(target_lengths.begin(), target_lengths.end());
         grad_input = at::_ctc_loss_backward(grad, log_probs, targets, input_lengths, target_lengths, loss,
                                             log_alpha.slice(2, 0, 2 * longest + 1), blank, is_zero))

// Of probabilities

OPERATOR(aclnnBinaryCrossEntropy, (Tensor self, Tensor target, optional<Tensor> weight, int64_t reduction, Out out),
         out = at::binary_cross_entropy(self, target, weight, reduction))
OPERATOR(aclnnBinaryCrossEntropyBackward,
         (Tensor grad, Tensor self, Tensor target, optional<Tensor> weight, int64_t reduction, Out grad_input),
         grad_input = at::binary_cross_entropy_backward(grad, self, target, weight, reduction))
OPERATOR(aclnnBinaryCrossEntropyWithLogits,
         (Tensor self, Tensor target, optional<Tensor> weight, optional<Tensor> pos_weight, int64_t reduction, Out out),
         out = at::binary_cross_entropy_with_logits(self, target, weight, pos_weight, reduction))
OPERATOR(aclnnBinaryCrossEntropyWithLogitsBackward,
         (Tensor grad, Tensor self, Tensor target, optional<Tensor> weight, optional<Tensor> pos_weight,
          int64_t reduction, Out grad_input),
         const Tensor t = wide(target);
         const Tensor positive = one_of(pos_weight, t) * t;
         const Tensor each = (positive + 1 - t) * at::sigmoid(wide(self)) - positive;
         grad_input = share(each * one_of(weight, t) * wide(grad), reduction))
OPERATOR(aclnnKlDiv, (Tensor self, Tensor target, int64_t reduction, bool is_log, Out out),
         out = at::kl_div(self, target, reduction, is_log))
OPERATOR(aclnnKlDivBackward, (Tensor grad, Tensor self, Tensor target, int64_t reduction, bool is_log, Out grad_input),
         const Tensor t = wide(target);
         grad_input = share(-(is_log ? at::exp(t) : at::where(t > 0, t, at::zeros_like(t))) * wide(grad) *
                                at::ones_like(wide(self)),
                            reduction))
OPERATOR(aclnnKlDivTargetBackward,
         (Tensor grad, Tensor self, Tensor target, int64_t reduction, bool is_log, Out grad_target),
         const Tensor t = wide(target);
         const Tensor each = is_log ? at::exp(t) * (t + 1 - wide(self))
                                    : (at::log(t) + 1 - wide(self)).masked_fill(t == 0, 0);
         grad_target = share(each * wide(grad), reduction))
OPERATOR(aclnnSoftMarginLoss, (Tensor self, Tensor target, int64_t reduction, Out out),
         out = at::soft_margin_loss(self, target, reduction))
OPERATOR(aclnnSoftMarginLossBackward, (Tensor grad, Tensor self, Tensor target, int64_t reduction, Out grad_input),
         grad_input = at::soft_margin_loss_backward(grad, self, target, reduction))

// Of distances

OPERATOR(aclnnL1Loss, (Tensor self, Tensor target, int64_t reduction, Out out),
         out = at::l1_loss(self, target, reduction))
OPERATOR(aclnnL1LossBackward, (Tensor grad, Tensor self, Tensor target, int64_t reduction, Out grad_input),
         grad_input = share(at::sign(wide(self) - wide(target)) * wide(grad), reduction))
OPERATOR(aclnnMseLoss, (Tensor self, Tensor target, int64_t reduction, Out out),
         out = at::mse_loss(self, target, reduction))
OPERATOR(aclnnMseLossBackward, (Tensor grad, Tensor self, Tensor target, int64_t reduction, Out grad_input),
         grad_input = share((wide(self) - wide(target)) * 2 * wide(grad), reduction))
OPERATOR(aclnnSmoothL1Loss, (Tensor self, Tensor target, int64_t reduction, float beta, Out out),
         out = at::smooth_l1_loss(self, target, reduction, beta))
OPERATOR(aclnnSmoothL1LossBackward,
         (Tensor grad, Tensor self, Tensor target, int64_t reduction, float beta, Out grad_input),
         const Tensor gap = wide(self) - wide(target);
         const Tensor each = beta == 0 ? at::sign(gap) : at::clamp(gap / beta, -1, 1);
         grad_input = share(each * wide(grad), reduction))
