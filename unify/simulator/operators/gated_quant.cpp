// An activation whose results are quantised: one expert's or all experts' rows.
#include <ATen/Functions.h>

#include "grouped.h"

using namespace unify::operators;

namespace {

enum Unit : int64_t { kSwiglu = 0, kInterleaved = 1, kClipped = 2 };

struct Gate {
  int64_t unit = kSwiglu;
  bool is_first_active = true;
  double limit = 0, alpha = 0, bias = 0;  // of the clipped units
};

Tensor gated(const Tensor& x, int64_t dim, const Gate& gate) {
  TORCH_CHECK(gate.unit >= kSwiglu && gate.unit <= kClipped, "swigluMode ", gate.unit,
              " is not simulated: 0 to 2 are.");
  const bool is_interleaved = gate.unit == kInterleaved;
  const Tensors halves = is_interleaved ? x.unflatten(dim, {-1, 2}).unbind(dim + 1) : x.chunk(2, dim);
  const bool is_first = is_interleaved || gate.is_first_active;
  const Tensor& active = halves[is_first ? 0 : 1];
  const Tensor& linear = halves[is_first ? 1 : 0];
  if (gate.unit == kSwiglu) return at::silu(active) * linear;
  const Tensor clipped = active.clamp(std::nullopt, gate.limit);
  return clipped * at::sigmoid(clipped * gate.alpha) * (linear.clamp(-gate.limit, gate.limit) + gate.bias);
}

bool is_dynamic(const std::string& mode) {
  TORCH_CHECK(mode == "dynamic" || mode == "static", "quantMode ", mode, " is not simulated: static and dynamic are.");
  return mode == "dynamic";
}

// Values of each row's expert, [experts, ...], beside the rows; without groups one's for all.
Tensor beside(const Tensor& values, const optional<Tensor>& experts) {
  if (!experts.has_value()) return wide(values);
  const Tensor each = wide(values).index_select(0, *experts);
  return each.dim() == 1 ? each.unsqueeze(1) : each;
}

struct Dequantization {
  optional<Tensor> weight_scale, row_scale, bias;
};

// Sums of products of integers as what they stand for.
Tensor dequantized(const Tensor& x, const Dequantization& given, const optional<Tensor>& experts) {
  if (x.is_floating_point()) {
    TORCH_CHECK(!given.weight_scale && !given.bias, "weightScale and bias are of int32 only.");
    return wide(x);
  }
  TORCH_CHECK(given.weight_scale.has_value(), "int32 needs weightScale.");
  const bool is_sum = given.bias.has_value() && !given.bias->is_floating_point();
  Tensor y = is_sum ? x + beside(*given.bias, experts) : x;
  y = y * beside(*given.weight_scale, experts);
  if (given.row_scale.has_value()) y = y * wide(*given.row_scale).reshape({-1, 1});
  return given.bias.has_value() && !is_sum ? y + beside(*given.bias, experts) : y;
}

struct Quantization {
  optional<Tensor> scale, offset;
  std::string mode, rounding = "round";
};

void dequant_swiglu_quant(const Tensor& x, const Dequantization& dequantization, const Quantization& quantization,
                          const optional<Tensor>& counts, int64_t dim, const Gate& gate, const Out& out,
                          const Out& scale) {
  TORCH_CHECK(dim == -1 || dim == x.dim() - 1, "activateDim ", dim, " is not simulated: the last one is.");
  const Tensor rows = x.reshape({-1, x.size(-1)});
  const auto experts = counts.has_value()
                           ? optional<Tensor>(experts_of(groups_of(*counts, kCounts, rows.size(0)), rows.size(0)))
                           : std::nullopt;
  Tensor y = gated(dequantized(rows, dequantization, experts), 1, gate);
  const auto& [factor, offset, mode, rounding] = quantization;
  if (is_dynamic(mode)) {
    if (factor.has_value()) y = y * beside(*factor, experts);
    const Quantized each = by_row(y, out);
    write_reshaped(each.scale, scale);
    y = each.scaled;
  } else {
    if (factor.has_value()) y = y / beside(*factor, experts);
    if (offset.has_value()) y = y + beside(*offset, experts);
  }
  write_reshaped(rounded(y, out, rounding), out);
}

// Its dynamic scale is what the rows are multiplied by.
void swiglu_quant(const Tensor& x, const optional<Tensor>& smooth, const optional<Tensor>& offsets,
                  const optional<Tensor>& list, bool is_first_active, const std::string& mode, int64_t list_type,
                  int64_t type, const Out& out, const Out& scale) {
  constexpr int64_t kInt8 = 2;
  TORCH_CHECK(type == kInt8, "dstType ", type, " is not simulated: 2 (int8) is.");
  const Tensor rows = x.reshape({-1, x.size(-1)});
  const auto experts = list.has_value()
                           ? optional<Tensor>(experts_of(groups_of(*list, list_type, rows.size(0)), rows.size(0)))
                           : std::nullopt;
  Tensor y = gated(wide(rows), 1, {kSwiglu, is_first_active});
  if (smooth.has_value()) y = y * beside(*smooth, experts);
  if (is_dynamic(mode)) {
    const Quantized each = by_row(y, out);
    write_reshaped(at::reciprocal(each.scale), scale);
    y = each.scaled;
  } else if (offsets.has_value()) {
    y = y + beside(*offsets, experts);
  }
  write_reshaped(rounded(y, out), out);
}

}  // namespace

OPERATOR(aclnnSwiGluQuantV2,
         (Tensor x, optional<Tensor> smooth, optional<Tensor> offsets, optional<Tensor> list, bool is_first_active,
          std::string mode, int64_t list_type, int64_t type, Out out, Out scale),
         swiglu_quant(x, smooth, offsets, list, is_first_active, mode, list_type, type, out, scale))
OPERATOR(aclnnDequantSwigluQuant,
         (Tensor x, optional<Tensor> weight_scale, optional<Tensor> row_scale, optional<Tensor> bias,
          optional<Tensor> quant_scale, optional<Tensor> quant_offset, optional<Tensor> counts, bool is_first_active,
          std::string mode, Out out, Out scale),
         dequant_swiglu_quant(x, {weight_scale, row_scale, bias}, {quant_scale, quant_offset, mode}, counts, -1,
                              {kSwiglu, is_first_active}, out, scale))
OPERATOR(aclnnDequantSwigluQuantV2,
         (Tensor x, optional<Tensor> weight_scale, optional<Tensor> row_scale, optional<Tensor> bias,
          optional<Tensor> quant_scale, optional<Tensor> quant_offset, optional<Tensor> counts, bool is_first_active,
          std::string mode, int64_t, std::string rounding, int64_t dim, int64_t unit, double limit, double alpha,
          double unit_bias, Out out, Out scale),
         dequant_swiglu_quant(x, {weight_scale, row_scale, bias}, {quant_scale, quant_offset, mode, rounding}, counts,
                              dim, {unit, is_first_active, limit, alpha, unit_bias}, out, scale))
OPERATOR(
    aclnnGeluQuant,
    (Tensor self, optional<Tensor> factor, optional<Tensor> offset, std::string approximate, std::string mode,
     std::string rounding, int64_t, Out out, Out scale),
    Tensor y = at::gelu(wide(self), approximate);
    if (factor.has_value()) y = y * wide(*factor); if (is_dynamic(mode)) {
      const Quantized each = by_row(y, out);
      write_reshaped(each.scale, scale);
      y = each.scaled;
    } else if (offset.has_value()) y = y + wide(*offset);
    out = rounded(y, out, rounding))
