// What operators that normalise on their way to something else share.
#pragma once

#include "wide.h"

namespace unify::operators {

struct RmsNorm {
  Tensor result;
  Tensor rstd;  // one over the root of the mean square, of each
};
// Over the dimensions of gamma, the last ones, in float32.
RmsNorm rms_norm(const Tensor& input, const Tensor& gamma, double eps);

}  // namespace unify::operators
