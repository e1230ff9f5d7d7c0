// Steps of transformers that are one operator, for one kind of them each.
#include <ATen/Functions.h>

#include "wide.h"

using namespace unify::operators;

namespace {

// Of the layer norm of alpha x + residual.
void deep_norm_backward(const Tensor& grad, const Tensor& x, const Tensor& residual, const Tensor& gamma,
                        const Tensor& mean, const Tensor& rstd, double alpha, const Out& by_x, const Out& by_residual,
                        const Out& by_beta, const Out& by_gamma) {
  const Tensor scale = wide(gamma);
  const auto [by_input, by_weight, by_bias] =
      at::native_layer_norm_backward(wide(grad), wide(x) * alpha + wide(residual), gamma.sizes(), mean, rstd, scale,
                                     at::zeros_like(scale), {true, true, true});
  by_x = by_input * alpha;
  by_residual = by_input;
  by_beta = by_bias;
  by_gamma = by_weight;
}

// x: [B W, N, S, S] or [B, W, N, S, S]; mask: of the W windows, [W, S, S], [W, 1, S, S] or [1, W, 1, S, S]; bias: of
// the heads, [N, S, S] with ones before it.
Tensor window_softmax(const Tensor& x, const optional<Tensor>& mask, const Tensor& bias, double scale) {
  Tensor scores = wide(x) * scale;
  if (mask.has_value()) {
    const Tensor of_windows = wide(*mask).reshape({-1, 1, x.size(-2), x.size(-1)});
    Tensor windows = scores.reshape({-1, of_windows.size(0), x.size(-3), x.size(-2), x.size(-1)});
    scores = (windows + of_windows).view_as(scores);
  }
  const Tensor of_heads = wide(bias).reshape({-1, x.size(-2), x.size(-1)});
  return at::softmax(scores + of_heads, -1);
}

}  // namespace

OPERATOR(aclnnDeepNormGrad,
         (Tensor grad, Tensor x, Tensor residual, Tensor gamma, Tensor mean, Tensor rstd, double alpha, Out by_x,
          Out by_residual, Out by_beta, Out by_gamma),
         deep_norm_backward(grad, x, residual, gamma, mean, rstd, alpha, by_x, by_residual, by_beta, by_gamma))
OPERATOR(aclnnMaskedSoftmaxWithRelPosBias,
         (Tensor x, optional<Tensor> mask, Tensor bias, double scale, int64_t, Out out),
         out = window_softmax(x, mask, bias, scale))
OPERATOR(aclnnTransformBiasRescaleQkv, (Tensor qkv, Tensor bias, int64_t heads, Out query, Out key, Out value),
         write(at::_transform_bias_rescale_qkv(wide(qkv).contiguous(), wide(bias), heads), query, key, value))
