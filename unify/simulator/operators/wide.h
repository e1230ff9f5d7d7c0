// The chip keeps sums and statistics of float16 and bfloat16 in float32, and rounds only what it writes.
#pragma once

#include <ATen/TensorOperators.h>

#include "operator.h"

namespace unify::operators {

inline Tensor wide(const Tensor& tensor) {
  const bool is_narrow = tensor.defined() && c10::isReducedFloatingType(tensor.scalar_type());
  return is_narrow ? tensor.to(ScalarType::Float) : tensor;
}
inline optional<Tensor> wide(const optional<Tensor>& tensor) {
  return tensor.has_value() ? optional<Tensor>(wide(*tensor)) : std::nullopt;
}

// Writes what torch computed of several results; an undefined one was not asked for.
inline void write_defined(const Tensor& result, const Out& out) {
  if (result.defined()) out = result;
}

// Writes a result that has the right elements in another shape, such as [N] for [N, 1].
inline void write_reshaped(const Tensor& result, const Out& out) {
  if (out.is_wanted()) out = result.reshape(out->sizes());
}

}  // namespace unify::operators
