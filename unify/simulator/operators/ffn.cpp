// Two products with an activation between them, of one network or of an expert for each group of tokens.
#include <ATen/Functions.h>

#include "grouped.h"

using namespace unify::operators;

namespace {

Tensor activated(const Tensor& x, const std::string& name) {
  if (name == "relu") return at::relu(x);
  if (name == "gelu") return at::gelu(x, "tanh");
  if (name == "fastgelu") return x * at::sigmoid(x * 1.702);
  if (name == "silu") return at::silu(x);
  const Tensors halves = x.chunk(2, -1);
  if (name == "reglu") return at::relu(halves[0]) * halves[1];
  if (name == "geglu") return at::gelu(halves[0], "tanh") * halves[1];
  TORCH_CHECK(name == "swiglu", "activation ", name, " is not simulated: relu, gelu, fastgelu, silu, reglu, geglu and ",
              "swiglu are.");
  return at::silu(halves[0]) * halves[1];
}

struct Layer {
  Tensor weight;
  optional<Tensor> bias;
};

Tensor applied(const Layer& layer, const Tensor& x) {
  const Tensor y = at::matmul(x, wide(layer.weight));
  return layer.bias.has_value() ? y + wide(*layer.bias) : y;
}

Layer of_expert(const Layer& layer, int64_t expert) {
  return {layer.weight.select(0, expert), part_of(layer.bias, expert)};
}

void ffn(const Tensor& x, const Layer& first, const Layer& second, const optional<Ints>& tokens, bool is_ends,
         const std::string& activation, const Out& out) {
  if (!tokens.has_value() || tokens->empty()) {
    out = applied(second, activated(applied(first, wide(x)), activation));
    return;
  }
  for (const auto& [expert, begin, end] : groups_of(at::tensor(*tokens), is_ends ? kEnds : kCounts, x.size(0))) {
    const Tensor hidden = activated(applied(of_expert(first, expert), wide(x.slice(0, begin, end))), activation);
    out->slice(0, begin, end).copy_(applied(of_expert(second, expert), hidden));
  }
}

}  // namespace

OPERATOR(aclnnFFNV2,
         (Tensor x, Tensor weight1, Tensor weight2, optional<Ints> tokens, optional<Tensor> bias1,
          optional<Tensor> bias2, optional<Tensor> scale, optional<Tensor> offset, optional<Tensor> deq_scale1,
          optional<Tensor> deq_scale2, optional<Tensor> antiquant_scale1, optional<Tensor> antiquant_scale2,
          optional<Tensor> antiquant_offset1, optional<Tensor> antiquant_offset2, std::string activation, int64_t,
          bool is_ends, Out out),
         TORCH_CHECK(!scale && !offset && !deq_scale1 && !deq_scale2 && !antiquant_scale1 && !antiquant_scale2 &&
                         !antiquant_offset1 && !antiquant_offset2,
                     "quantized networks are not simulated.");
         ffn(x, {weight1, bias1}, {weight2, bias2}, tokens, is_ends, activation, out))
