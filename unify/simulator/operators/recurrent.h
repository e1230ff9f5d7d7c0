// Layers of recurrent networks in one direction, over all their steps, and their gradients.
#pragma once

#include "wide.h"

namespace unify::operators {

struct RecurrentLayer {
  Tensor input_weight;             // [G H, I], G gates in torch's order
  Tensor hidden_weight;            // [G H, H]
  Tensor input_bias, hidden_bias;  // [G H], undefined if there are none
  bool is_reversed = false;        // from the last step to the first
  Tensor is_there;                 // [T, B, 1] of booleans; a sequence that has ended stays as it is. Undefined: all
};

// Of a step [B, H], or of all [T, B, H].
struct LstmStep {
  Tensor input, candidate, forget, output;  // the gates
  Tensor hidden, cell;
  Tensor curved_cell;  // its tanh
};
struct GruStep {
  Tensor reset, update, candidate;  // the gates
  Tensor hidden;
  Tensor of_hidden;  // what the candidate has of the hidden state, before the reset
};

struct RecurrentGradients {
  Tensor input;                                                 // [T, B, I]
  Tensor input_weight, hidden_weight, input_bias, hidden_bias;  // as in the layer; the biases always
  Tensor hidden, cell;                                          // of the first ones, [B, H]; no cell in a GRU
};

// A step, from the sums of its gates [B, 4 H].
LstmStep lstm_step(const Tensor& sums, const Tensor& cell);
// Returns the gradients of the sums and of the cell before.
std::pair<Tensor, Tensor> lstm_step_backward(const Tensor& by_hidden, const Tensor& by_cell, const Tensor& cell,
                                             const LstmStep& step);

// input: [T, B, I]; hidden, cell: [B, H].
LstmStep lstm_layer(const RecurrentLayer& layer, const Tensor& input, const Tensor& hidden, const Tensor& cell);
GruStep gru_layer(const RecurrentLayer& layer, const Tensor& input, const Tensor& hidden);

// by_each: of each step's hidden state, [T, B, H]; by_hidden, by_cell: of the last ones, [B, H]. Undefined: zeros.
RecurrentGradients lstm_layer_backward(const RecurrentLayer& layer, const Tensor& input, const Tensor& hidden,
                                       const Tensor& cell, const LstmStep& steps, const Tensor& by_each,
                                       const Tensor& by_hidden, const Tensor& by_cell);
RecurrentGradients gru_layer_backward(const RecurrentLayer& layer, const Tensor& input, const Tensor& hidden,
                                      const GruStep& steps, const Tensor& by_each, const Tensor& by_hidden);

// What a layer gives to the next one: the hidden states, and zeros where a sequence has ended.
Tensor layer_result(const RecurrentLayer& layer, const Tensor& hidden);
// The state that a layer ends with, of those of all steps.
Tensor last_state(const RecurrentLayer& layer, const Tensor& states);

}  // namespace unify::operators
