// Normalization over layers, groups and batches.
#include <ATen/Functions.h>

#include <array>

#include "normalization.h"

using namespace unify::operators;

namespace {

// The dimensions of which a parameter of this many is the last ones.
Ints last_dimensions(int64_t count) {
  Ints dimensions;
  for (int64_t dimension = -count; dimension < 0; ++dimension) dimensions.push_back(dimension);
  return dimensions;
}

}  // namespace

RmsNorm unify::operators::rms_norm(const Tensor& input, const Tensor& gamma, double eps) {
  const Tensor x = wide(input);
  const Tensor rstd = at::rsqrt(at::mean(x * x, last_dimensions(gamma.dim()), true) + eps);
  return {x * rstd * wide(gamma), rstd};
}

namespace {

std::array<bool, 3> wanted(const Out& first, const Out& second, const Out& third) {
  return {first.is_wanted(), second.is_wanted(), third.is_wanted()};
}

void layer_norm(const Tensor& input, const Ints& shape, const optional<Tensor>& weight, const optional<Tensor>& bias,
                double eps, const Out& out, const Out& mean, const Out& rstd) {
  const auto [result, its_mean, its_rstd] = at::native_layer_norm(wide(input), shape, wide(weight), wide(bias), eps);
  out = result;
  write_reshaped(its_mean, mean);
  write_reshaped(its_rstd, rstd);
}

void layer_norm_backward(const Tensor& grad, const Tensor& input, const Ints& shape, const Tensor& mean,
                         const Tensor& rstd, const optional<Tensor>& weight, const Out& grad_input,
                         const Out& grad_weight, const Out& grad_bias) {
  const auto bias = weight.has_value() ? optional<Tensor>(at::zeros_like(wide(*weight))) : std::nullopt;
  const auto [by_input, by_weight, by_bias] =
      at::native_layer_norm_backward(wide(grad), wide(input), shape, wide(mean), wide(rstd), wide(weight), bias,
                                     wanted(grad_input, grad_weight, grad_bias));
  write_defined(by_input, grad_input);
  write_defined(by_weight, grad_weight);
  write_defined(by_bias, grad_bias);
}

void write_rms_norm(const Tensor& input, const Tensor& gamma, double eps, const Out& out, const Out& rstd) {
  const RmsNorm norm = rms_norm(input, gamma, eps);
  out = norm.result;
  rstd = norm.rstd;
}

void rms_norm_backward(const Tensor& grad, const Tensor& input, const Tensor& rstd, const Tensor& gamma,
                       const Out& grad_input, const Out& grad_gamma) {
  const Tensor normal = wide(input) * rstd;
  const Tensor by_normal = wide(grad) * wide(gamma);
  const Tensor along = at::mean(by_normal * normal, last_dimensions(gamma.dim()), true);
  grad_input = (by_normal - normal * along) * rstd;
  Ints leading;
  for (int64_t i = 0; i < input.dim() - gamma.dim(); ++i) leading.push_back(i);
  grad_gamma = leading.empty() ? wide(grad) * normal : at::sum(wide(grad) * normal, leading);
}

// [C] beside an input of [N, C, ...].
Tensor by_channel(const Tensor& values, const Tensor& input) {
  Ints shape(static_cast<size_t>(input.dim()), 1);
  shape[1] = values.numel();
  return wide(values).reshape(shape);
}

Tensor sum_by_channel(const Tensor& input) {
  Ints dimensions{0};
  for (int64_t i = 2; i < input.dim(); ++i) dimensions.push_back(i);
  return at::sum(wide(input), dimensions);
}

void batch_norm(const Tensor& input, const optional<Tensor>& weight, const optional<Tensor>& bias,
                const optional<Tensor>& running_mean, const optional<Tensor>& running_var, bool training,
                double momentum, double eps, const Out& out, const Out& save_mean, const Out& save_invstd) {
  const auto mean = wide(running_mean);
  const auto var = wide(running_var);
  const auto [result, batch_mean, batch_invstd] =
      at::native_batch_norm(wide(input), wide(weight), wide(bias), mean, var, training, momentum, eps);
  out = result;
  if (!training) {  // torch saves none
    if (save_mean.is_wanted() && mean.has_value()) save_mean = *mean;
    if (save_invstd.is_wanted() && var.has_value()) save_invstd = at::rsqrt(*var + eps);
    return;
  }
  save_mean = batch_mean;
  save_invstd = batch_invstd;
  if (mean.has_value()) running_mean->copy_(*mean);
  if (var.has_value()) running_var->copy_(*var);
}

void update_running(const optional<Tensor>& running, const Tensor& now, double momentum) {
  if (running.has_value()) running->copy_(wide(*running) * (1 - momentum) + now * momentum);
}

// Merges the statistics of several parts of a batch: each of [parts, C], counts [parts].
void gather_statistics(const Tensor& means, const Tensor& variances, const Tensor& counts,
                       const optional<Tensor>& running_mean, const optional<Tensor>& running_var, double momentum,
                       double eps, const Out& mean, const Out& invstd) {
  const Tensor weights = counts.to(ScalarType::Double).reshape({-1, 1});
  const double total = weights.sum().item<double>();
  const Tensor together = (means * weights).sum(0) / total;
  const Tensor squares = (weights * (variances + at::square(means - together))).sum(0);
  mean = together;
  invstd = at::rsqrt(squares / total + eps);
  update_running(running_mean, together, momentum);
  update_running(running_var, squares / (total - 1), momentum);
}

void group_norm(const Tensor& input, const optional<Tensor>& weight, const optional<Tensor>& bias, int64_t groups,
                double eps, double swish, const Out& out, const Out& mean, const Out& rstd) {
  const int64_t batch = input.size(0), channels = input.size(1);
  const int64_t inner = batch * channels == 0 ? 0 : input.numel() / (batch * channels);
  const auto [result, its_mean, its_rstd] =
      at::native_group_norm(wide(input).contiguous(), wide(weight), wide(bias), batch, channels, inner, groups, eps);
  out = swish == 0 ? result : result * at::sigmoid(result * swish);
  mean = its_mean;
  rstd = its_rstd;
}

void group_norm_backward(const Tensor& grad, const Tensor& input, const Tensor& mean, const Tensor& rstd,
                         const optional<Tensor>& gamma, int64_t groups, const Out& grad_input, const Out& grad_gamma,
                         const Out& grad_beta) {
  const int64_t batch = input.size(0), channels = input.size(1);
  const int64_t inner = batch * channels == 0 ? 0 : input.numel() / (batch * channels);
  const auto [by_input, by_gamma, by_beta] = at::native_group_norm_backward(
      wide(grad).contiguous(), wide(input).contiguous(), wide(mean), wide(rstd), wide(gamma), batch, channels, inner,
      groups, wanted(grad_input, grad_gamma, grad_beta));
  write_defined(by_input, grad_input);
  write_defined(by_gamma, grad_gamma);
  write_defined(by_beta, grad_beta);
}

void group_norm_swish_backward(const Tensor& grad, const Tensor& mean, const Tensor& rstd, const Tensor& input,
                               const Tensor& weight, const Tensor& bias, int64_t groups, double swish,
                               const Out& grad_input, const Out& grad_weight, const Out& grad_bias) {
  const Tensor grouped = wide(input).reshape({input.size(0), groups, -1});
  const Tensor normal = ((grouped - wide(mean).unsqueeze(-1)) * wide(rstd).unsqueeze(-1)).view_as(input);
  const Tensor y = normal * by_channel(weight, input) + by_channel(bias, input);
  const Tensor gate = at::sigmoid(y * swish);
  group_norm_backward(wide(grad) * gate * (1 + swish * y * (1 - gate)), input, mean, rstd, weight, groups, grad_input,
                      grad_weight, grad_bias);
}

}  // namespace

// Layers

OPERATOR(aclnnLayerNorm,
         (Tensor input, Ints shape, optional<Tensor> weight, optional<Tensor> bias, double eps, Out out, Out mean,
          Out rstd),
         layer_norm(input, shape, weight, bias, eps, out, mean, rstd))
OPERATOR(aclnnFastLayerNorm,
         (Tensor input, Ints shape, optional<Tensor> weight, optional<Tensor> bias, double eps, Out out, Out mean,
          Out rstd),
         layer_norm(input, shape, weight, bias, eps, out, mean, rstd))
OPERATOR(aclnnLayerNormBackward,
         (Tensor grad, Tensor input, Ints shape, Tensor mean, Tensor rstd, optional<Tensor> weight, optional<Tensor>,
          Bools, Out grad_input, Out grad_weight, Out grad_bias),
         layer_norm_backward(grad, input, shape, mean, rstd, weight, grad_input, grad_weight, grad_bias))
OPERATOR(aclnnAddLayerNorm,
         (Tensor x1, Tensor x2, Tensor gamma, Tensor beta, optional<Tensor> bias, double eps, bool is_sum_wanted,
          Out out, Out mean, Out rstd, Out sum),
         Tensor added = wide(x1) + wide(x2);
         if (bias.has_value()) added = added + wide(*bias);
         layer_norm(added, gamma.sizes().vec(), gamma, beta, eps, out, mean, rstd); if (is_sum_wanted) sum = added)
OPERATOR(aclnnAddLayerNormGrad,
         (Tensor grad, Tensor x1, Tensor x2, Tensor rstd, Tensor mean, Tensor gamma, optional<Tensor> grad_sum,
          Out grad_x, Out grad_gamma, Out grad_beta),
         const Tensor added = wide(x1) + wide(x2);
         layer_norm_backward(grad, added, gamma.sizes().vec(), mean, rstd, gamma, grad_x, grad_gamma, grad_beta);
         if (grad_sum.has_value()) grad_x = wide(static_cast<const Tensor&>(grad_x)) + wide(*grad_sum))
OPERATOR(aclnnDeepNorm,
         (Tensor x, Tensor residual, Tensor beta, Tensor gamma, double alpha, double eps, Out mean, Out rstd, Out out),
         layer_norm(wide(x) * alpha + wide(residual), gamma.sizes().vec(), gamma, beta, eps, out, mean, rstd))
OPERATOR(aclnnRmsNorm, (Tensor input, Tensor gamma, double eps, Out out, Out rstd),
         write_rms_norm(input, gamma, eps, out, rstd))
OPERATOR(aclnnRmsNormGrad, (Tensor grad, Tensor input, Tensor rstd, Tensor gamma, Out grad_input, Out grad_gamma),
         rms_norm_backward(grad, input, rstd, gamma, grad_input, grad_gamma))
OPERATOR(aclnnGemmaRmsNorm, (Tensor input, Tensor gamma, double eps, Out out, Out rstd),
         write_rms_norm(input, wide(gamma) + 1, eps, out, rstd))
OPERATOR(aclnnAddRmsNorm, (Tensor x1, Tensor x2, Tensor gamma, double eps, Out out, Out rstd, Out sum),
         const Tensor added = wide(x1) + wide(x2);
         write_rms_norm(added, gamma, eps, out, rstd); sum = added)
OPERATOR(aclnnAddRmsNormCast, (Tensor x1, Tensor x2, Tensor gamma, double eps, Out out, Out rounded, Out rstd, Out sum),
         const Tensor added = wide(x1) + wide(x2);
         write_rms_norm(added, gamma, eps, out, rstd); rounded = static_cast<const Tensor&>(out); sum = added)

// Groups

OPERATOR(aclnnGroupNorm,
         (Tensor input, optional<Tensor> weight, optional<Tensor> bias, int64_t, int64_t, int64_t, int64_t groups,
          double eps, Out out, Out mean, Out rstd),
         group_norm(input, weight, bias, groups, eps, 0, out, mean, rstd))
OPERATOR(aclnnGroupNormBackward,
         (Tensor grad, Tensor input, Tensor mean, Tensor rstd, optional<Tensor> gamma, int64_t, int64_t, int64_t,
          int64_t groups, Bools, Out grad_input, Out grad_gamma, Out grad_beta),
         group_norm_backward(grad, input, mean, rstd, gamma, groups, grad_input, grad_gamma, grad_beta))
OPERATOR(aclnnGroupNormSilu,
         (Tensor input, optional<Tensor> weight, optional<Tensor> bias, int64_t groups, double eps, Out out, Out mean,
          Out rstd),
         group_norm(input, weight, bias, groups, eps, 1, out, mean, rstd))
OPERATOR(aclnnGroupNormSwish,
         (Tensor input, optional<Tensor> weight, optional<Tensor> bias, int64_t groups, std::string layout, double eps,
          bool is_swish, double swish, Out out, Out mean, Out rstd),
         TORCH_CHECK(layout == "NCHW", "layout ", layout, ": only NCHW is simulated.");
         group_norm(input, weight, bias, groups, eps, is_swish ? swish : 0, out, mean, rstd))
OPERATOR(aclnnGroupNormSwishGrad,
         (Tensor grad, Tensor mean, Tensor rstd, Tensor input, Tensor weight, Tensor bias, int64_t groups,
          std::string layout, double swish, bool, bool, Out grad_input, Out grad_weight, Out grad_bias),
         TORCH_CHECK(layout == "NCHW", "layout ", layout, ": only NCHW is simulated.");
         group_norm_swish_backward(grad, mean, rstd, input, weight, bias, groups, swish, grad_input, grad_weight,
                                   grad_bias))

// Batches

OPERATOR(aclnnBatchNorm,
         (Tensor input, optional<Tensor> weight, optional<Tensor> bias, optional<Tensor> running_mean,
          optional<Tensor> running_var, bool training, double momentum, double eps, Out out, Out save_mean,
          Out save_invstd),
         batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps, out, save_mean,
                    save_invstd))
OPERATOR(aclnnBatchNormBackward,
         (Tensor grad, Tensor input, optional<Tensor> weight, optional<Tensor> running_mean,
          optional<Tensor> running_var, optional<Tensor> save_mean, optional<Tensor> save_invstd, bool training,
          double eps, Bools, Out grad_input, Out grad_weight, Out grad_bias),
         const auto [by_input, by_weight, by_bias] = at::native_batch_norm_backward(
             wide(grad), wide(input), wide(weight), wide(running_mean), wide(running_var), wide(save_mean),
             wide(save_invstd), training, eps, wanted(grad_input, grad_weight, grad_bias));
         write_defined(by_input, grad_input); write_defined(by_weight, grad_weight); write_defined(by_bias, grad_bias))
OPERATOR(aclnnBatchNormElemt,
         (Tensor input, optional<Tensor> weight, optional<Tensor> bias, Tensor mean, Tensor invstd, double, Out out),
         Tensor result = (wide(input) - by_channel(mean, input)) * by_channel(invstd, input);
         if (weight.has_value()) result = result * by_channel(*weight, input);
         if (bias.has_value()) result = result + by_channel(*bias, input); out = result)
OPERATOR(aclnnBatchNormElemtBackward,
         (Tensor grad, Tensor input, Tensor mean, Tensor invstd, optional<Tensor> weight, Tensor sum_dy,
          Tensor sum_dy_xmu, Tensor count, Out grad_input),
         const double total = count.to(ScalarType::Double).sum().item<double>();
         const Tensor scale = weight.has_value() ? wide(*weight) * wide(invstd) : wide(invstd);
         const Tensor along = at::square(wide(invstd)) * wide(sum_dy_xmu) / total;
         grad_input = (wide(grad) - by_channel(wide(sum_dy) / total, input) -
                       (wide(input) - by_channel(mean, input)) * by_channel(along, input)) *
                      by_channel(scale, input))
OPERATOR(aclnnBatchNormGatherStatsWithCounts,
         (Tensor, Tensor means, Tensor invstds, optional<Tensor> running_mean, optional<Tensor> running_var,
          double momentum, double eps, Tensor counts, Out mean, Out invstd),
         gather_statistics(wide(means), at::pow(wide(invstds), -2) - eps, counts, running_mean, running_var, momentum,
                           eps, mean, invstd))
OPERATOR(aclnnSyncBatchNormGatherStats,
         (Tensor sums, Tensor squares, Tensor counts, Tensor running_mean, Tensor running_var, float momentum,
          float eps, Out mean, Out invstd),
         const Tensor number = counts.to(ScalarType::Double).reshape({-1, 1});
         const Tensor means = sums / number; gather_statistics(means, squares / number - at::square(means), counts,
                                                               running_mean, running_var, momentum, eps, mean, invstd))
OPERATOR(aclnnBatchNormReduce, (Tensor input, Out sum, Out squares), sum = sum_by_channel(input);
         squares = sum_by_channel(at::square(wide(input))))
OPERATOR(aclnnBatchNormReduceBackward,
         (Tensor grad, Tensor input, Tensor mean, Tensor invstd, optional<Tensor>, bool, bool, bool, Out sum_dy,
          Out sum_dy_xmu, Out grad_weight, Out grad_bias),
         const Tensor sum = sum_by_channel(grad);
         const Tensor along = sum_by_channel(wide(grad) * (wide(input) - by_channel(mean, input))); sum_dy = sum;
         sum_dy_xmu = along; grad_weight = along * wide(invstd); grad_bias = sum)
OPERATOR(aclnnBatchNormStats, (Tensor input, double eps, Out mean, Out invstd),
         const auto count = static_cast<double>(input.numel()) / static_cast<double>(input.size(1));
         const Tensor average = sum_by_channel(input) / count; mean = average;
         invstd = at::rsqrt(sum_by_channel(at::square(wide(input) - by_channel(average, input))) / count + eps))
