// Products of matrices, one for each group: of rows (an expert's tokens) or of the depth.
#include <ATen/Functions.h>

#include "grouped.h"
#include "lists.h"

using namespace unify::operators;

namespace {

enum GroupType : int64_t { kNone = -1, kRows = 0, kDepth = 2 };

struct Call {
  Tensors x, weight, bias, scale, offset, antiquant_scale, antiquant_offset, x_scale;
  optional<Tensor> list;
  int64_t group_type = kRows, list_type = kEnds, activation = 0;
};

Tensor activated(const Tensor& x, int64_t activation) {
  switch (activation) {
    case 0:
      return x;
    case 1:
      return at::relu(x);
    case 2:
      return at::gelu(x, "tanh");
    case 4:
      return x * at::sigmoid(x * 1.702);
    case 5:
      return at::silu(x);
    default:
      TORCH_CHECK(false, "actType ", activation, " is not simulated: 0 (none), 1 (relu), 2 (gelu with tanh), ",
                  "4 (fast gelu) and 5 (silu) are.");
  }
}

// Each group's rows of x, or columns where the depth is split; of several tensors each is a group.
std::vector<Group> groups_in(const Call& call) {
  const auto count = static_cast<int64_t>(call.x.size());
  if (count == 1 && call.list.has_value()) {
    TORCH_CHECK(call.group_type == kRows || call.group_type == kDepth, "groupType ", call.group_type,
                " with one x and a list of groups.");
    return groups_of(*call.list, call.list_type, call.x[0].size(call.group_type == kDepth ? 1 : 0));
  }
  std::vector<Group> groups;
  int64_t begin = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t rows = call.x[static_cast<size_t>(i)].size(0);
    groups.push_back({i, begin, begin + rows});
    begin += rows;
  }
  return groups;
}

Tensor x_of(const Call& call, const Tensors& tensors, const Group& group) {
  if (tensors.size() > 1) return tensors.at(static_cast<size_t>(group.expert));
  return tensors.front().slice(call.group_type == kDepth ? 1 : 0, group.begin, group.end);
}

Tensor weight_of(const Call& call, const Group& group) {
  const bool is_part = call.group_type == kDepth && call.weight.size() == 1 && call.weight[0].dim() == 2;
  if (is_part) return call.weight[0].slice(0, group.begin, group.end);
  const bool is_all = call.weight.size() == 1 && call.weight[0].dim() == 3;
  return is_all ? call.weight[0].select(0, group.expert) : call.weight.at(static_cast<size_t>(group.expert));
}

// Only the weight is quantised: x in half precision multiplies what it stands for.
Tensor of_quantized_weight(const Call& call, const Tensor& x, const Tensor& packed, int64_t expert) {
  Tensor weight = unpacked(packed).to(ScalarType::Float);
  if (const auto offset = part_of(call.antiquant_offset, expert)) {
    weight = weight + spread(wide(*offset), weight.sizes());
  }
  weight = weight * spread(wide(*part_of(call.antiquant_scale, expert)), weight.sizes());
  const Tensor y = at::matmul(wide(x), weight);
  const auto bias = part_of(call.bias, expert);
  return bias.has_value() ? y + wide(*bias) : y;
}

Tensor of_both_quantized(const Call& call, const Group& group) {
  QuantizedProduct each;
  each.x = x_of(call, call.x, group);
  each.weight = weight_of(call, group);
  if (!call.x_scale.empty()) {
    each.x_scale = call.x_scale.size() > 1 ? call.x_scale.at(static_cast<size_t>(group.expert))
                                           : call.x_scale[0].slice(0, group.begin, group.end);
  }
  each.weight_scale = part_of(call.scale, group.expert);
  const bool is_split = each.x.scalar_type() == ScalarType::Char && each.weight.scalar_type() == ScalarType::Int;
  (is_split ? each.assist : each.bias) = part_of(call.bias, group.expert);
  if (!call.offset.empty() && is_split) {  // a zero of the weight's, beside the sums of x
    const Tensor x = each.x.to(ScalarType::Float), zero = *part_of(call.offset, group.expert);
    each.assist = wide(*each.assist) + at::matmul(x, spread(zero, {x.size(1), zero.size(1)}).expand({x.size(1), -1}));
  } else if (!call.offset.empty()) {
    each.offset = part_of(call.offset, group.expert);
  } else if (each.weight_scale.has_value() && each.weight_scale->dim() < 2) {
    each.offset = offset_of(*each.weight_scale);
  }
  return product(each);
}

Tensor product_of(const Call& call, const Group& group) {
  const Tensor x = x_of(call, call.x, group), weight = weight_of(call, group);
  if (!call.antiquant_scale.empty()) return of_quantized_weight(call, x, weight, group.expert);
  if (!call.scale.empty() || x.scalar_type() == ScalarType::Char) return of_both_quantized(call, group);
  TORCH_CHECK(x.is_floating_point() && weight.scalar_type() == x.scalar_type(), x.scalar_type(), " by ",
              weight.scalar_type(), " needs scales.");
  const Tensor y = at::matmul(wide(x), wide(weight));
  const auto bias = part_of(call.bias, group.expert);
  return bias.has_value() ? y + wide(*bias) : y;
}

// Before the groups are read. Of weights of 4 bits in words the sizes are those of the words.
void check_depth(const Call& call) {
  if (call.x.size() != 1 || call.weight.size() != 1 || call.group_type != kRows) return;
  const Tensor &x = call.x[0], &weight = call.weight[0];
  if (weight.dim() != 3 || weight.scalar_type() == ScalarType::Int) return;
  TORCH_CHECK(x.dim() == 2 && x.size(1) == weight.size(1), "x is ", x.sizes(), ", a weight of ", weight.sizes(),
              " needs [rows, ", weight.size(1), "].");
}

// To one tensor for each group, or to one for all: there each group has rows, or a matrix where the depth is split.
void grouped_matmul(const Call& call, const Outs& outs) {
  check_depth(call);
  const auto groups = groups_in(call);
  for (size_t i = 0; i < groups.size(); ++i) {
    const Group& group = groups[i];
    Tensor to = outs.size() > 1 ? static_cast<const Tensor&>(outs.at(i)) : outs.at(0);
    if (outs.size() == 1 && call.group_type == kDepth) to = to.select(0, group.expert);
    if (outs.size() == 1 && call.group_type == kRows) to = to.slice(0, group.begin, group.end);
    const Tensor y = activated(product_of(call, group), call.activation);
    const Out out(to);
    out = to.scalar_type() == ScalarType::Char ? rounded(y, out) : y;
  }
}

void refuse(const Tensors& inputs, const Tensors& scales, const Tensors& offsets, const Tensors& activations,
            const Tensors& scale_outs) {
  TORCH_CHECK(inputs.empty() && activations.empty(), "activationInput and activationFeatureOut are not simulated.");
  TORCH_CHECK(scales.empty() && offsets.empty() && scale_outs.empty(),
              "activationQuantScale, activationQuantOffset and dynQuantScaleOut are not simulated.");
}

}  // namespace

// Newer versions have more parameters. splitItem says how many x and results there are, which their lists do too;
// tuningConfig and quantGroupSize tell of sizes that the tensors have.
OPERATOR(aclnnGroupedMatmul,
         (Tensors x, Tensors weight, OptionalTensors bias, OptionalTensors scale, OptionalTensors offset,
          OptionalTensors antiquant_scale, OptionalTensors antiquant_offset, optional<Ints> ends, int64_t, Outs out),
         const bool is_listed = ends.has_value() && !ends->empty();
         const auto list = is_listed ? optional<Tensor>(at::tensor(*ends, ScalarType::Long)) : std::nullopt;
         grouped_matmul({x, weight, bias, scale, offset, antiquant_scale, antiquant_offset, Tensors(), list,
                         x.size() > 1 && out.size() > 1 ? kNone : kRows, kEnds, 0},
                        out))
OPERATOR(aclnnGroupedMatmulV4,
         (Tensors x, Tensors weight, OptionalTensors bias, OptionalTensors scale, OptionalTensors offset,
          OptionalTensors antiquant_scale, OptionalTensors antiquant_offset, OptionalTensors x_scale,
          optional<Tensor> list, OptionalTensors inputs, OptionalTensors scales, OptionalTensors offsets, int64_t,
          int64_t type, int64_t list_type, int64_t activation, Outs out, OptionalTensors activations,
          OptionalTensors scale_outs),
         refuse(inputs, scales, offsets, activations, scale_outs);
         grouped_matmul({x, weight, bias, scale, offset, antiquant_scale, antiquant_offset, x_scale, list, type,
                         list_type, activation},
                        out))
OPERATOR(aclnnGroupedMatmulV5,
         (Tensors x, Tensors weight, OptionalTensors bias, OptionalTensors scale, OptionalTensors offset,
          OptionalTensors antiquant_scale, OptionalTensors antiquant_offset, OptionalTensors x_scale,
          optional<Tensor> list, OptionalTensors inputs, OptionalTensors scales, OptionalTensors offsets, int64_t,
          int64_t type, int64_t list_type, int64_t activation, optional<Ints>, Outs out, OptionalTensors activations,
          OptionalTensors scale_outs),
         refuse(inputs, scales, offsets, activations, scale_outs);
         grouped_matmul({x, weight, bias, scale, offset, antiquant_scale, antiquant_offset, x_scale, list, type,
                         list_type, activation},
                        out))
OPERATOR(aclnnGroupedMatmulWeightNz,
         (Tensors x, Tensors weight, OptionalTensors bias, OptionalTensors scale, OptionalTensors offset,
          OptionalTensors antiquant_scale, OptionalTensors antiquant_offset, OptionalTensors x_scale,
          optional<Tensor> list, OptionalTensors inputs, OptionalTensors scales, OptionalTensors offsets, int64_t,
          int64_t type, int64_t list_type, int64_t activation, optional<Ints>, int64_t, Outs out,
          OptionalTensors activations, OptionalTensors scale_outs),
         refuse(inputs, scales, offsets, activations, scale_outs);
         grouped_matmul({x, weight, bias, scale, offset, antiquant_scale, antiquant_offset, x_scale, list, type,
                         list_type, activation},
                        out))

// A gradient of experts' weights: y += xᵀ @ weight, of each group's rows.
namespace {

void grouped_matmul_add(const Tensor& x, const Tensor& weight, const Tensor& list, const Tensor& y, bool is_transposed,
                        bool is_weight_transposed, int64_t type, int64_t list_type) {
  TORCH_CHECK(is_transposed && !is_weight_transposed && type == kDepth, "transposeX ", is_transposed,
              ", transposeWeight ", is_weight_transposed, " and groupType ", type,
              " are not simulated: true, false and 2 are.");
  const auto groups = groups_of(list, list_type, x.size(0));
  const Tensor each = y.view({static_cast<int64_t>(groups.size()), x.size(1), weight.size(1)});
  for (const auto& [expert, begin, end] : groups) {
    const Tensor product = at::matmul(wide(x.slice(0, begin, end)).t(), wide(weight.slice(0, begin, end)));
    each.select(0, expert).add_(product);
  }
}

}  // namespace

OPERATOR(aclnnGroupedMatmulAdd,
         (Tensor x, Tensor weight, Tensor list, Out y, bool is_transposed, bool is_weight_transposed, int64_t type),
         grouped_matmul_add(x, weight, list, y, is_transposed, is_weight_transposed, type, kEnds))
OPERATOR(aclnnGroupedMatmulAddV2,
         (Tensor x, Tensor weight, Tensor list, Out y, bool is_transposed, bool is_weight_transposed, int64_t type,
          int64_t list_type),
         grouped_matmul_add(x, weight, list, y, is_transposed, is_weight_transposed, type, list_type))
