// Rotary position embedding, as operators that do more than that share it.
#pragma once

#include "wide.h"

namespace unify::operators {

enum RotaryMode : int64_t { kHalf = 0, kInterleaved = 1 };  // a rotated pair: of the halves, or two neighbours

// x * cos + rotate(x) * sin, in float32.
Tensor embedded(const Tensor& x, const Tensor& cos, const Tensor& sin, RotaryMode mode);

// Each two neighbours as a pair of the halves.
Tensor halves_of_pairs(const Tensor& x);

}  // namespace unify::operators
