// Pools: the largest or the mean of each window.
#include <ATen/Functions.h>

#include "wide.h"

using namespace unify::operators;

namespace {

optional<int64_t> divisor_of(int64_t given) { return given == 0 ? std::nullopt : optional<int64_t>(given); }

// torch's CPU operators take the places of the largest as int64 alone; the chip keeps int32.
Tensor places(const Tensor& indices) { return indices.to(ScalarType::Long); }

Ints both(const Ints& values) { return values.size() == 1 ? Ints{values[0], values[0]} : values; }

// For each window and each place in it (kernel height x width), whether it holds the largest; windows come last, and
// what is left of that dimension is zero.
void write_mask(const Tensor& indices, const Tensor& self, const Ints& kernel, const Ints& stride, const Ints& padding,
                const Ints& dilation, const Out& mask) {
  if (!mask.is_wanted()) return;
  const int64_t width = self.size(-1), windows = indices.size(-2) * indices.size(-1);
  const Tensor top = at::arange(indices.size(-2)).unsqueeze(1) * stride[0] - padding[0];
  const Tensor left = at::arange(indices.size(-1)) * stride[1] - padding[1];
  const Tensor row = (at::floor_divide(indices, width) - top).div(dilation[0], "trunc");
  const Tensor column = (at::remainder(indices, width) - left).div(dilation[1], "trunc");
  const Tensor place = (row * kernel[1] + column).flatten(-2).unsqueeze(-2);
  const Tensor is_there = place == at::arange(kernel[0] * kernel[1]).unsqueeze(1);
  mask->zero_();
  mask->slice(-1, 0, windows).copy_(is_there);
}

}  // namespace

// The largest

OPERATOR(aclnnMaxPool2dWithMask,
         (Tensor self, Ints kernel, Ints stride, Ints padding, Ints dilation, bool ceil, Out out, Out mask),
         const auto [largest, indices] = at::max_pool2d_with_indices(self, kernel, stride, padding, dilation, ceil);
         out = largest; write_mask(indices, self, both(kernel), both(stride.empty() ? kernel : stride), both(padding),
                                   both(dilation), mask))
// Ties go to the first of a window in both, so that the mask says nothing that `self` does not.
OPERATOR(aclnnMaxPool2dWithMaskBackward,
         (Tensor grad, Tensor self, Tensor, Ints kernel, Ints stride, Ints padding, Ints dilation, bool ceil,
          Out grad_input),
         const Tensor indices = std::get<1>(at::max_pool2d_with_indices(self, kernel, stride, padding, dilation, ceil));
         grad_input = at::max_pool2d_with_indices_backward(grad, self, kernel, stride, padding, dilation, ceil,
                                                           indices))
#define MAX_POOL(NAME, FUNCTION)                                                                                  \
  OPERATOR(NAME,                                                                                                  \
           (Tensor self, Ints kernel, Ints stride, Ints padding, Ints dilation, bool ceil, Out out, Out indices), \
           write(at::FUNCTION(self, kernel, stride, padding, dilation, ceil), out, indices))                      \
  OPERATOR(NAME##Backward,                                                                                        \
           (Tensor grad, Tensor self, Tensor indices, Ints kernel, Ints stride, Ints padding, Ints dilation,      \
            bool ceil, Out grad_input),                                                                           \
           grad_input = at::FUNCTION##_backward(grad, self, kernel, stride, padding, dilation, ceil, places(indices)))
MAX_POOL(aclnnMaxPool2dWithIndices, max_pool2d_with_indices)
MAX_POOL(aclnnMaxPool3dWithArgmax, max_pool3d_with_indices)
#undef MAX_POOL
OPERATOR(aclnnMaxUnpool2d, (Tensor self, Tensor indices, Ints output_size, Out out),
         out = at::max_unpool2d(self, places(indices), output_size))
OPERATOR(aclnnMaxUnpool3d, (Tensor self, Tensor indices, Ints output_size, Ints stride, Ints padding, Out out),
         out = at::max_unpool3d(self, places(indices), output_size, stride, padding))
#define ADAPTIVE_MAX_POOL(NAME, FUNCTION)                                              \
  OPERATOR(NAME, (Tensor self, Ints output_size, Out out, Out indices),                \
           write(at::FUNCTION(self, output_size), out, indices))                       \
  OPERATOR(NAME##Backward, (Tensor grad, Tensor self, Tensor indices, Out grad_input), \
           grad_input = at::FUNCTION##_backward(grad, self, places(indices)))
ADAPTIVE_MAX_POOL(aclnnAdaptiveMaxPool2d, adaptive_max_pool2d)
ADAPTIVE_MAX_POOL(aclnnAdaptiveMaxPool3d, adaptive_max_pool3d)
#undef ADAPTIVE_MAX_POOL

// The mean

OPERATOR(aclnnAvgPool2d,
         (Tensor self, Ints kernel, Ints stride, Ints padding, bool ceil, bool is_pad_counted, int64_t divisor, int8_t,
          Out out),
         out = at::avg_pool2d(wide(self), kernel, stride, padding, ceil, is_pad_counted, divisor_of(divisor)))
OPERATOR(aclnnAvgPool2dBackward,
         (Tensor grad, Tensor self, Ints kernel, Ints stride, Ints padding, bool ceil, bool is_pad_counted,
          int64_t divisor, int8_t, Out grad_input),
         grad_input = at::avg_pool2d_backward(wide(grad), wide(self), kernel, stride, padding, ceil, is_pad_counted,
                                              divisor_of(divisor)))
OPERATOR(aclnnAvgPool3d,
         (Tensor self, Ints kernel, Ints stride, Ints padding, bool ceil, bool is_pad_counted, int64_t divisor,
          Out out),
         out = at::avg_pool3d(wide(self), kernel, stride, padding, ceil, is_pad_counted, divisor_of(divisor)))
OPERATOR(aclnnAvgPool3dBackward,
         (Tensor grad, Tensor self, Ints kernel, Ints stride, Ints padding, bool ceil, bool is_pad_counted,
          int64_t divisor, Out grad_input),
         grad_input = at::avg_pool3d_backward(wide(grad), wide(self), kernel, stride, padding, ceil, is_pad_counted,
                                              divisor_of(divisor)))
OPERATOR(aclnnAdaptiveAvgPool2d, (Tensor self, Ints output_size, Out out),
         out = at::adaptive_avg_pool2d(wide(self), output_size))
OPERATOR(aclnnAdaptiveAvgPool2dBackward, (Tensor grad, Tensor self, Out grad_input),
         grad_input = at::_adaptive_avg_pool2d_backward(wide(grad), wide(self)))
OPERATOR(aclnnAdaptiveAvgPool3d, (Tensor self, Ints output_size, Out out),
         out = at::adaptive_avg_pool3d(wide(self), output_size))
OPERATOR(aclnnAdaptiveAvgPool3dBackward, (Tensor grad, Tensor self, Out grad_input),
         grad_input = at::_adaptive_avg_pool3d_backward(wide(grad), wide(self)))
