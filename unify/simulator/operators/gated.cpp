// Gated units: one half of the input through an activation, times the other.
#include <ATen/Functions.h>

#include "wide.h"

using namespace unify::operators;

namespace {

c10::string_view gelu_of(int64_t approximate) {
  TORCH_CHECK(approximate == 0 || approximate == 1, "approximate ", approximate, " is not none (0) or tanh (1).");
  return approximate == 0 ? "none" : "tanh";
}

struct Halves {
  Tensor gate, linear;
};

Halves halves_of(const Tensor& self, int64_t dim, bool is_gate_left) {
  TORCH_CHECK(self.size(dim) % 2 == 0, "dimension ", dim, " of ", self.sizes(), " has no halves.");
  const Tensors both = wide(self).chunk(2, dim);
  return {both[is_gate_left ? 0 : 1], both[is_gate_left ? 1 : 0]};
}

// What group_index counts of the rows before `dim` is computed; the rest is left as it is.
void clipped_swiglu(const Tensor& self, const optional<Tensor>& groups, int64_t dim, double alpha, double limit,
                    double bias, bool is_interleaved, const Out& out) {
  const int64_t axis = dim < 0 ? dim + self.dim() : dim;
  const auto rows_of = [axis](const Tensor& tensor) {  // [rows, axis, after]
    return axis == 0 ? tensor.unsqueeze(0).flatten(2) : tensor.unsqueeze(-1).flatten(0, axis - 1).flatten(2);
  };
  Tensor x = rows_of(wide(self));
  Tensor y = at::zeros(out->sizes());
  const int64_t rows = groups.has_value() ? groups->sum().item<int64_t>() : x.size(0);
  x = x.slice(0, 0, rows);
  const Tensors halves = is_interleaved ? x.unflatten(1, {-1, 2}).unbind(2) : x.chunk(2, 1);
  const Tensor gate = halves[0].clamp(std::nullopt, limit);
  const Tensor result = gate * at::sigmoid(gate * alpha) * (halves[1].clamp(-limit, limit) + bias);
  y.copy_(static_cast<const Tensor&>(out));
  rows_of(y).slice(0, 0, rows).copy_(result);
  out = y;
}

}  // namespace

OPERATOR(aclnnSwiGlu, (Tensor self, int64_t dim, Out out), const auto [gate, linear] = halves_of(self, dim, true);
         out = at::silu(gate) * linear)
OPERATOR(aclnnSwiGluGrad, (Tensor grad, Tensor self, int64_t dim, Out grad_input),
         const auto [gate, linear] = halves_of(self, dim, true);
         grad_input = at::cat({at::silu_backward(wide(grad) * linear, gate), wide(grad) * at::silu(gate)}, dim))
OPERATOR(aclnnClippedSwiglu,
         (Tensor self, optional<Tensor> groups, int64_t dim, double alpha, double limit, double bias,
          bool is_interleaved, Out out),
         clipped_swiglu(self, groups, dim, alpha, limit, bias, is_interleaved, out))
OPERATOR(aclnnGeGluV3, (Tensor self, int64_t dim, int64_t approximate, bool is_gate_left, Out out, Out gelu),
         const auto [gate, linear] = halves_of(self, dim, is_gate_left);
         const Tensor activated = at::gelu(gate, gelu_of(approximate)); out = activated * linear; gelu = activated)
OPERATOR(aclnnGeGluV3Backward,
         (Tensor grad, Tensor self, Tensor gelu, int64_t dim, int64_t approximate, bool is_gate_left, Out grad_input),
         const auto [gate, linear] = halves_of(self, dim, is_gate_left);
         const Tensor by_gate = at::gelu_backward(wide(grad) * linear, gate, gelu_of(approximate));
         const Tensor by_linear = wide(grad) * wide(gelu);
         grad_input = is_gate_left ? at::cat({by_gate, by_linear}, dim) : at::cat({by_linear, by_gate}, dim))
