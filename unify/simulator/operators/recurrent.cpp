// Steps and whole networks of LSTMs and GRUs. Gates are in torch's order: input, forget, cell, output; reset, update,
// new.
#include <ATen/Functions.h>

#include <functional>

#include "recurrent.h"

using namespace unify::operators;

// A list that is null where none of its tensors is asked for.
template <>
struct unify::operators::Parameter<optional<Outs>> : Parameter<Outs> {
  static bool is_good(C) { return true; }
  static Keeps keep(C list, Operands& operands) {
    return list == nullptr ? Keeps() : Parameter<Outs>::keep(list, operands);
  }
  static optional<Outs> get(const Keeps& kept, void* const* where) { return Parameter<Outs>::get(kept, where); }
};

namespace {

void step(const Tensor& of_input, const Tensor& of_hidden, const Tensor& cell, const optional<Tensor>& input_bias,
          const optional<Tensor>& hidden_bias, const Out& hidden_out, const Out& cell_out, const Out& storage) {
  Tensor sums = wide(of_input) + wide(of_hidden);
  if (input_bias.has_value()) sums = sums + wide(*input_bias);
  if (hidden_bias.has_value()) sums = sums + wide(*hidden_bias);
  const LstmStep next = lstm_step(sums, cell);
  cell_out = next.cell;
  hidden_out = next.hidden;
  storage = at::cat({next.input, next.forget, next.candidate, next.output}, 1);
}

void step_backward(const optional<Tensor>& grad_hidden, const optional<Tensor>& grad_cell, const Tensor& cell,
                   const Tensor& next, const Tensor& storage, bool has_bias, const Out& grad_sums,
                   const Out& grad_cell_before, const Out& grad_bias) {
  const Tensors gates = wide(storage).chunk(4, 1);
  const LstmStep made{gates[0], gates[2], gates[1], gates[3], {}, {}, at::tanh(wide(next))};
  const auto or_zeros = [&](const optional<Tensor>& grad) {
    return grad.has_value() ? wide(*grad) : at::zeros_like(made.curved_cell);
  };
  const auto [by_sums, by_cell] = lstm_step_backward(or_zeros(grad_hidden), or_zeros(grad_cell), wide(cell), made);
  grad_sums = by_sums;
  grad_cell_before = by_cell;
  if (has_bias) grad_bias = by_sums.sum(0);
}

// A network of layers, the two directions of each one after the other.
struct Network {
  Tensors parameters;
  bool has_bias, is_bidirectional, is_batch_first;
  Tensor is_there;

  [[nodiscard]] size_t directions() const { return is_bidirectional ? 2 : 1; }
  [[nodiscard]] size_t size() const { return parameters.size() / each(); }  // layers times directions
  [[nodiscard]] size_t each() const { return has_bias ? 4 : 2; }
  [[nodiscard]] RecurrentLayer at(size_t index) const {
    const Tensor* first = &parameters[index * each()];
    return {first[0],
            first[1],
            has_bias ? first[2] : Tensor(),
            has_bias ? first[3] : Tensor(),
            is_bidirectional && index % 2 == 1,
            is_there};
  }
};

Tensor turned(const Network& network, const Tensor& tensor) {
  return network.is_batch_first && tensor.dim() == 3 ? tensor.transpose(0, 1) : tensor;
}

// input: [T, B, I], or [B, T, I], or [T B, I] of sequences of several lengths. Returns [T, B, I].
Tensor steps_first(const Network& network, const Tensor& input) {
  return network.is_there.defined() ? input.reshape({network.is_there.size(0), -1, input.size(-1)})
                                    : turned(network, input);
}

// batch_sizes: how many sequences go on at each step.
Network network_of(const Tensors& parameters, const Tensor& input, const optional<Tensor>& batch_sizes, bool has_bias,
                   int64_t layers, bool is_bidirectional, bool is_batch_first) {
  Network network{parameters, has_bias, is_bidirectional, is_batch_first, {}};
  const size_t each = network.each() * network.directions();
  TORCH_CHECK(layers > 0 && parameters.size() == static_cast<size_t>(layers) * each, parameters.size(),
              " tensors of parameters for ", layers, " layers of ", each, ".");
  if (batch_sizes.has_value() && batch_sizes->numel() > 0) {
    const Tensor numbers = at::arange(input.size(0) / batch_sizes->numel(), batch_sizes->options());
    network.is_there = (numbers < batch_sizes->unsqueeze(1)).unsqueeze(-1);
  }
  return network;
}

// The results of both directions, side by side, are the next layer's input.
Tensor run_layers(const Network& network, Tensor input,
                  const std::function<Tensor(size_t, const RecurrentLayer&, const Tensor&)>& run) {
  for (size_t index = 0; index < network.size(); index += network.directions()) {
    Tensors results;
    for (size_t i = index; i < index + network.directions(); ++i) results.push_back(run(i, network.at(i), input));
    input = at::cat(results, -1);
  }
  return input;
}

// hidden: of each layer and direction, at all steps. Returns the gradients likewise, and the input's.
std::pair<std::vector<RecurrentGradients>, Tensor> run_layers_backward(
    const Network& network, const Tensor& input, const Tensors& hidden, Tensor by_result,
    const std::function<RecurrentGradients(size_t, const RecurrentLayer&, const Tensor&, const Tensor&)>& run) {
  const size_t directions = network.directions();
  std::vector<RecurrentGradients> gradients(network.size());
  for (size_t index = network.size(); index > 0; index -= directions) {
    const size_t first = index - directions;
    Tensor before = input;
    if (first > 0) {
      Tensors results;
      for (size_t i = first - directions; i < first; ++i) {
        results.push_back(layer_result(network.at(i), wide(hidden[i])));
      }
      before = at::cat(results, -1);
    }
    const Tensors by_each = by_result.chunk(static_cast<int64_t>(directions), -1);
    by_result = Tensor();
    for (size_t i = first; i < index; ++i) {
      gradients[i] = run(i, network.at(i), before, by_each[i - first]);
      by_result = by_result.defined() ? by_result + gradients[i].input : gradients[i].input;
    }
  }
  return {std::move(gradients), by_result};
}

void write_parameters(const Network& network, const std::vector<RecurrentGradients>& gradients, const Outs& outs) {
  Tensors results;
  for (const RecurrentGradients& each : gradients) {
    results.insert(results.end(), {each.input_weight, each.hidden_weight});
    if (network.has_bias) results.insert(results.end(), {each.input_bias, each.hidden_bias});
  }
  write(results, outs);
}

Tensor stacked(const std::vector<RecurrentGradients>& gradients, Tensor RecurrentGradients::*part) {
  Tensors parts;
  for (const RecurrentGradients& each : gradients) parts.push_back(each.*part);
  return at::stack(parts);
}

// Those of an inference are not asked for.
void write_steps(const Tensor& result, const optional<Outs>& outs, size_t index) {
  if (outs.has_value() && index < outs->size() && (*outs)[index]->dim() == 3) (*outs)[index] = result;
}

struct LstmOuts {
  Out result, hidden, cell;
  optional<Outs> inputs, candidates, forgets, outputs, hiddens, cells, curved_cells;
};

void lstm(const Network& network, const Tensor& input, const Tensors& first, const LstmOuts& outs) {
  Tensors hidden, cell;
  const auto run = [&](size_t i, const RecurrentLayer& layer, const Tensor& of_layer) {
    const LstmStep steps =
        lstm_layer(layer, of_layer, first[0][static_cast<int64_t>(i)], first[1][static_cast<int64_t>(i)]);
    hidden.push_back(last_state(layer, steps.hidden));
    cell.push_back(last_state(layer, steps.cell));
    write_steps(steps.input, outs.inputs, i);
    write_steps(steps.candidate, outs.candidates, i);
    write_steps(steps.forget, outs.forgets, i);
    write_steps(steps.output, outs.outputs, i);
    write_steps(steps.hidden, outs.hiddens, i);
    write_steps(steps.cell, outs.cells, i);
    write_steps(steps.curved_cell, outs.curved_cells, i);
    return layer_result(layer, steps.hidden);
  };
  outs.result = turned(network, run_layers(network, steps_first(network, input), run));
  outs.hidden = at::stack(hidden);
  outs.cell = at::stack(cell);
}

struct LstmSaved {
  Tensors inputs, candidates, forgets, outputs, hiddens, cells, curved_cells;
};
struct StateGradients {
  optional<Tensor> result, hidden, cell;
};

Tensor of_layer(const optional<Tensor>& states, size_t index) {
  return states.has_value() ? (*states)[static_cast<int64_t>(index)] : Tensor();
}

Tensor by_result_of(const Network& network, const optional<Tensor>& grad, const Tensors& hiddens) {
  if (grad.has_value()) return wide(steps_first(network, *grad));
  const Tensor& like = hiddens.back();
  const auto width = like.size(2) * static_cast<int64_t>(network.directions());
  return at::zeros({like.size(0), like.size(1), width}, wide(like).options());
}

void lstm_backward(const Network& network, const Tensor& input, const Tensors& first, const LstmSaved& saved,
                   const StateGradients& by, const Out& by_input, const Out& by_hidden, const Out& by_cell,
                   const Outs& by_parameters) {
  const auto run = [&](size_t i, const RecurrentLayer& layer, const Tensor& before, const Tensor& by_each) {
    const LstmStep steps{saved.inputs[i],  saved.candidates[i], saved.forgets[i],     saved.outputs[i],
                         saved.hiddens[i], saved.cells[i],      saved.curved_cells[i]};
    return lstm_layer_backward(layer, before, of_layer(first[0], i), of_layer(first[1], i), steps, by_each,
                               of_layer(by.hidden, i), of_layer(by.cell, i));
  };
  const auto [gradients, grad] = run_layers_backward(network, steps_first(network, input), saved.hiddens,
                                                     by_result_of(network, by.result, saved.hiddens), run);
  by_input = turned(network, grad).reshape(input.sizes());
  by_hidden = stacked(gradients, &RecurrentGradients::hidden);
  by_cell = stacked(gradients, &RecurrentGradients::cell);
  write_parameters(network, gradients, by_parameters);
}

struct GruOuts {
  Out result, hidden;
  optional<Outs> resets, updates, candidates, of_hiddens, hiddens;
};

void gru(const Network& network, const Tensor& input, const optional<Tensor>& first, const GruOuts& outs) {
  Tensors hidden;
  const auto run = [&](size_t i, const RecurrentLayer& layer, const Tensor& given) {
    const int64_t size = layer.hidden_weight.size(1);
    const Tensor start =
        first.has_value() ? of_layer(first, i) : at::zeros({given.size(1), size}, wide(given).options());
    const GruStep steps = gru_layer(layer, given, start);
    hidden.push_back(last_state(layer, steps.hidden));
    write_steps(steps.reset, outs.resets, i);
    write_steps(steps.update, outs.updates, i);
    write_steps(steps.candidate, outs.candidates, i);
    write_steps(steps.of_hidden, outs.of_hiddens, i);
    write_steps(steps.hidden, outs.hiddens, i);
    return layer_result(layer, steps.hidden);
  };
  outs.result = turned(network, run_layers(network, steps_first(network, input), run));
  outs.hidden = at::stack(hidden);
}

struct GruSaved {
  Tensors resets, updates, candidates, of_hiddens, hiddens;
};

void gru_backward(const Network& network, const Tensor& input, const Tensor& first, const GruSaved& saved,
                  const StateGradients& by, const Out& by_input, const Out& by_hidden, const Outs& by_parameters) {
  const auto run = [&](size_t i, const RecurrentLayer& layer, const Tensor& before, const Tensor& by_each) {
    const GruStep steps{saved.resets[i], saved.updates[i], saved.candidates[i], saved.hiddens[i], saved.of_hiddens[i]};
    return gru_layer_backward(layer, before, of_layer(first, i), steps, by_each, of_layer(by.hidden, i));
  };
  const auto [gradients, grad] = run_layers_backward(network, steps_first(network, input), saved.hiddens,
                                                     by_result_of(network, by.result, saved.hiddens), run);
  by_input = turned(network, grad).reshape(input.sizes());
  by_hidden = stacked(gradients, &RecurrentGradients::hidden);
  write_parameters(network, gradients, by_parameters);
}

// aclnnGRU's documentation: such sequences are not supported yet.
void refuse_sizes(const optional<Tensor>& batch_sizes) {
  TORCH_CHECK(!batch_sizes.has_value() || batch_sizes->numel() == 0,
              "batchSizes, sequences of several lengths, are not supported by the vendor's GRU.");
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
// Dropout between layers the vendor's operators take and do not apply, as their documentation says.
OPERATOR(aclnnLSTM,
         (Tensor input, Tensors parameters, Tensors first, optional<Tensor> batch_sizes, bool has_bias, int64_t layers,
          double, bool, bool is_bidirectional, bool is_batch_first, Out result, Out hidden, Out cell, optional<Outs> i,
          optional<Outs> j, optional<Outs> f, optional<Outs> o, optional<Outs> h, optional<Outs> c,
          optional<Outs> curved),
         lstm(network_of(parameters, input, batch_sizes, has_bias, layers, is_bidirectional, is_batch_first), input,
              first, {result, hidden, cell, i, j, f, o, h, c, curved}))
OPERATOR(aclnnLstmBackward,
         (Tensor input, Tensors first, Tensors parameters, optional<Tensor> by_result, optional<Tensor> by_hidden,
          optional<Tensor> by_cell, Tensors i, Tensors j, Tensors f, Tensors o, Tensors h, Tensors c, Tensors curved,
          optional<Tensor> batch_sizes, bool has_bias, int64_t layers, double, bool, bool is_bidirectional,
          bool is_batch_first, const aclBoolArray*, Out by_input, Out by_first_hidden, Out by_first_cell,
          Outs by_parameters),
         lstm_backward(network_of(parameters, input, batch_sizes, has_bias, layers, is_bidirectional, is_batch_first),
                       input, first, {i, j, f, o, h, c, curved}, {by_result, by_hidden, by_cell}, by_input,
                       by_first_hidden, by_first_cell, by_parameters))
OPERATOR(aclnnGRU,
         (Tensor input, Tensors parameters, optional<Tensor> first, optional<Tensor> batch_sizes, bool has_bias,
          int64_t layers, double, bool, bool is_bidirectional, bool is_batch_first, Out result, Out hidden,
          optional<Outs> r, optional<Outs> z, optional<Outs> n, optional<Outs> of_hidden, optional<Outs> h),
         refuse_sizes(batch_sizes);
         gru(network_of(parameters, input, {}, has_bias, layers, is_bidirectional, is_batch_first), input, first,
             {result, hidden, r, z, n, of_hidden, h}))
OPERATOR(aclnnGRUBackward,
         (Tensor input, Tensors parameters, Tensor first, optional<Tensor> by_result, optional<Tensor> by_hidden,
          Tensors r, Tensors z, Tensors n, Tensors of_hidden, Tensors h, optional<Tensor> batch_sizes, bool has_bias,
          int64_t layers, bool is_bidirectional, bool is_batch_first, Out by_input, Out by_first, Outs by_parameters),
         refuse_sizes(batch_sizes);
         gru_backward(network_of(parameters, input, {}, has_bias, layers, is_bidirectional, is_batch_first), input,
                      first, {r, z, n, of_hidden, h}, {by_result, by_hidden, {}}, by_input, by_first, by_parameters))
