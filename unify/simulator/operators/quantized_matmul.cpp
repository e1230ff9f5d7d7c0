// Products of quantised matrices, or of one that is.
#include <ATen/Functions.h>

#include "quantized.h"

using namespace unify::operators;

namespace {

// An absent one may also be a tensor of nothing.
optional<Tensor> unless_empty(const optional<Tensor>& tensor) {
  return tensor.has_value() && tensor->numel() > 0 ? tensor : std::nullopt;
}

struct Call {
  Tensor x1, x2;
  optional<Tensor> x1_scale, x2_scale, y_scale, x1_offset, x2_offset, y_offset, bias;
  bool is_transposed1 = false, is_transposed2 = false;
  int64_t group_size = 0;  // rows, columns and depth, of 16 bits each
};

void quant_matmul(const Call& call, const Out& out) {
  TORCH_CHECK(!unless_empty(call.y_scale) && !unless_empty(call.x1_offset), "yScale and x1Offset are not simulated.");
  TORCH_CHECK(call.x2_scale.has_value(), "a product without x2Scale is not simulated.");
  QuantizedProduct given;
  given.x = call.is_transposed1 ? call.x1.mT() : call.x1;
  given.weight = call.is_transposed2 ? call.x2.mT() : call.x2;
  given.x_scale = unless_empty(call.x1_scale);
  given.weight_scale = call.x2_scale;
  given.bias = unless_empty(call.bias);
  given.assist = unless_empty(call.y_offset);
  given.blocks = {call.group_size >> 32 & 0xffff, call.group_size >> 16 & 0xffff, call.group_size & 0xffff};
  const auto offset = unless_empty(call.x2_offset), in_scale = offset_of(*call.x2_scale);
  const bool is_of_blocks = call.x2_scale->dim() > 1;
  if (in_scale.has_value() && is_of_blocks) {
    TORCH_CHECK(!offset.has_value(), "x2Offset with an x2Scale of blocks in 64 bits is not simulated.");
  } else if (in_scale.has_value()) {  // the unit adds integers, of the scale's bits
    given.offset = offset.has_value() && !in_scale->any().item<bool>() ? at::round(*offset) : *in_scale;
  } else if (is_of_blocks) {
    given.weight_zero = offset;
  } else {
    given.offset = offset;
  }
  const Tensor y = product(given);
  out = out->scalar_type() == ScalarType::Char ? rounded(y, out) : y;
}

// x in half precision by what a weight stands for: (weight + offset) * scale. Groups are of the depth.
void weight_quant_matmul(const Tensor& x, const Tensor& packed, const Tensor& scale, const optional<Tensor>& offset,
                         const optional<Tensor>& out_scale, const optional<Tensor>& out_offset,
                         const optional<Tensor>& bias, int64_t group_size, const Out& out) {
  const Ints blocks{group_size, 0};
  Tensor weight = unpacked(packed).to(ScalarType::Float);
  if (offset.has_value()) weight = weight + spread(wide(*offset), weight.sizes(), blocks);
  Tensor y = at::matmul(wide(x), weight * spread(wide(scale), weight.sizes(), blocks));
  if (bias.has_value()) y = y + wide(*bias);
  if (out_scale.has_value()) {
    const auto in_scale = offset_of(*out_scale);
    y = y * scale_of(*out_scale);
    if (in_scale.has_value() && in_scale->any().item<bool>()) {
      y = y + *in_scale;
    } else if (out_offset.has_value()) {
      y = y + *out_offset;
    }
    y = rounded(y, out);
  }
  out = y;
}

// A float32's 19 upper bits, and a whole number of 9, as the unit takes them in 64.
Tensor quant_param(const Tensor& scale, const optional<Tensor>& offset, int64_t rounding) {
  TORCH_CHECK(rounding == 0 || rounding == 1, "roundMode is ", rounding, ", not 0 or 1.");
  const Tensor bits = scale.to(ScalarType::Float).contiguous().view(ScalarType::Int);
  const Tensor upper = (rounding == 1 ? bits + 0x1000 : bits).bitwise_and(~0x1fff);
  const Tensor param = upper.to(ScalarType::Long).bitwise_and(0xffffffff).bitwise_or(int64_t{1} << 46);
  if (!offset.has_value()) return param;
  const Tensor whole = at::round(*offset).clamp(-256, 255).to(ScalarType::Long).bitwise_and(0x1ff);
  return param.bitwise_or(whole.bitwise_left_shift(37));
}

}  // namespace

// Weights of the format NZ are plain here.
#define QUANT_MATMUL(NAME)                                                                                            \
  OPERATOR(NAME,                                                                                                      \
           (Tensor x1, Tensor x2, optional<Tensor> x1_scale, optional<Tensor> x2_scale, optional<Tensor> y_scale,     \
            optional<Tensor> x1_offset, optional<Tensor> x2_offset, optional<Tensor> y_offset, optional<Tensor> bias, \
            bool is_transposed1, bool is_transposed2, int64_t group_size, Out out),                                   \
           quant_matmul({x1, x2, x1_scale, x2_scale, y_scale, x1_offset, x2_offset, y_offset, bias, is_transposed1,   \
                         is_transposed2, group_size},                                                                 \
                        out))
QUANT_MATMUL(aclnnQuantMatmulV5)
QUANT_MATMUL(aclnnQuantMatmulWeightNz)
#undef QUANT_MATMUL

#define WEIGHT_QUANT_MATMUL(NAME)                                                                       \
  OPERATOR(NAME,                                                                                        \
           (Tensor x, Tensor weight, Tensor scale, optional<Tensor> offset, optional<Tensor> out_scale, \
            optional<Tensor> out_offset, optional<Tensor> bias, int32_t group_size, Out out),           \
           weight_quant_matmul(x, weight, scale, offset, out_scale, out_offset, bias, group_size, out))
WEIGHT_QUANT_MATMUL(aclnnWeightQuantBatchMatmulV2)
WEIGHT_QUANT_MATMUL(aclnnWeightQuantBatchMatmulNz)
#undef WEIGHT_QUANT_MATMUL
// Of innerPrecise both ways agree here.
OPERATOR(aclnnWeightQuantBatchMatmulV3,
         (Tensor x, Tensor weight, Tensor scale, optional<Tensor> offset, optional<Tensor> out_scale,
          optional<Tensor> out_offset, optional<Tensor> bias, int32_t group_size, int32_t, Out out),
         weight_quant_matmul(x, weight, scale, offset, out_scale, out_offset, bias, group_size, out))

OPERATOR(aclnnTransQuantParamV2, (Tensor scale, optional<Tensor> offset, Out out), out = quant_param(scale, offset, 0))
OPERATOR(aclnnTransQuantParamV3, (Tensor scale, optional<Tensor> offset, int64_t rounding, Out out),
         out = quant_param(scale, offset, rounding))
