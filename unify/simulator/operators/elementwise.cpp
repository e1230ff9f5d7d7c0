// Operators on elements of three and more.
#include <ATen/Functions.h>

#include "operator.h"

using namespace unify::operators;

OPERATOR(aclnnAddcdiv, (Tensor self, Tensor dividend, Tensor divisor, Scalar value, Out out),
         out = at::addcdiv(self, dividend, divisor, value))
OPERATOR(aclnnAddcmul, (Tensor self, Tensor factor, Tensor other, Scalar value, Out out),
         out = at::addcmul(self, factor, other, value))
OPERATOR(aclnnInplaceAddcdiv, (Out self, Tensor dividend, Tensor divisor, Scalar value),
         self = at::addcdiv(self, dividend, divisor, value))
OPERATOR(aclnnInplaceAddcmul, (Out self, Tensor factor, Tensor other, Scalar value),
         self = at::addcmul(self, factor, other, value))
OPERATOR(aclnnInplaceLerp, (Out self, Tensor end, Tensor weight), self = at::lerp(self, end, weight))
OPERATOR(aclnnInplaceLerps, (Out self, Tensor end, Scalar weight), self = at::lerp(self, end, weight))
OPERATOR(aclnnLerp, (Tensor self, Tensor end, Tensor weight, Out out), out = at::lerp(self, end, weight))
OPERATOR(aclnnLerps, (Tensor self, Tensor end, Scalar weight, Out out), out = at::lerp(self, end, weight))
OPERATOR(aclnnSWhere, (Tensor condition, Tensor self, Tensor other, Out out), out = at::where(condition, self, other))

OPERATOR(aclnnClamp, (Tensor self, optional<Scalar> min, optional<Scalar> max, Out out),
         out = at::clamp(self, min, max))
OPERATOR(aclnnClampTensor, (Tensor self, optional<Tensor> min, optional<Tensor> max, Out out),
         out = at::clamp(self, min, max))

// Rounded to what a quantized type can hold; the mask says which elements were in its range.
OPERATOR(aclnnFakeQuantPerChannelAffineCachemask,
         (Tensor self, Tensor scale, Tensor zero, int64_t axis, int64_t min, int64_t max, Out out, Out mask),
         write(at::fake_quantize_per_channel_affine_cachemask(self, scale, zero, axis, min, max), out, mask))
OPERATOR(aclnnFakeQuantPerTensorAffineCachemask,
         (Tensor self, Tensor scale, Tensor zero, float is_enabled, int64_t min, int64_t max, Out out, Out mask),
         write(at::_fake_quantize_per_tensor_affine_cachemask_tensor_qparams(
                   self, scale.reshape({1}), zero.reshape({1}), at::full({1}, is_enabled, at::kLong), min, max),
               out, mask))
