// Root mean square norms whose results are quantised.
#include <ATen/Functions.h>

#include "lists.h"
#include "normalization.h"
#include "quantized.h"

using namespace unify::operators;

namespace {

Tensor normal(const Tensor& x, const Tensor& gamma, const optional<Tensor>& beta, double eps) {
  const Tensor y = rms_norm(x, gamma, eps).result;
  return beta.has_value() ? y + wide(*beta) : y;
}

void quantize(const Tensor& y, const Tensor& scale, const optional<Tensor>& zero, bool is_divided, const Out& out) {
  const Tensor scaled = is_divided ? y / wide(scale) : y * wide(scale);
  out = rounded(zero.has_value() ? scaled + wide(*zero) : scaled, out);
}

struct Scales {
  Tensor first;
  optional<Tensor> second, first_zero, second_zero;
};

// Without a second scale the second result is not defined.
void add_rms_norm_quant(const Tensor& x1, const Tensor& x2, const Tensor& gamma, const Scales& scales,
                        const optional<Tensor>& beta, int64_t axis, double eps, bool is_divided, const Out& first,
                        const Out& second, const Out& sum) {
  TORCH_CHECK(axis == -1, "axis ", axis, " is not simulated: -1 is.");
  const Tensor added = wide(x1) + wide(x2), y = normal(added, gamma, beta, eps);
  quantize(y, scales.first, scales.first_zero, is_divided, first);
  if (scales.second.has_value()) quantize(y, *scales.second, scales.second_zero, is_divided, second);
  sum = added;
}

void by_smoothed_row(const Tensor& y, const optional<Tensor>& smooth, const Out& out, const Out& scale) {
  const Quantized each = by_row(smooth.has_value() ? y * wide(*smooth) : y, out);
  out = rounded(each.scaled, out);
  write_reshaped(each.scale, scale);
}

}  // namespace

OPERATOR(aclnnRmsNormQuant,
         (Tensor x, Tensor gamma, optional<Tensor> beta, Tensor scale, optional<Tensor> zero, double eps, Out out),
         quantize(normal(x, gamma, beta, eps), scale, zero, true, out))
OPERATOR(aclnnRmsNormQuantV3,
         (Tensor x, Tensor gamma, Tensor scale, optional<Tensor> zero, optional<Tensor> beta, double eps,
          bool is_divided, bool is_rstd_wanted, Out out, Out rstd),
         quantize(normal(x, gamma, beta, eps), scale, zero, is_divided, out);
         if (is_rstd_wanted) rstd = rms_norm(x, gamma, eps).rstd)
OPERATOR(aclnnAddRmsNormQuant,
         (Tensor x1, Tensor x2, Tensor gamma, Tensor scale1, optional<Tensor> scale2, optional<Tensor> zero1,
          optional<Tensor> zero2, int64_t axis, double eps, bool is_divided, Out out1, Out out2, Out sum),
         add_rms_norm_quant(x1, x2, gamma, {scale1, scale2, zero1, zero2}, {}, axis, eps, is_divided, out1, out2, sum))
OPERATOR(aclnnAddRmsNormQuantV2,
         (Tensor x1, Tensor x2, Tensor gamma, Tensor scale1, optional<Tensor> scale2, optional<Tensor> zero1,
          optional<Tensor> zero2, optional<Tensor> beta, int64_t axis, double eps, bool is_divided, Out out1, Out out2,
          Out sum, Out normalized),
         add_rms_norm_quant(x1, x2, gamma, {scale1, scale2, zero1, zero2}, beta, axis, eps, is_divided, out1, out2,
                            sum);
         if (normalized.is_wanted()) normalized = rms_norm(wide(x1) + wide(x2), gamma, eps).result)
// Each result has its bit in the mask; without one the second is wanted if there are factors for both.
OPERATOR(aclnnAddRmsNormDynamicQuantV2,
         (Tensor x1, Tensor x2, Tensor gamma, optional<Tensor> smooth1, optional<Tensor> smooth2, optional<Tensor> beta,
          double eps, optional<Bools> mask, Out out1, Out out2, Out sum, Out scale1, Out scale2),
         const Tensor added = wide(x1) + wide(x2);
         const Tensor y = normal(added, gamma, beta, eps); sum = added;
         if (!mask || mask->at(0)) by_smoothed_row(y, smooth1, out1, scale1);
         if (mask ? mask->at(1) : smooth1 && smooth2) by_smoothed_row(y, smooth2, out2, scale2))
// The norm into x1, the sum into x2.
OPERATOR(aclnnInplaceAddRmsNorm, (Out x1, Out x2, Tensor gamma, double eps, Out rstd),
         const Tensor added = wide(static_cast<const Tensor&>(x1)) + wide(static_cast<const Tensor&>(x2));
         const RmsNorm norm = rms_norm(added, gamma, eps); x1 = norm.result; x2 = added; rstd = norm.rstd)
