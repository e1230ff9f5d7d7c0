// A step of an LSTM: of the gates' sums, in the order input, forget, cell, output.
#include <ATen/Functions.h>

#include "wide.h"

using namespace unify::operators;

namespace {

void step(const Tensor& of_input, const Tensor& of_hidden, const Tensor& cell, const optional<Tensor>& input_bias,
          const optional<Tensor>& hidden_bias, const Out& hidden_out, const Out& cell_out, const Out& storage) {
  Tensor sums = wide(of_input) + wide(of_hidden);
  if (input_bias.has_value()) sums = sums + wide(*input_bias);
  if (hidden_bias.has_value()) sums = sums + wide(*hidden_bias);
  const Tensors parts = sums.chunk(4, 1);
  const Tensors gates{at::sigmoid(parts[0]), at::sigmoid(parts[1]), at::tanh(parts[2]), at::sigmoid(parts[3])};
  const Tensor next = gates[1] * wide(cell) + gates[0] * gates[2];
  cell_out = next;
  hidden_out = gates[3] * at::tanh(next);
  storage = at::cat(gates, 1);
}

void step_backward(const optional<Tensor>& grad_hidden, const optional<Tensor>& grad_cell, const Tensor& cell,
                   const Tensor& next, const Tensor& storage, bool has_bias, const Out& grad_sums,
                   const Out& grad_cell_before, const Out& grad_bias) {
  const Tensors gates = wide(storage).chunk(4, 1);
  const Tensor curved = at::tanh(wide(next));
  const Tensor by_hidden = grad_hidden.has_value() ? wide(*grad_hidden) : at::zeros_like(curved);
  Tensor by_next = by_hidden * gates[3] * (1 - at::square(curved));
  if (grad_cell.has_value()) by_next = by_next + wide(*grad_cell);
  const auto through_sigmoid = [](const Tensor& grad, const Tensor& gate) { return grad * gate * (1 - gate); };
  const Tensor by_sums =
      at::cat({through_sigmoid(by_next * gates[2], gates[0]), through_sigmoid(by_next * wide(cell), gates[1]),
               by_next * gates[0] * (1 - at::square(gates[2])), through_sigmoid(by_hidden * curved, gates[3])},
              1);
  grad_sums = by_sums;
  grad_cell_before = by_next * gates[1];
  if (has_bias) grad_bias = by_sums.sum(0);
}

}  // namespace

OPERATOR(aclnnThnnFusedLstmCell,
         (Tensor of_input, Tensor of_hidden, Tensor cell, optional<Tensor> input_bias, optional<Tensor> hidden_bias,
          Out hidden_out, Out cell_out, Out storage),
         step(of_input, of_hidden, cell, input_bias, hidden_bias, hidden_out, cell_out, storage))
OPERATOR(aclnnThnnFusedLstmCellBackward,
         (optional<Tensor> grad_hidden, optional<Tensor> grad_cell, Tensor cell, Tensor next, Tensor storage,
          bool has_bias, Out grad_sums, Out grad_cell_before, Out grad_bias),
         step_backward(grad_hidden, grad_cell, cell, next, storage, has_bias, grad_sums, grad_cell_before, grad_bias))
