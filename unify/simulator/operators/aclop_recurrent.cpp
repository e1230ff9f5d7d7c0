// The older layers of recurrent networks: a layer in one direction, whose weights are torch's, transposed.
#include <ATen/Functions.h>

#include "aclop.h"
#include "recurrent.h"

using namespace unify::operators;

namespace {

bool is_reversed(const Attributes& with) {
  const auto direction = with.get<std::string>("direction", "UNIDIRECTIONAL");
  TORCH_CHECK(direction == "UNIDIRECTIONAL" || direction == "REDIRECTIONAL", "direction ", direction,
              " is not simulated.");
  return direction == "REDIRECTIONAL";
}

// length: 1 where a sequence goes on, in each element [T, B, H]; torch_npu gives one number or nothing for all steps.
Tensor is_there(const optional<Tensor>& length) {
  if (!length.has_value() || length->dim() == 0 || length->numel() == 0) return {};
  TORCH_CHECK(length->dim() == 3, "a seq_length of ", length->sizes(), " is not simulated: [T, B, H] is.");
  return length->narrow(-1, 0, 1) != 0;
}

// What is neither asked for by torch_npu nor simulated.
void refuse_options(const Attributes& with) {
  TORCH_CHECK(with.get<std::string>("activation", "tanh") == "tanh" && !with.get<bool>("use_peephole", false) &&
                  with.get<double>("forget_bias", 0.0) == 0 && with.get<int64_t>("num_proj", 0) == 0,
              "only tanh without peepholes, projections and a forget_bias is simulated.");
  TORCH_CHECK(with.get<double>("cell_clip", -1.0) < 0 && with.get<bool>("time_major", true) &&
                  with.get<bool>("reset_after", true),
              "only states that are not clipped, steps before batches and a reset after the product are simulated.");
  const auto order = with.get<std::string>("gate_order");
  TORCH_CHECK(order == "ifjo" || order == "ifco" || order == "rzh", "gate_order ", order, " is not simulated.");
}

// A state [B, H], which may have a dimension of one layer before it.
Tensor state(const Tensor& given, const Tensor& input) { return given.reshape({input.size(1), -1}); }
Tensor state(const optional<Tensor>& given, const Tensor& input, int64_t hidden_size) {
  if (!given.has_value()) return at::zeros({input.size(1), hidden_size}, wide(input).options());
  return state(*given, input);
}

// A cell's tensors are those of one step.
Tensor steps(const Tensor& tensor) { return tensor.dim() == 2 ? tensor.unsqueeze(0) : tensor; }

struct LstmOuts {
  Out result, hidden, cell, input, candidate, forget, output, curved_cell;
};

void lstm(const Tensor& x, RecurrentLayer layer, const optional<Tensor>& length, const optional<Tensor>& hidden,
          const optional<Tensor>& cell, const Attributes& with, const LstmOuts& outs) {
  refuse_options(with);
  layer.is_reversed = is_reversed(with);
  layer.is_there = is_there(length);
  const int64_t size = layer.hidden_weight.size(1);
  const LstmStep steps = lstm_layer(layer, x, state(hidden, x, size), state(cell, x, size));
  outs.result = layer_result(layer, steps.hidden);
  outs.hidden = steps.hidden;
  outs.cell = steps.cell;
  outs.input = steps.input;
  outs.candidate = steps.candidate;
  outs.forget = steps.forget;
  outs.output = steps.output;
  outs.curved_cell = steps.curved_cell;
}

// weight: those of the inputs above those of the hidden states, [I + H, 4 H].
RecurrentLayer divided(const Tensor& weight, const optional<Tensor>& bias) {
  const int64_t size = weight.size(1) / 4;
  const Tensors parts = weight.t().split_with_sizes({weight.size(0) - size, size}, 1);
  return {parts[0], parts[1], bias.value_or(Tensor()), {}, false, {}};
}

}  // namespace

ACLOP(DynamicRNN,
      (Tensor x, Tensor weight, Tensor bias, optional<Tensor> length, optional<Tensor> hidden, optional<Tensor> cell,
       const Attributes& with, Out y, Out h, Out c, Out i, Out j, Out f, Out o, Out curved),
      lstm(x, divided(weight, bias), length, hidden, cell, with, {y, h, c, i, j, f, o, curved}))
ACLOP(DynamicRNNV2,
      (Tensor x, Tensor input_weight, Tensor hidden_weight, optional<Tensor> bias, optional<Tensor> length,
       optional<Tensor> hidden, optional<Tensor> cell, const Attributes& with, Out y, Out h, Out c, Out i, Out j, Out f,
       Out o, Out curved),
      lstm(x, {input_weight.t(), hidden_weight.t(), bias.value_or(Tensor()), {}, false, {}}, length, hidden, cell, with,
           {y, h, c, i, j, f, o, curved}))
ACLOP(DynamicRNNGrad,
      (Tensor x, Tensor weight, Tensor bias, Tensor, Tensor hidden, Tensor cell, Tensor h, Tensor c, Tensor by_y,
       Tensor by_h, Tensor by_c, Tensor i, Tensor j, Tensor f, Tensor o, Tensor curved, optional<Tensor> length,
       Tensors, const Attributes& with, Out by_weight, Out by_bias, Out by_x, Out by_hidden, Out by_cell),
      refuse_options(with);
      RecurrentLayer layer = divided(weight, bias); layer.is_reversed = is_reversed(with);
      layer.is_there = is_there(length);
      const RecurrentGradients gradients = lstm_layer_backward(layer, x, hidden, cell, {i, j, f, o, h, c, curved}, by_y,
                                                               by_h, by_c);
      by_weight = at::cat({gradients.input_weight, gradients.hidden_weight}, 1).t(); by_bias = gradients.input_bias;
      by_x = gradients.input; by_hidden = gradients.hidden; by_cell = gradients.cell)
ACLOP(DynamicRNNV2Grad,
      (Tensor x, Tensor input_weight, Tensor hidden_weight, Tensor, Tensor hidden, Tensor cell, Tensor h, Tensor c,
       Tensor by_y, Tensor by_h, Tensor by_c, Tensor i, Tensor j, Tensor f, Tensor o, Tensor curved, Tensors,
       const Attributes& with, Out by_input_weight, Out by_hidden_weight, Out by_bias, Out by_x, Out by_hidden,
       Out by_cell),
      refuse_options(with);
      const RecurrentLayer layer{input_weight.t(), hidden_weight.t(), {}, {}, is_reversed(with), {}};
      const RecurrentGradients gradients = lstm_layer_backward(
          layer, steps(x), hidden, cell, {steps(i), steps(j), steps(f), steps(o), steps(h), steps(c), steps(curved)},
          steps(by_y), by_h.reshape(hidden.sizes()), by_c.reshape(cell.sizes()));
      by_input_weight = gradients.input_weight.t(); by_hidden_weight = gradients.hidden_weight.t();
      by_bias = gradients.input_bias; write_reshaped(gradients.input, by_x); by_hidden = gradients.hidden;
      by_cell = gradients.cell)
ACLOP(DynamicGRUV2,
      (Tensor x, Tensor input_weight, Tensor hidden_weight, optional<Tensor> input_bias, optional<Tensor> hidden_bias,
       optional<Tensor> length, optional<Tensor> hidden, const Attributes& with, Out y, Out h, Out update, Out reset,
       Out candidate, Out of_hidden),
      refuse_options(with);
      const RecurrentLayer layer{input_weight.t(), hidden_weight.t(), input_bias.value_or(Tensor()),
                                 hidden_bias.value_or(Tensor()), is_reversed(with), is_there(length)};
      const GruStep steps = gru_layer(layer, x, state(hidden, x, hidden_weight.size(0)));
      y = layer_result(layer, steps.hidden); h = steps.hidden; update = steps.update; reset = steps.reset;
      candidate = steps.candidate; of_hidden = steps.of_hidden)
ACLOP(DynamicGRUV2Grad,
      (Tensor x, Tensor input_weight, Tensor hidden_weight, Tensor, Tensor hidden, Tensor h, Tensor by_y, Tensor by_h,
       Tensor update, Tensor reset, Tensor candidate, Tensor of_hidden, Tensors, const Attributes& with,
       Out by_input_weight, Out by_hidden_weight, Out by_input_bias, Out by_hidden_bias, Out by_x, Out by_hidden),
      refuse_options(with);
      const RecurrentLayer layer{input_weight.t(), hidden_weight.t(), {}, {}, is_reversed(with), {}};
      const RecurrentGradients gradients = gru_layer_backward(layer, x, state(hidden, x),
                                                              {reset, update, candidate, h, of_hidden}, by_y,
                                                              state(by_h, x));
      by_input_weight = gradients.input_weight.t(); by_hidden_weight = gradients.hidden_weight.t();
      by_input_bias = gradients.input_bias; by_hidden_bias = gradients.hidden_bias; by_x = gradients.input;
      write_reshaped(gradients.hidden, by_hidden))
