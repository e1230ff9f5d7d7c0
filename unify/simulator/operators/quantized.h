// Numbers of few bits and their scales, as the vendor's quantised operators take and give them.
#pragma once

#include "wide.h"

namespace unify::operators {

// int32 as the eight signed 4-bit numbers in it, the lowest bits first, along the dimension that is dense in memory.
// Another type is left as it is.
Tensor unpacked(const Tensor& packed);

// A scale as float32. Of 64 bits the lower half is one (aclnnTransQuantParamV2).
Tensor scale_of(const Tensor& scale);
// What is added after such a scale, in its bits 37 to 45; of another type none.
optional<Tensor> offset_of(const Tensor& scale);

// Scales of blocks beside what they scale, so that both multiply: each of the last dimensions is one scale for all, one
// for each, or one for as many as `blocks` says (0: as fit).
Tensor spread(const Tensor& scale, at::IntArrayRef sizes, at::IntArrayRef blocks = {});

// What a type holds; of int32: one of the eight numbers of 4 bits in it. Raises for a type that is none to quantise to.
struct Range {
  double smallest, largest;
};
Range range_of(ScalarType type);

// Rounded to what is wanted of int8, uint8, eight 4-bit numbers in an int32, or float8.
Tensor rounded(const Tensor& scaled, const Out& out, const std::string& mode = "round");

struct Quantized {
  Tensor scaled;  // x over its scale, not rounded
  Tensor scale;   // of each row: [..., 1]
};
// Each row's largest becomes the largest number of a type.
Quantized by_row(const Tensor& x, const Out& out);

// x @ weight, both quantised or one.
struct QuantizedProduct {
  Tensor x, weight;               // [..., m, k] and [..., k, n]
  optional<Tensor> x_scale;       // of the rows [m], of all [1], or of blocks
  optional<Tensor> weight_scale;  // of the columns [n], of all [1], or of blocks
  optional<Tensor> weight_zero;   // subtracted from the weight
  optional<Tensor> offset;        // added to what is scaled, before x_scale
  optional<Tensor> bias;          // of integers: to the sums; else to the result
  optional<Tensor> assist;        // eight times the weight's columns scaled and summed, where x is int8 and it 4-bit
  Ints blocks;                    // rows, columns and depth that share a scale; 0 as fit
};
// In double precision, which integers are exact in.
Tensor product(const QuantizedProduct& given);

}  // namespace unify::operators
