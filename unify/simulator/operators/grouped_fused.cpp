// An expert's two products with what comes behind them: a gated unit, or each token's results together.
#include <ATen/Functions.h>

#include "grouped.h"
#include "lists.h"

using namespace unify::operators;

namespace {

// The halves of the products through SwiGLU, each row as int8.
void swiglu_quant(const Tensor& products, const Out& out, const Out& scale) {
  TORCH_CHECK(out->scalar_type() == ScalarType::Char, "results of ", out->scalar_type(),
              " are not simulated: of int8 they are.");
  const Tensors halves = products.chunk(2, 1);
  const Quantized rows = by_row(at::silu(halves[0]) * halves[1], out);
  out = rounded(rows.scaled, out);
  write_reshaped(rows.scale, scale);
}

void swiglu_quant_of_lists(const Tensor& x, const Tensors& weight, const Tensors& weight_scale, const Tensors& assist,
                           const optional<Tensor>& bias, const Tensor& x_scale, const optional<Tensor>& smooth,
                           const Tensor& list, int64_t dequant_mode, int64_t quant_mode, int64_t list_type,
                           const Out& out, const Out& scale) {
  TORCH_CHECK(weight.size() == 1 && weight_scale.size() == 1 && assist.size() < 2,
              "a weight for each expert is not simulated: one for all is.");
  TORCH_CHECK(!bias.has_value() && !smooth.has_value(), "bias and smoothScale are not simulated.");
  TORCH_CHECK(dequant_mode < 2 && quant_mode == 0, "dequantMode ", dequant_mode, " with quantMode ", quant_mode,
              " is not simulated: 0 or 1 with 0 is.");
  const auto sums = assist.empty() ? std::nullopt : optional<Tensor>(assist[0]);
  swiglu_quant(
      grouped_product({x, weight[0], x_scale, weight_scale[0], {}, sums}, groups_of(list, list_type, x.size(0))), out,
      scale);
}

struct Routing {
  optional<Tensor> shared, logit, rows;  // rows: where each product is added
  float shared_weight = 1;
  int64_t shared_offset = 0;
};

void finalize(GroupedProduct given, const optional<Tensor>& bias, const optional<Tensor>& list, int64_t list_type,
              const Routing& routing, const Out& out) {
  TORCH_CHECK(list.has_value() && routing.rows.has_value(), "without groupList or rowIndex it is not simulated.");
  const bool is_int4 = given.weight.scalar_type() == ScalarType::Int;
  TORCH_CHECK(is_int4 || !bias.has_value(), "a bias is not simulated for ", given.weight.scalar_type(), ".");
  TORCH_CHECK(!given.offset.has_value(), "offset is not simulated.");
  given.assist = bias;
  const auto groups = groups_of(*list, list_type, given.x.size(0));
  const int64_t count = groups.empty() ? 0 : groups.back().end;
  Tensor each = grouped_product(given, groups).slice(0, 0, count);
  if (routing.logit.has_value()) each = each * routing.logit->slice(0, 0, count).unsqueeze(1);
  Tensor result = at::zeros(out->sizes(), each.options());
  result = result.index_add(0, routing.rows->slice(0, 0, count).to(ScalarType::Long), each);
  if (routing.shared.has_value()) {
    result.slice(0, routing.shared_offset, routing.shared_offset + routing.shared->size(0))
        .add_(wide(*routing.shared), routing.shared_weight);
  }
  out = result;
}

void refuse(const optional<Tensor>& antiquant_scale, const optional<Tensor>& antiquant_offset, int64_t dtype,
            bool is_transposed, bool is_weight_transposed) {
  TORCH_CHECK(!antiquant_scale.has_value() && !antiquant_offset.has_value(),
              "antiquantScale and antiquantOffset are not simulated.");
  TORCH_CHECK(dtype == 0, "dtype ", dtype, " is not simulated: 0 (float32) is.");
  TORCH_CHECK(!is_transposed && !is_weight_transposed, "transposeX and transposeW are not simulated.");
}

}  // namespace

OPERATOR(aclnnGroupedMatmulSwigluQuantWeightNZ,
         (Tensor x, Tensor weight, optional<Tensor> assist, optional<Tensor> offset, Tensor weight_scale,
          Tensor x_scale, Tensor list, Out out, Out scale, Out),
         TORCH_CHECK(!offset.has_value(), "offset is not simulated.");
         TORCH_CHECK(weight.dim() == 3, "a weight of ", weight.sizes(), " is not simulated: [experts, k, n] is.");
         swiglu_quant(grouped_product({x, weight, x_scale, weight_scale, {}, assist},
                                      groups_of(list, kEnds, x.size(0))),
                      out, scale))
// Weights of the format NZ are plain here.
#define SWIGLU_QUANT(NAME)                                                                                           \
  OPERATOR(NAME,                                                                                                     \
           (Tensor x, Tensors weight, Tensors weight_scale, OptionalTensors assist, optional<Tensor> bias,           \
            Tensor x_scale, optional<Tensor> smooth, Tensor list, int64_t dequant_mode, int64_t, int64_t quant_mode, \
            int64_t list_type, optional<Ints>, Out out, Out scale),                                                  \
           swiglu_quant_of_lists(x, weight, weight_scale, assist, bias, x_scale, smooth, list, dequant_mode,         \
                                 quant_mode, list_type, out, scale))
SWIGLU_QUANT(aclnnGroupedMatmulSwigluQuantV2)
SWIGLU_QUANT(aclnnGroupedMatmulSwigluQuantWeightNzV2)
#undef SWIGLU_QUANT

OPERATOR(aclnnGroupedMatmulFinalizeRoutingV2,
         (Tensor x, Tensor weight, optional<Tensor> scale, optional<Tensor> bias, optional<Tensor> offset,
          optional<Tensor> antiquant_scale, optional<Tensor> antiquant_offset, optional<Tensor> x_scale,
          optional<Tensor> list, optional<Tensor> shared, optional<Tensor> logit, optional<Tensor> rows, int64_t dtype,
          float shared_weight, int64_t shared_offset, bool is_transposed, bool is_weight_transposed, int64_t list_type,
          Out out),
         refuse(antiquant_scale, antiquant_offset, dtype, is_transposed, is_weight_transposed);
         finalize({x, weight, x_scale, scale, offset, {}}, bias, list, list_type,
                  {shared, logit, rows, shared_weight, shared_offset}, out))
#define FINALIZE_ROUTING(NAME)                                                                                        \
  OPERATOR(NAME,                                                                                                      \
           (Tensor x, Tensor weight, optional<Tensor> scale, optional<Tensor> bias, optional<Tensor> offset,          \
            optional<Tensor> antiquant_scale, optional<Tensor> antiquant_offset, optional<Tensor> x_scale,            \
            optional<Tensor> list, optional<Tensor> shared, optional<Tensor> logit, optional<Tensor> rows,            \
            int64_t dtype, float shared_weight, int64_t shared_offset, bool is_transposed, bool is_weight_transposed, \
            int64_t list_type, optional<Ints>, Out out),                                                              \
           refuse(antiquant_scale, antiquant_offset, dtype, is_transposed, is_weight_transposed);                     \
           finalize({x, weight, x_scale, scale, offset, {}}, bias, list, list_type,                                   \
                    {shared, logit, rows, shared_weight, shared_offset}, out))
FINALIZE_ROUTING(aclnnGroupedMatmulFinalizeRoutingV3)
FINALIZE_ROUTING(aclnnGroupedMatmulFinalizeRoutingWeightNzV2)
#undef FINALIZE_ROUTING
OPERATOR(aclnnGroupedMatmulFinalizeRoutingWeightNz,
         (Tensor x, Tensor weight, optional<Tensor> scale, optional<Tensor> bias, optional<Tensor> x_scale,
          optional<Tensor> list, optional<Tensor> shared, optional<Tensor> logit, optional<Tensor> rows, int64_t dtype,
          float shared_weight, int64_t shared_offset, bool is_transposed, bool is_weight_transposed, int64_t list_type,
          Out out),
         refuse({}, {}, dtype, is_transposed, is_weight_transposed);
         finalize({x, weight, x_scale, scale, {}, {}}, bias, list, list_type,
                  {shared, logit, rows, shared_weight, shared_offset}, out))
