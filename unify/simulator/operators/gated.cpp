// A gated unit: one half of the input through an activation, times the other.
#include <ATen/Functions.h>

#include "wide.h"

using namespace unify::operators;

namespace {

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

OPERATOR(aclnnClippedSwiglu,
         (Tensor self, optional<Tensor> groups, int64_t dim, double alpha, double limit, double bias,
          bool is_interleaved, Out out),
         clipped_swiglu(self, groups, dim, alpha, limit, bias, is_interleaved, out))
