// Operators on the elements of one tensor.
#include <ATen/Functions.h>

#include "operator.h"

using namespace unify::operators;

#define UNARY(Name, function) OPERATOR(aclnn##Name, (Tensor self, Out out), out = at::function(self))
#define UNARY_OF_BOTH_FORMS(Name, function) \
  UNARY(Name, function)                     \
  OPERATOR(aclnnInplace##Name, (Out self), self = at::function(self))

UNARY(Abs, abs)
UNARY(AngleV2, angle)
UNARY(BitwiseNot, bitwise_not)
UNARY(IsFinite, isfinite)
UNARY(IsNegInf, isneginf)
UNARY(IsPosInf, isposinf)
UNARY(Neg, neg)
UNARY(Round, round)
UNARY(Sign, sgn)
UNARY(Signbit, signbit)
UNARY(Trunc, trunc)
UNARY_OF_BOTH_FORMS(Acos, acos)
UNARY_OF_BOTH_FORMS(Acosh, acosh)
UNARY_OF_BOTH_FORMS(Asin, asin)
UNARY_OF_BOTH_FORMS(Asinh, asinh)
UNARY_OF_BOTH_FORMS(Atan, atan)
UNARY_OF_BOTH_FORMS(Atanh, atanh)
UNARY_OF_BOTH_FORMS(Ceil, ceil)
UNARY_OF_BOTH_FORMS(Cos, cos)
UNARY_OF_BOTH_FORMS(Cosh, cosh)
UNARY_OF_BOTH_FORMS(Erf, erf)
UNARY_OF_BOTH_FORMS(Erfc, erfc)
UNARY_OF_BOTH_FORMS(Erfinv, erfinv)
UNARY_OF_BOTH_FORMS(Exp, exp)
UNARY_OF_BOTH_FORMS(Exp2, exp2)
UNARY_OF_BOTH_FORMS(Expm1, expm1)
UNARY_OF_BOTH_FORMS(Floor, floor)
UNARY_OF_BOTH_FORMS(Frac, frac)
UNARY_OF_BOTH_FORMS(Log, log)
UNARY_OF_BOTH_FORMS(Log10, log10)
UNARY_OF_BOTH_FORMS(Log1p, log1p)
UNARY_OF_BOTH_FORMS(Log2, log2)
UNARY_OF_BOTH_FORMS(LogicalNot, logical_not)
UNARY_OF_BOTH_FORMS(Reciprocal, reciprocal)
UNARY_OF_BOTH_FORMS(Rsqrt, rsqrt)
UNARY_OF_BOTH_FORMS(Sin, sin)
UNARY_OF_BOTH_FORMS(Sinc, sinc)
UNARY_OF_BOTH_FORMS(Sinh, sinh)
UNARY_OF_BOTH_FORMS(Sqrt, sqrt)
UNARY_OF_BOTH_FORMS(Tan, tan)
UNARY_OF_BOTH_FORMS(Tanh, tanh)

OPERATOR(aclnnInplaceNanToNum, (Out self, float nan, float posinf, float neginf),
         self = at::nan_to_num(self, nan, posinf, neginf))
OPERATOR(aclnnNanToNum, (Tensor self, float nan, float posinf, float neginf, Out out),
         out = at::nan_to_num(self, nan, posinf, neginf))
OPERATOR(aclnnInplaceRoundDecimals, (Out self, int64_t decimals), self = at::round(self, decimals))
OPERATOR(aclnnRoundDecimals, (Tensor self, int64_t decimals, Out out), out = at::round(self, decimals))
