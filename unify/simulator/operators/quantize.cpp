// Numbers made ones of few bits with a scale, and back.
#include <ATen/Functions.h>

#include "grouped.h"

using namespace unify::operators;

namespace {

// A vector along one dimension of x.
Tensor along(const Tensor& values, const Tensor& x, int64_t axis) {
  if (values.numel() == 1 || values.dim() > 1) return wide(values);
  Ints shape(static_cast<size_t>(x.dim()), 1);
  shape.at(static_cast<size_t>(axis < 0 ? axis + x.dim() : axis)) = values.numel();
  return wide(values).reshape(shape);
}

// Each expert's rows by factors of its own, [experts, size], or all by one's.
Tensor smoothed(const Tensor& x, const optional<Tensor>& smooth, const optional<Tensor>& ends,
                const std::string& mode = "pertoken") {
  if (!smooth.has_value()) return wide(x);
  TORCH_CHECK(mode != "perchannel", "smoothScales with quantMode perchannel are not simulated.");
  if (!ends.has_value()) return wide(x) * wide(*smooth);
  const Tensor rows = wide(x).reshape({-1, x.size(-1)});
  return (rows * wide(*smooth).index_select(0, experts_of(groups_of(*ends, kEnds, rows.size(0)), rows.size(0))))
      .view_as(x);
}

Ints shared_dimensions(const std::string& mode, int64_t dimensions) {
  if (mode == "pertoken") return {-1};
  if (mode == "perchannel") return {-2};
  TORCH_CHECK(mode == "pertensor", "quantMode ", mode, " is not simulated: pertoken, perchannel and pertensor are.");
  Ints all;
  for (int64_t i = 0; i < dimensions; ++i) all.push_back(i);
  return all;
}

// The largest of what shares a scale becomes the type's largest; with an offset the smallest its smallest, too.
void dynamic_quant(const Tensor& x, const std::string& mode, bool is_symmetric, const Out& out, const Out& scale,
                   const Out& offset) {
  const Range range = range_of(out->scalar_type());
  const Ints shared = shared_dimensions(mode, x.dim());
  const Tensor largest = at::amax(is_symmetric ? at::abs(x) : x, shared, true);
  const Tensor scales =
      is_symmetric ? largest / range.largest : (largest - at::amin(x, shared, true)) / (range.largest - range.smallest);
  Tensor scaled = x / scales.masked_fill(scales == 0, 1);
  if (!is_symmetric) {
    const Tensor offsets = range.largest - largest / scales.masked_fill(scales == 0, 1);
    scaled = scaled + offsets;
    write_reshaped(offsets, offset);
  }
  out = rounded(scaled, out);
  write_reshaped(scales, scale);
}

Tensor quantized(const Tensor& self, const Tensor& scale, const optional<Tensor>& offset, bool is_squared) {
  const Tensor scaled = wide(self) * (is_squared ? at::square(scale) : scale);
  return offset.has_value() ? scaled + wide(*offset) : scaled;
}

Tensor whole_numbers(const Tensor& scaled, const Out& out) {
  if (out->scalar_type() != ScalarType::Int) return rounded(scaled, out);  // here int32 is one number
  return at::round(scaled.to(ScalarType::Double)).clamp(-2147483648.0, 2147483647.0);
}

}  // namespace

OPERATOR(aclnnDynamicQuant, (Tensor self, optional<Tensor> smooth, Out out, Out scale),
         dynamic_quant(smoothed(self, smooth, {}), "pertoken", true, out, scale, {}))
// An offset is wanted of what is not symmetric. The type is the result's.
OPERATOR(aclnnDynamicQuantV2,
         (Tensor self, optional<Tensor> smooth, optional<Tensor> ends, int64_t, Out out, Out scale, Out offset),
         dynamic_quant(smoothed(self, smooth, ends), "pertoken", !offset.is_wanted(), out, scale, offset))
OPERATOR(aclnnDynamicQuantV3,
         (Tensor self, optional<Tensor> smooth, optional<Tensor> ends, int64_t, bool is_symmetric, std::string mode,
          Out out, Out scale, Out offset),
         dynamic_quant(smoothed(self, smooth, ends, mode), mode, is_symmetric, out, scale, offset))
OPERATOR(aclnnDynamicQuantV4,
         (Tensor self, optional<Tensor> smooth, optional<Tensor> ends, int64_t, bool is_symmetric, std::string mode,
          float largest, Out out, Out scale, Out offset),
         TORCH_CHECK(largest == 0, "dstTypeMax ", largest, " is not simulated: it is hifloat8's.");
         dynamic_quant(smoothed(self, smooth, ends, mode), mode, is_symmetric, out, scale, offset))

OPERATOR(aclnnAscendQuant,
         (Tensor self, Tensor scale, optional<Tensor> offset, bool is_squared, std::string rounding, ScalarType,
          Out out),
         out = rounded(quantized(self, wide(scale), offset, is_squared), out, rounding))
OPERATOR(aclnnAscendQuantV3,
         (Tensor self, Tensor scale, optional<Tensor> offset, bool is_squared, std::string rounding, int32_t,
          int32_t axis, Out out),
         const auto offsets = offset.has_value() ? optional<Tensor>(along(*offset, self, axis)) : std::nullopt;
         out = rounded(quantized(self, along(scale, self, axis), offsets, is_squared), out, rounding))
OPERATOR(aclnnQuantize, (Tensor self, Tensor scales, optional<Tensor> zeros, int32_t, int32_t axis, Out out),
         Tensor scaled = wide(self) / along(scales, self, axis);
         if (zeros.has_value()) scaled = scaled + along(*zeros, self, axis); out = whole_numbers(scaled, out))
// Each expert's rows by its own scale.
OPERATOR(aclnnGroupQuant, (Tensor self, Tensor scale, Tensor ends, optional<Tensor> offset, int32_t, Out out),
         const Tensor scales = wide(scale).index_select(0,
                                                        experts_of(groups_of(ends, kEnds, self.size(0)), self.size(0)));
         out = rounded(quantized(self, scales, offset, false), out))

OPERATOR(aclnnAscendAntiQuant, (Tensor self, Tensor scale, optional<Tensor> offset, int64_t, bool is_squared, Out out),
         Tensor numbers = unpacked(self).to(ScalarType::Float);
         if (offset.has_value()) numbers = numbers + wide(*offset);
         out = numbers * (is_squared ? at::square(wide(scale)) : wide(scale)))
// The sums of a product of integers.
OPERATOR(aclnnDequantBias,
         (Tensor sums, Tensor weight_scale, optional<Tensor> row_scale, optional<Tensor> bias, int64_t, Out out),
         const bool is_sum = bias.has_value() && !bias->is_floating_point();
         Tensor result = (is_sum ? sums + *bias : sums) * wide(weight_scale);
         if (row_scale.has_value()) result = result * wide(*row_scale).unsqueeze(-1);
         if (bias.has_value() && !is_sum) result = result + wide(*bias); out = result)
