// Operators that make elements: constants, sequences, other types, what a mask or a diagonal picks.
#include <ATen/Functions.h>

#include "operator.h"

using namespace unify::operators;

OPERATOR(aclnnInplaceCopy, (Out self, Tensor source), self->copy_(source))
OPERATOR(aclnnInplaceFillDiagonal, (Out self, Scalar value, bool wrap), self->fill_diagonal_(value, wrap))
OPERATOR(aclnnInplaceFillScalar, (Out self, Scalar value), self->fill_(value))
OPERATOR(aclnnInplaceFillTensor, (Out self, Tensor value), self->fill_(value.reshape({})))
OPERATOR(aclnnInplaceOne, (Out self), self->fill_(1))
OPERATOR(aclnnInplaceZero, (Out self), self->zero_())

OPERATOR(aclnnArange, (Scalar start, Scalar end, Scalar step, Out out),
         out = at::arange(start, end, step, out->options()))
OPERATOR(aclnnEye, (int64_t rows, int64_t columns, Out out), out = at::eye(rows, columns, out->options()))
OPERATOR(aclnnLinspace, (Scalar start, Scalar end, int64_t steps, Out out),
         out = at::linspace(start, end, steps, out->options()))
OPERATOR(aclnnLogSpace, (Scalar start, Scalar end, int64_t steps, double base, Out out),
         out = at::logspace(start, end, steps, base, out->options()))
OPERATOR(aclnnRange, (Scalar start, Scalar end, Scalar step, Out out),
         out = at::range(start, end, step, out->options()))

OPERATOR(aclnnCast, (Tensor self, ScalarType type, Out out), out = self.to(type))
OPERATOR(aclnnComplex, (Tensor real, Tensor imaginary, Out out), out = at::complex(real, imaginary))
OPERATOR(aclnnPolar, (Tensor size, Tensor angle, Out out), out = at::polar(size, angle))

OPERATOR(aclnnInplaceMaskedFillScalar, (Out self, Tensor mask, Scalar value), self->masked_fill_(mask, value))
OPERATOR(aclnnInplaceMaskedFillTensor, (Out self, Tensor mask, Tensor value),
         self->masked_fill_(mask, value.reshape({}).to(self->scalar_type())))
OPERATOR(aclnnInplaceMaskedScatter, (Out self, Tensor mask, Tensor source), self->masked_scatter_(mask, source))
OPERATOR(aclnnMaskedScale, (Tensor self, Tensor mask, double scale, Out out),
         out = at::mul(at::mul(self, mask.to(self.scalar_type())), scale))

OPERATOR(aclnnInplaceTril, (Out self, int64_t diagonal), self = at::tril(self, diagonal))
OPERATOR(aclnnInplaceTriu, (Out self, int64_t diagonal), self = at::triu(self, diagonal))
OPERATOR(aclnnTril, (Tensor self, int64_t diagonal, Out out), out = at::tril(self, diagonal))
OPERATOR(aclnnTriu, (Tensor self, int64_t diagonal, Out out), out = at::triu(self, diagonal))
