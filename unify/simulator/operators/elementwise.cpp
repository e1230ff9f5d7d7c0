// Operators that work on each element by itself.
#include <ATen/Functions.h>

#include "operator.h"

using namespace unify::operators;

OPERATOR(aclnnAdd, (Tensor self, Tensor other, Scalar alpha, Out out), out = at::add(self, other, alpha))
OPERATOR(aclnnAdds, (Tensor self, Scalar other, Scalar alpha, Out out), out = at::add(self, other, alpha))
OPERATOR(aclnnInplaceCopy, (Out self, Tensor source), self->copy_(source))
OPERATOR(aclnnSin, (Tensor self, Out out), out = at::sin(self))
