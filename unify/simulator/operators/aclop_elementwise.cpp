// Older operators of single elements, which torch_npu calls for tensors in the chip's own formats, and in its mode of
// compiling each operator.
#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>

#include <cmath>

#include "aclop.h"

using namespace unify::operators;

namespace {

Tensor scaled(const Tensor& x, const Attributes& with) {
  return x * with.get<double>("scale", 1.0) + with.get<double>("shift", 0.0);
}

// The logarithm of a base; one that is not above 0 is e.
double log_of_base(const Attributes& with) {
  const auto base = with.get<double>("base", -1.0);
  return base > 0 ? std::log(base) : 1;
}

}  // namespace

#define UNARY(TYPE, FUNCTION) ACLOP(TYPE, (Tensor x, Out y), y = FUNCTION(x))
UNARY(Abs, at::abs)
UNARY(Ceil, at::ceil)
UNARY(Cos, at::cos)
UNARY(Erf, at::erf)
UNARY(Floor, at::floor)
UNARY(Log1p, at::log1p)
UNARY(LogicalNot, at::logical_not)
UNARY(Neg, at::neg)
UNARY(Reciprocal, at::reciprocal)
UNARY(Relu, at::relu)
UNARY(Rsqrt, at::rsqrt)
UNARY(Sigmoid, at::sigmoid)
UNARY(Sign, at::sign)
UNARY(Sin, at::sin)
UNARY(Sqrt, at::sqrt)
UNARY(Square, at::square)
UNARY(Tanh, at::tanh)
UNARY(ZerosLike, at::zeros_like)
#undef UNARY
ACLOP(Exp, (Tensor x, const Attributes& with, Out y), y = at::exp(scaled(x, with) * log_of_base(with)))
ACLOP(Log, (Tensor x, const Attributes& with, Out y), y = at::log(scaled(x, with)) / log_of_base(with))

#define BINARY(TYPE, FUNCTION) ACLOP(TYPE, (Tensor one, Tensor other, Out out), out = FUNCTION(one, other))
BINARY(Add, at::add)
BINARY(Equal, at::eq)
BINARY(Greater, at::gt)
BINARY(GreaterEqual, at::ge)
BINARY(Less, at::lt)
BINARY(LessEqual, at::le)
BINARY(LogicalAnd, at::logical_and)
BINARY(LogicalOr, at::logical_or)
BINARY(Maximum, at::maximum)
BINARY(Minimum, at::minimum)
BINARY(Mul, at::mul)
BINARY(NotEqual, at::ne)
BINARY(Pow, at::pow)
BINARY(RealDiv, at::true_divide)
BINARY(Sub, at::sub)
#undef BINARY
