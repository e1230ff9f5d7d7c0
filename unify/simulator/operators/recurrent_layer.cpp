#include <ATen/Functions.h>

#include "recurrent.h"

namespace unify::operators {
namespace {

Tensor linear(const Tensor& input, const Tensor& weight, const Tensor& bias) {
  const Tensor sums = wide(input).matmul(wide(weight).t());
  return bias.defined() ? sums + wide(bias) : sums;
}

// The steps in the layer's order.
Ints order_of(const RecurrentLayer& layer, int64_t steps) {
  Ints order(steps);
  for (int64_t i = 0; i < steps; ++i) order[i] = layer.is_reversed ? steps - 1 - i : i;
  return order;
}

// A state after a step: where a sequence has ended, the one before it.
Tensor kept(const RecurrentLayer& layer, int64_t step, const Tensor& next, const Tensor& before) {
  return layer.is_there.defined() ? at::where(layer.is_there[step], next, before) : next;
}

// The states before each step.
Tensor states_before(const RecurrentLayer& layer, const Tensor& states, const Tensor& first) {
  const int64_t steps = states.size(0);
  const Tensor start = wide(first).unsqueeze(0);
  return layer.is_reversed ? at::cat({wide(states).narrow(0, 1, steps - 1), start})
                           : at::cat({start, wide(states).narrow(0, 0, steps - 1)});
}

Tensor or_zeros(const Tensor& grad, const Tensor& like) { return grad.defined() ? wide(grad) : at::zeros_like(like); }

Tensor through_sigmoid(const Tensor& grad, const Tensor& gate) { return grad * gate * (1 - gate); }
Tensor through_tanh(const Tensor& grad, const Tensor& gate) { return grad * (1 - at::square(gate)); }

// What is left of a gradient for the states of sequences that go on, and for those that have ended.
std::pair<Tensor, Tensor> divided(const RecurrentLayer& layer, int64_t step, const Tensor& grad) {
  if (!layer.is_there.defined()) return {grad, at::zeros_like(grad)};
  const Tensor going = layer.is_there[step].to(grad.scalar_type());
  return {grad * going, grad * (1 - going)};
}

// The gradients of the weights, of those of the sums that the inputs and the hidden states gave, [T, B, G H] each.
RecurrentGradients of_weights(const RecurrentLayer& layer, const Tensor& input, const Tensor& before,
                              const Tensor& by_input_sums, const Tensor& by_hidden_sums) {
  const auto product = [](const Tensor& by_sums, const Tensor& of) {
    return by_sums.flatten(0, 1).t().matmul(wide(of).flatten(0, 1));
  };
  RecurrentGradients gradients;
  gradients.input = by_input_sums.matmul(wide(layer.input_weight));
  gradients.input_weight = product(by_input_sums, input);
  gradients.hidden_weight = product(by_hidden_sums, before);
  gradients.input_bias = by_input_sums.sum({0, 1});
  gradients.hidden_bias = by_hidden_sums.sum({0, 1});
  return gradients;
}

template <typename Step>
Tensor stacked(const std::vector<Step>& steps, Tensor Step::*part) {
  Tensors parts;
  for (const Step& each : steps) parts.push_back(each.*part);
  return at::stack(parts);
}

}  // namespace

LstmStep lstm_step(const Tensor& sums, const Tensor& cell) {
  const Tensors parts = sums.chunk(4, -1);
  LstmStep step{at::sigmoid(parts[0]), at::tanh(parts[2]), at::sigmoid(parts[1]), at::sigmoid(parts[3]), {}, {}, {}};
  step.cell = step.forget * wide(cell) + step.input * step.candidate;
  step.curved_cell = at::tanh(step.cell);
  step.hidden = step.output * step.curved_cell;
  return step;
}

std::pair<Tensor, Tensor> lstm_step_backward(const Tensor& by_hidden, const Tensor& by_cell, const Tensor& cell,
                                             const LstmStep& step) {
  const Tensor by_next = by_cell + through_tanh(by_hidden * step.output, step.curved_cell);
  const Tensor by_sums = at::cat(
      {through_sigmoid(by_next * step.candidate, step.input), through_sigmoid(by_next * cell, step.forget),
       through_tanh(by_next * step.input, step.candidate), through_sigmoid(by_hidden * step.curved_cell, step.output)},
      -1);
  return {by_sums, by_next * step.forget};
}

LstmStep lstm_layer(const RecurrentLayer& layer, const Tensor& input, const Tensor& hidden, const Tensor& cell) {
  const Tensor of_input = linear(input, layer.input_weight, layer.input_bias);
  LstmStep now;
  now.hidden = wide(hidden);
  now.cell = wide(cell);
  std::vector<LstmStep> steps(input.size(0));
  for (const int64_t t : order_of(layer, input.size(0))) {
    const LstmStep before = now;
    now = lstm_step(of_input[t] + linear(before.hidden, layer.hidden_weight, layer.hidden_bias), before.cell);
    now.hidden = kept(layer, t, now.hidden, before.hidden);
    now.cell = kept(layer, t, now.cell, before.cell);
    steps[t] = now;
  }
  return {stacked(steps, &LstmStep::input),      stacked(steps, &LstmStep::candidate),
          stacked(steps, &LstmStep::forget),     stacked(steps, &LstmStep::output),
          stacked(steps, &LstmStep::hidden),     stacked(steps, &LstmStep::cell),
          stacked(steps, &LstmStep::curved_cell)};
}

RecurrentGradients lstm_layer_backward(const RecurrentLayer& layer, const Tensor& input, const Tensor& hidden,
                                       const Tensor& cell, const LstmStep& steps, const Tensor& by_each,
                                       const Tensor& by_hidden, const Tensor& by_cell) {
  const Tensor hidden_before = states_before(layer, steps.hidden, hidden);
  const Tensor cell_before = states_before(layer, steps.cell, cell);
  const Tensor by_result = or_zeros(by_each, hidden_before);
  Tensor grad_hidden = or_zeros(by_hidden, hidden_before[0]), grad_cell = or_zeros(by_cell, cell_before[0]);
  Tensors by_sums(input.size(0));
  Ints order = order_of(layer, input.size(0));
  for (auto t = order.rbegin(); t != order.rend(); ++t) {
    const auto at = [&](const Tensor& tensor) { return wide(tensor)[*t]; };
    const LstmStep step{at(steps.input),      at(steps.candidate), at(steps.forget), at(steps.output), {}, {},
                        at(steps.curved_cell)};
    const auto [of_hidden, past_hidden] = divided(layer, *t, grad_hidden);
    const auto [of_cell, past_cell] = divided(layer, *t, grad_cell);
    const Tensor of_step = of_hidden + divided(layer, *t, by_result[*t]).first;
    const auto [sums, before] = lstm_step_backward(of_step, of_cell, cell_before[*t], step);
    by_sums[*t] = sums;
    grad_hidden = sums.matmul(wide(layer.hidden_weight)) + past_hidden;
    grad_cell = before + past_cell;
  }
  const Tensor all = at::stack(by_sums);
  RecurrentGradients gradients = of_weights(layer, input, hidden_before, all, all);
  gradients.hidden = grad_hidden;
  gradients.cell = grad_cell;
  return gradients;
}

GruStep gru_layer(const RecurrentLayer& layer, const Tensor& input, const Tensor& hidden) {
  const Tensor of_input = linear(input, layer.input_weight, layer.input_bias);
  Tensor now = wide(hidden);
  std::vector<GruStep> steps(input.size(0));
  for (const int64_t t : order_of(layer, input.size(0))) {
    const Tensors from_input = of_input[t].chunk(3, -1);
    const Tensors from_hidden = linear(now, layer.hidden_weight, layer.hidden_bias).chunk(3, -1);
    const Tensor reset = at::sigmoid(from_input[0] + from_hidden[0]);
    const Tensor update = at::sigmoid(from_input[1] + from_hidden[1]);
    const Tensor candidate = at::tanh(from_input[2] + reset * from_hidden[2]);
    now = kept(layer, t, (1 - update) * candidate + update * now, now);
    steps[t] = {reset, update, candidate, now, from_hidden[2]};
  }
  return {stacked(steps, &GruStep::reset), stacked(steps, &GruStep::update), stacked(steps, &GruStep::candidate),
          stacked(steps, &GruStep::hidden), stacked(steps, &GruStep::of_hidden)};
}

RecurrentGradients gru_layer_backward(const RecurrentLayer& layer, const Tensor& input, const Tensor& hidden,
                                      const GruStep& steps, const Tensor& by_each, const Tensor& by_hidden) {
  const Tensor before = states_before(layer, steps.hidden, hidden);
  const Tensor by_result = or_zeros(by_each, before);
  Tensor grad_hidden = or_zeros(by_hidden, before[0]);
  Tensors by_input_sums(input.size(0)), by_hidden_sums(input.size(0));
  Ints order = order_of(layer, input.size(0));
  for (auto t = order.rbegin(); t != order.rend(); ++t) {
    const auto at = [&](const Tensor& tensor) { return wide(tensor)[*t]; };
    const Tensor reset = at(steps.reset), update = at(steps.update), candidate = at(steps.candidate);
    const auto [of_hidden, past] = divided(layer, *t, grad_hidden);
    const Tensor of_step = of_hidden + divided(layer, *t, by_result[*t]).first;
    const Tensor by_candidate = through_tanh(of_step * (1 - update), candidate);
    const Tensor by_update = through_sigmoid(of_step * (before[*t] - candidate), update);
    const Tensor by_reset = through_sigmoid(by_candidate * at(steps.of_hidden), reset);
    by_input_sums[*t] = at::cat({by_reset, by_update, by_candidate}, -1);
    by_hidden_sums[*t] = at::cat({by_reset, by_update, by_candidate * reset}, -1);
    grad_hidden = by_hidden_sums[*t].matmul(wide(layer.hidden_weight)) + of_step * update + past;
  }
  RecurrentGradients gradients = of_weights(layer, input, before, at::stack(by_input_sums), at::stack(by_hidden_sums));
  gradients.hidden = grad_hidden;
  return gradients;
}

Tensor layer_result(const RecurrentLayer& layer, const Tensor& hidden) {
  return layer.is_there.defined() ? hidden * layer.is_there : hidden;
}

Tensor last_state(const RecurrentLayer& layer, const Tensor& states) {
  return layer.is_reversed ? states[0] : states[states.size(0) - 1];
}

}  // namespace unify::operators
