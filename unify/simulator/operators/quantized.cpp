// What the quantised operators share.
#include "quantized.h"

#include <ATen/Functions.h>

namespace unify::operators {

Tensor unpacked(const Tensor& packed) {
  if (packed.scalar_type() != ScalarType::Int) return packed;
  if (packed.dim() > 1 && packed.stride(-2) == 1 && packed.stride(-1) != 1) {
    return unpacked(packed.transpose(-1, -2)).transpose(-1, -2);
  }
  const Tensor bits = packed.unsqueeze(-1).bitwise_right_shift(at::arange(0, 32, 4, ScalarType::Int)).bitwise_and(0xf);
  return bits.bitwise_xor(8).sub(8).flatten(-2).to(ScalarType::Char);
}

Tensor scale_of(const Tensor& scale) {
  if (scale.element_size() < 8 || scale.is_floating_point()) return scale.to(ScalarType::Float);
  return scale.contiguous().view(ScalarType::Float).unflatten(-1, {-1, 2}).select(-1, 0);
}

optional<Tensor> offset_of(const Tensor& scale) {
  if (scale.element_size() < 8 || scale.is_floating_point()) return std::nullopt;
  const Tensor bits = scale.contiguous().view(ScalarType::Long).bitwise_right_shift(37).bitwise_and(0x1ff);
  return bits.bitwise_xor(0x100).sub(0x100);
}

Tensor spread(const Tensor& scale, at::IntArrayRef sizes, at::IntArrayRef blocks) {
  Tensor result = scale;
  for (int64_t i = 1; i <= scale.dim(); ++i) {
    const int64_t count = scale.size(-i), size = sizes[sizes.size() - i];
    if (count == 1 || count == size) continue;
    const int64_t given = static_cast<size_t>(i) <= blocks.size() ? blocks[blocks.size() - i] : 0;
    TORCH_CHECK(given > 0 || (count > 0 && size > 0 && size % count == 0), "scales of ", scale.sizes(), " for ", sizes,
                ": how many elements share one is not known.");
    const int64_t block = given > 0 ? given : size / count;
    TORCH_CHECK(count == (size + block - 1) / block, "scales of ", scale.sizes(), " for ", sizes, ": ", block,
                " elements share one.");
    result = result.repeat_interleave(block, -i).narrow(-i, 0, size);
  }
  return result;
}

namespace {

Tensor packed(const Tensor& numbers) {
  const Tensor eight = numbers.to(ScalarType::Int).bitwise_and(0xf).unflatten(-1, {-1, 8});
  return eight.bitwise_left_shift(at::arange(0, 32, 4, ScalarType::Int)).sum(-1).to(ScalarType::Int);
}

Tensor whole(const Tensor& x, const std::string& mode) {
  if (mode.empty() || mode == "round" || mode == "rint") return at::round(x);
  if (mode == "floor") return at::floor(x);
  if (mode == "ceil") return at::ceil(x);
  TORCH_CHECK(mode == "trunc", "rounding '", mode, "' is not simulated: round, rint, floor, ceil and trunc are.");
  return at::trunc(x);
}

}  // namespace

Range range_of(ScalarType type) {
  switch (type) {
    case ScalarType::Char:
      return {-128, 127};
    case ScalarType::Byte:
      return {0, 255};
    case ScalarType::Int:
      return {-8, 7};
    case ScalarType::Float8_e4m3fn:
      return {-448, 448};
    case ScalarType::Float8_e5m2:
      return {-57344, 57344};
    default:
      TORCH_CHECK(false, "quantization to ", type, " is not simulated: to int8, 4-bit numbers and float8 it is.");
  }
}

Tensor rounded(const Tensor& scaled, const Out& out, const std::string& mode) {
  const ScalarType type = out->scalar_type();
  const Range range = range_of(type);
  if (c10::isFloat8Type(type)) {
    TORCH_CHECK(mode == "round" || mode == "rint", "rounding '", mode, "' to float8 is not simulated.");
    return scaled.clamp(range.smallest, range.largest).to(type);
  }
  const Tensor numbers = whole(scaled, mode).clamp(range.smallest, range.largest);
  return type == ScalarType::Int ? packed(numbers) : numbers.to(type);
}

Quantized by_row(const Tensor& x, const Out& out) {
  const Tensor scale = at::amax(at::abs(x), -1, true) / range_of(out->scalar_type()).largest;
  return {x / scale.masked_fill(scale == 0, 1), scale};
}

namespace {

// Of float8 e8m0 (MX): one for 32 elements of the depth, kept as pairs in a last dimension.
bool is_mx(const optional<Tensor>& scale) {
  return scale.has_value() && scale->scalar_type() == ScalarType::Float8_e8m0fnu;
}

Tensor scaled(const Tensor& x, const Tensor& scale, int64_t depth, Ints blocks) {
  if (is_mx(scale)) {
    const Tensor pairs = scale.to(ScalarType::Float);
    const Tensor flat = depth == -1 ? pairs.flatten(-2) : pairs.transpose(-1, -2).flatten(-3, -2);
    const int64_t count = (x.size(depth) + 31) / 32;
    return x * spread(flat.narrow(depth, 0, count), x.sizes(), depth == -1 ? Ints{0, 32} : Ints{32, 0});
  }
  return x * spread(scale_of(scale), x.sizes(), blocks);
}

}  // namespace

Tensor product(const QuantizedProduct& given) {
  constexpr ScalarType kExact = ScalarType::Double;
  const bool is_int4 = given.weight.scalar_type() == ScalarType::Int;
  const bool is_split = is_int4 && given.x.scalar_type() == ScalarType::Char;
  Tensor x = unpacked(given.x).to(kExact), weight = unpacked(given.weight).to(kExact);
  const Ints blocks = given.blocks.empty() ? Ints{0, 0, 0} : given.blocks;
  // A vector scales the sums: bias and offset stand before or behind it.
  const bool is_column = given.x_scale.has_value() && given.x_scale->dim() > 1 && given.x_scale->size(-1) == 1;
  const auto x_scale = is_column ? optional<Tensor>(given.x_scale->squeeze(-1)) : given.x_scale;
  const bool is_each_row = is_column || (x_scale.has_value() && x_scale->dim() < 2);
  const bool is_each_column = given.weight_scale.has_value() && given.weight_scale->dim() < 2;
  TORCH_CHECK(!is_split || given.assist.has_value(), "int8 by 4-bit numbers needs the weight's sums times eight.");
  if (is_split) x = x - 8;  // its halves are signed: 16 * (x >> 4) + (x & 15) - 8
  if (given.weight_zero.has_value()) weight = weight - spread(given.weight_zero->to(kExact), weight.sizes());
  if (x_scale.has_value() && !is_each_row) x = scaled(x, *x_scale, -1, {blocks[0], blocks[2]});
  if (given.weight_scale.has_value() && !is_each_column) {
    weight = scaled(weight, *given.weight_scale, -2, {blocks[2], blocks[1]});
  }
  Tensor y = at::matmul(x, weight);
  const bool is_sum = given.bias.has_value() && !given.bias->is_floating_point();
  if (is_sum) y = y + *given.bias;
  if (is_each_column) y = y * scale_of(*given.weight_scale).to(kExact);
  if (given.assist.has_value()) y = y + *given.assist;
  if (given.offset.has_value()) y = y + *given.offset;
  if (is_each_row) y = y * x_scale->to(kExact).unsqueeze(-1);
  if (given.bias.has_value() && !is_sum) y = y + *given.bias;
  return y;
}

}  // namespace unify::operators
