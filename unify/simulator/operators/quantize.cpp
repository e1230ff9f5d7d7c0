// Numbers as int8 with a scale.
#include <ATen/Functions.h>

#include "wide.h"

using namespace unify::operators;

namespace {

Tensor as_int8(const Tensor& scaled, const Out& out) {
  TORCH_CHECK(out->scalar_type() == ScalarType::Char, "quantization to ", out->scalar_type(),
              " is not simulated: to int8 it is.");
  return at::round(scaled).clamp(-128, 127).to(ScalarType::Char);
}

}  // namespace

// Each row's largest becomes 127.
OPERATOR(aclnnDynamicQuant, (Tensor self, optional<Tensor> smooth, Out out, Out scale),
         const Tensor x = smooth.has_value() ? wide(self) * wide(*smooth) : wide(self);
         const Tensor scales = at::amax(at::abs(x), -1, true) / 127;
         out = as_int8(x / scales.masked_fill(scales == 0, 1), out); write_reshaped(scales, scale))
OPERATOR(aclnnAscendQuant,
         (Tensor self, Tensor scale, optional<Tensor> offset, bool is_squared, std::string rounding, ScalarType,
          Out out),
         TORCH_CHECK(rounding == "round", "rounding '", rounding, "' is not simulated: 'round' is.");
         Tensor scaled = wide(self) * (is_squared ? at::square(wide(scale)) : wide(scale));
         if (offset.has_value()) scaled = scaled + wide(*offset); out = as_int8(scaled, out))
