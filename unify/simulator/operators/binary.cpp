// Operators on pairs of elements.
#include <ATen/Functions.h>
#include <ATen/ScalarOps.h>

#include "operator.h"

using namespace unify::operators;

// Sums: other is scaled.
OPERATOR(aclnnAdd, (Tensor self, Tensor other, Scalar alpha, Out out), out = at::add(self, other, alpha))
OPERATOR(aclnnAddRelu, (Tensor self, Tensor other, Scalar alpha, Out out), out = at::relu(at::add(self, other, alpha)))
OPERATOR(aclnnAddV3, (Scalar self, Tensor other, Scalar alpha, Out out),
         out = at::add(at::native::wrapped_scalar_tensor(self), other, alpha))
OPERATOR(aclnnAdds, (Tensor self, Scalar other, Scalar alpha, Out out), out = at::add(self, other, alpha))
OPERATOR(aclnnInplaceAdd, (Out self, Tensor other, Scalar alpha), self = at::add(self, other, alpha))
OPERATOR(aclnnInplaceAddRelu, (Out self, Tensor other, Scalar alpha), self = at::relu(at::add(self, other, alpha)))
OPERATOR(aclnnInplaceAdds, (Out self, Scalar other, Scalar alpha), self = at::add(self, other, alpha))
OPERATOR(aclnnInplaceSub, (Out self, Tensor other, Scalar alpha), self = at::sub(self, other, alpha))
OPERATOR(aclnnInplaceSubs, (Out self, Scalar other, Scalar alpha), self = at::sub(self, other, alpha))
OPERATOR(aclnnRsub, (Tensor self, Tensor other, Scalar alpha, Out out), out = at::rsub(self, other, alpha))
OPERATOR(aclnnRsubs, (Tensor self, Scalar other, Scalar alpha, Out out), out = at::rsub(self, other, alpha))
OPERATOR(aclnnSub, (Tensor self, Tensor other, Scalar alpha, Out out), out = at::sub(self, other, alpha))
OPERATOR(aclnnSubs, (Tensor self, Scalar other, Scalar alpha, Out out), out = at::sub(self, other, alpha))

#define BINARY(Name, Other, function) \
  OPERATOR(aclnn##Name, (Tensor self, Other other, Out out), out = at::function(self, other))
#define BINARY_OF_BOTH_FORMS(Name, Other, function) \
  BINARY(Name, Other, function)                     \
  OPERATOR(aclnnInplace##Name, (Out self, Other other), self = at::function(self, other))

BINARY(BitwiseOrScalar, Scalar, bitwise_or)
BINARY(BitwiseOrTensor, Tensor, bitwise_or)
BINARY(ClampMin, Scalar, clamp_min)
BINARY(Gcd, Tensor, gcd)
BINARY(LeftShift, Tensor, __lshift__)
BINARY(LeftShifts, Scalar, __lshift__)
BINARY(LessScalar, Scalar, lt)
BINARY(LogAddExp, Tensor, logaddexp)
BINARY(LogAddExp2, Tensor, logaddexp2)
BINARY(LogicalXor, Tensor, logical_xor)
BINARY(Maximum, Tensor, maximum)
BINARY(Minimum, Tensor, minimum)
BINARY(RightShift, Tensor, __rshift__)
BINARY(XLogYTensor, Tensor, xlogy)
BINARY_OF_BOTH_FORMS(Atan2, Tensor, atan2)
BINARY_OF_BOTH_FORMS(BitwiseAndScalar, Scalar, bitwise_and)
BINARY_OF_BOTH_FORMS(BitwiseAndTensor, Tensor, bitwise_and)
BINARY_OF_BOTH_FORMS(BitwiseXorScalar, Scalar, bitwise_xor)
BINARY_OF_BOTH_FORMS(BitwiseXorTensor, Tensor, bitwise_xor)
BINARY_OF_BOTH_FORMS(ClampMax, Scalar, clamp_max)
BINARY_OF_BOTH_FORMS(ClampMaxTensor, Tensor, clamp_max)
BINARY_OF_BOTH_FORMS(ClampMinTensor, Tensor, clamp_min)
BINARY_OF_BOTH_FORMS(Div, Tensor, div)
BINARY_OF_BOTH_FORMS(Divs, Scalar, div)
BINARY_OF_BOTH_FORMS(EqScalar, Scalar, eq)
BINARY_OF_BOTH_FORMS(EqTensor, Tensor, eq)
BINARY_OF_BOTH_FORMS(FloorDivide, Tensor, floor_divide)
BINARY_OF_BOTH_FORMS(FloorDivides, Scalar, floor_divide)
BINARY_OF_BOTH_FORMS(FmodScalar, Scalar, fmod)
BINARY_OF_BOTH_FORMS(FmodTensor, Tensor, fmod)
BINARY_OF_BOTH_FORMS(GeScalar, Scalar, ge)
BINARY_OF_BOTH_FORMS(GeTensor, Tensor, ge)
BINARY_OF_BOTH_FORMS(GtScalar, Scalar, gt)
BINARY_OF_BOTH_FORMS(GtTensor, Tensor, gt)
BINARY_OF_BOTH_FORMS(LeScalar, Scalar, le)
BINARY_OF_BOTH_FORMS(LeTensor, Tensor, le)
BINARY_OF_BOTH_FORMS(LogicalAnd, Tensor, logical_and)
BINARY_OF_BOTH_FORMS(LogicalOr, Tensor, logical_or)
BINARY_OF_BOTH_FORMS(LtScalar, Scalar, lt)
BINARY_OF_BOTH_FORMS(LtTensor, Tensor, lt)
BINARY_OF_BOTH_FORMS(Mul, Tensor, mul)
BINARY_OF_BOTH_FORMS(Muls, Scalar, mul)
BINARY_OF_BOTH_FORMS(NeScalar, Scalar, ne)
BINARY_OF_BOTH_FORMS(NeTensor, Tensor, ne)
BINARY_OF_BOTH_FORMS(PowTensorScalar, Scalar, pow)
BINARY_OF_BOTH_FORMS(PowTensorTensor, Tensor, pow)
BINARY_OF_BOTH_FORMS(RemainderTensorScalar, Scalar, remainder)
BINARY_OF_BOTH_FORMS(RemainderTensorTensor, Tensor, remainder)
BINARY_OF_BOTH_FORMS(XLogYScalarOther, Scalar, xlogy)

OPERATOR(aclnnPowScalarTensor, (Scalar self, Tensor other, Out out), out = at::pow(self, other))
OPERATOR(aclnnRemainderScalarTensor, (Scalar self, Tensor other, Out out), out = at::remainder(self, other))
OPERATOR(aclnnXLogYScalarSelf, (Scalar self, Tensor other, Out out), out = at::xlogy(self, other))

namespace {

optional<std::string_view> rounding(int mode) {
  TORCH_CHECK(mode >= 0 && mode <= 2, "A division of rounding mode ", mode, ": there are 0, 1 (trunc), 2 (floor).");
  return mode == 0 ? std::nullopt : optional<std::string_view>(mode == 1 ? "trunc" : "floor");
}

}  // namespace

OPERATOR(aclnnDivMod, (Tensor self, Tensor other, int mode, Out out), out = at::div(self, other, rounding(mode)))
OPERATOR(aclnnDivMods, (Tensor self, Scalar other, int mode, Out out), out = at::div(self, other, rounding(mode)))
OPERATOR(aclnnInplaceDivMod, (Out self, Tensor other, int mode), self = at::div(self, other, rounding(mode)))
OPERATOR(aclnnInplaceDivMods, (Out self, Scalar other, int mode), self = at::div(self, other, rounding(mode)))

OPERATOR(aclnnEqual, (Tensor self, Tensor other, Out out), out->fill_(at::equal(self, other)))
OPERATOR(aclnnIsClose, (Tensor self, Tensor other, double rtol, double atol, bool equal_nan, Out out),
         out = at::isclose(self, other, rtol, atol, equal_nan))
OPERATOR(aclnnIsInScalarTensor, (Scalar element, Tensor tests, bool assume_unique, bool invert, Out out),
         out = at::isin(element, tests, assume_unique, invert))
OPERATOR(aclnnIsInTensorScalar, (Tensor elements, Scalar test, bool assume_unique, bool invert, Out out),
         out = at::isin(elements, test, assume_unique, invert))
