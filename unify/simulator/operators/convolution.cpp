// Convolutions. cube_math_type says how the chip may round float32; here it is computed as it is.
#include <ATen/Functions.h>

#include <array>

#include "wide.h"

using namespace unify::operators;

namespace {

void convolution_backward(const Tensor& grad, const Tensor& input, const Tensor& weight,
                          const optional<Ints>& bias_sizes, const Ints& stride, const Ints& padding,
                          const Ints& dilation, bool transposed, const Ints& output_padding, int64_t groups,
                          const Bools& mask, const Out& grad_input, const Out& grad_weight, const Out& grad_bias) {
  const at::OptionalIntArrayRef sizes = bias_sizes.has_value() ? at::OptionalIntArrayRef(*bias_sizes) : std::nullopt;
  const auto [by_input, by_weight, by_bias] =
      at::convolution_backward(wide(grad), wide(input), wide(weight), sizes, stride, padding, dilation, transposed,
                               output_padding, groups, {mask.at(0), mask.at(1), mask.at(2)});
  write_defined(by_input, grad_input);
  write_defined(by_weight, grad_weight);
  write_defined(by_bias, grad_bias);
}

}  // namespace

OPERATOR(aclnnConvolution,
         (Tensor input, Tensor weight, optional<Tensor> bias, Ints stride, Ints padding, Ints dilation, bool transposed,
          Ints output_padding, int64_t groups, Out out, int8_t),
         out = at::convolution(wide(input), wide(weight), wide(bias), stride, padding, dilation, transposed,
                               output_padding, groups))
OPERATOR(aclnnConvolutionBackward,
         (Tensor grad, Tensor input, Tensor weight, optional<Ints> bias_sizes, Ints stride, Ints padding, Ints dilation,
          bool transposed, Ints output_padding, int64_t groups, Bools mask, int8_t, Out grad_input, Out grad_weight,
          Out grad_bias),
         convolution_backward(grad, input, weight, bias_sizes, stride, padding, dilation, transposed, output_padding,
                              groups, mask, grad_input, grad_weight, grad_bias))
OPERATOR(aclnnConvDepthwise2d,
         (Tensor input, Tensor weight, Ints, optional<Tensor> bias, Ints stride, Ints padding, Ints dilation, Out out,
          int8_t),
         out = at::conv2d(wide(input), wide(weight), wide(bias), stride, padding, dilation, input.size(-3)))
OPERATOR(aclnnConvTbc, (Tensor input, Tensor weight, Tensor bias, int64_t padding, Out out, int8_t),
         out = at::conv_tbc(wide(input), wide(weight), wide(bias), padding))
OPERATOR(aclnnConvTbcBackward,
         (Tensor grad, Tensor input, Tensor weight, Tensor bias, int64_t padding, int8_t, Out grad_input,
          Out grad_weight, Out grad_bias),
         const auto [by_input, by_weight, by_bias] = at::conv_tbc_backward(wide(grad), wide(input), wide(weight),
                                                                           wide(bias), padding);
         grad_input = by_input; grad_weight = by_weight; grad_bias = by_bias)
OPERATOR(aclnnIm2col, (Tensor self, Ints kernel, Ints dilation, Ints padding, Ints stride, Out out),
         out = at::im2col(self, kernel, dilation, padding, stride))
OPERATOR(aclnnIm2colBackward,
         (Tensor self, Ints output_size, Ints kernel, Ints dilation, Ints padding, Ints stride, Out out),
         out = at::col2im(self, output_size, kernel, dilation, padding, stride))
