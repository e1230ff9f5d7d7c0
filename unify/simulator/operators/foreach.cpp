// Operators on lists of tensors: on each of them by itself.
#include <ATen/Functions.h>

#include "operator.h"

using namespace unify::operators;

namespace {

void each(const Outs& out, const auto& result, const auto&... lists) {
  TORCH_CHECK(((lists.size() == out.size()) && ...), "Lists of different lengths for ", out.size(), " results.");
  for (size_t i = 0; i < out.size(); ++i) out[i] = result(i);
}

// Numbers that are a tensor's elements.
Scalar number(const Tensor& value) { return value.reshape({}).item(); }
Scalars numbers(const Tensor& values) {
  Scalars all;
  for (const Tensor& value : at::unbind(values.reshape({-1}))) all.push_back(value.item());
  return all;
}

}  // namespace

#define EACH(Name, function) \
  OPERATOR(aclnnForeach##Name, (Tensors x, Outs out), each(out, [&](size_t i) { return at::function(x[i]); }, x))

EACH(Abs, abs)
EACH(Acos, acos)
EACH(Asin, asin)
EACH(Atan, atan)
EACH(Copy, clone)
EACH(Cos, cos)
EACH(Cosh, cosh)
EACH(Erf, erf)
EACH(Erfc, erfc)
EACH(Exp, exp)
EACH(Expm1, expm1)
EACH(Log, log)
EACH(Log10, log10)
EACH(Log1p, log1p)
EACH(Log2, log2)
EACH(Neg, neg)
EACH(Reciprocal, reciprocal)
EACH(Sigmoid, sigmoid)
EACH(Sign, sgn)
EACH(Sin, sin)
EACH(Sinh, sinh)
EACH(Sqrt, sqrt)
EACH(Tan, tan)
EACH(Tanh, tanh)

#define EACH_PAIR(Name, function)                                \
  OPERATOR(aclnnForeach##Name, (Tensors x, Tensors y, Outs out), \
           each(out, [&](size_t i) { return at::function(x[i], y[i]); }, x, y))

EACH_PAIR(DivList, div)
EACH_PAIR(MaximumList, maximum)
EACH_PAIR(MinimumList, minimum)
EACH_PAIR(MulList, mul)
EACH_PAIR(PowList, pow)

namespace {

// torch has these of two tensors only: a number takes the tensor's type.
Tensor maximum(const Tensor& self, const Scalar& other) {
  return at::maximum(self, at::full({}, other, self.options()));
}
Tensor minimum(const Tensor& self, const Scalar& other) {
  return at::minimum(self, at::full({}, other, self.options()));
}

}  // namespace

// With a number: in a tensor (V1), for all (V2), one for each (ScalarList).
#define EACH_WITH_NUMBER(Name, function)                                                 \
  OPERATOR(aclnnForeach##Name##Scalar, (Tensors x, Tensor value, Outs out),              \
           each(out, [&, y = number(value)](size_t i) { return function(x[i], y); }, x)) \
  OPERATOR(aclnnForeach##Name##ScalarV2, (Tensors x, Scalar y, Outs out),                \
           each(out, [&](size_t i) { return function(x[i], y); }, x))                    \
  OPERATOR(aclnnForeach##Name##ScalarList, (Tensors x, Scalars y, Outs out),             \
           each(out, [&](size_t i) { return function(x[i], y[i]); }, x, y))

EACH_WITH_NUMBER(Add, at::add)
EACH_WITH_NUMBER(Div, at::div)
EACH_WITH_NUMBER(Maximum, maximum)
EACH_WITH_NUMBER(Minimum, minimum)
EACH_WITH_NUMBER(Mul, at::mul)
EACH_WITH_NUMBER(Pow, at::pow)
EACH_WITH_NUMBER(Sub, at::sub)

#define EACH_SCALED_PAIR(Name, function)                                                          \
  OPERATOR(aclnnForeach##Name, (Tensors x, Tensors y, Tensor alpha, Outs out),                    \
           each(out, [&, a = number(alpha)](size_t i) { return function(x[i], y[i], a); }, x, y)) \
  OPERATOR(aclnnForeach##Name##V2, (Tensors x, Tensors y, Scalar alpha, Outs out),                \
           each(out, [&](size_t i) { return function(x[i], y[i], alpha); }, x, y))

EACH_SCALED_PAIR(AddList, at::add)
EACH_SCALED_PAIR(SubList, at::sub)

#define EACH_TRIPLE(Name, function)                                                                        \
  OPERATOR(aclnnForeach##Name##Scalar, (Tensors x, Tensors y, Tensors z, Tensor value, Outs out),          \
           each(out, [&, a = number(value)](size_t i) { return function(x[i], y[i], z[i], a); }, x, y, z)) \
  OPERATOR(aclnnForeach##Name##ScalarV2, (Tensors x, Tensors y, Tensors z, Scalar a, Outs out),            \
           each(out, [&](size_t i) { return function(x[i], y[i], z[i], a); }, x, y, z))                    \
  OPERATOR(aclnnForeach##Name##ScalarList, (Tensors x, Tensors y, Tensors z, Tensor values, Outs out),     \
           each(out, [&, a = numbers(values)](size_t i) { return function(x[i], y[i], z[i], a[i]); }, x, y, z))

EACH_TRIPLE(Addcdiv, at::addcdiv)
EACH_TRIPLE(Addcmul, at::addcmul)

OPERATOR(aclnnForeachLerpList, (Tensors x, Tensors end, Tensors weight, Outs out),
         each(out, [&](size_t i) { return at::lerp(x[i], end[i], weight[i]); }, x, end, weight))
OPERATOR(aclnnForeachLerpScalar, (Tensors x, Tensors end, Scalar weight, Outs out),
         each(out, [&](size_t i) { return at::lerp(x[i], end[i], weight); }, x, end))
OPERATOR(aclnnForeachNorm, (Tensors x, Scalar order, Outs out),
         each(out, [&](size_t i) { return at::linalg_vector_norm(x[i], order); }, x))
OPERATOR(aclnnForeachPowScalarAndTensor, (Scalar base, Tensors x, Outs out),
         each(out, [&](size_t i) { return at::pow(base, x[i]); }, x))

namespace {

Tensor rounded(const Tensor& self, int64_t mode) {
  switch (mode) {
    case 1:
      return at::round(self);
    case 2:
      return at::floor(self);
    case 3:
      return at::ceil(self);
    case 5:
      return at::trunc(self);
    case 7:
      return at::frac(self);
    default:
      TORCH_CHECK(false, "Rounding mode ", mode,
                  ": there are 1 (nearest), 2 (down), 3 (up), 5 (to zero), 7 (the rest).");
  }
}

void unscale(const Outs& gradients, const Out& found, const Tensor& inverse_scale) {
  Tensors tensors;
  for (const Out& gradient : gradients) tensors.push_back(gradient);
  Tensor is_found = found;
  at::_amp_foreach_non_finite_check_and_unscale_(tensors, is_found, inverse_scale);
}

void zero(const Outs& tensors) {
  for (const Out& tensor : tensors) tensor->zero_();
}

}  // namespace

OPERATOR(aclnnForeachNonFiniteCheckAndUnscale, (Outs gradients, Out found, Tensor inverse_scale),
         unscale(gradients, found, inverse_scale))
OPERATOR(aclnnForeachRoundOffNumber, (Tensors x, Tensor mode, Outs out),
         each(out, [&, how = number(mode).toLong()](size_t i) { return rounded(x[i], how); }, x))
OPERATOR(aclnnForeachRoundOffNumberV2, (Tensors x, Scalar mode, Outs out),
         each(out, [&](size_t i) { return rounded(x[i], mode.toLong()); }, x))
OPERATOR(aclnnForeachZeroInplace, (Outs x), zero(x))
