// Older operators that only move and convert. Sizes and the like are inputs in memory of the host.
#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>

#include "aclop.h"

using namespace unify::operators;

namespace {

// widths: before and after each dimension, from the first one.
Tensor pad(const Tensor& tensor, const Ints& widths) {
  Ints from_last;
  for (size_t dim = widths.size() / 2; dim-- > 0;)
    from_last.insert(from_last.end(), {widths[2 * dim], widths[2 * dim + 1]});
  return at::constant_pad_nd(tensor, from_last);
}

Tensor slice(Tensor tensor, const Ints& offsets, const Ints& sizes) {
  for (size_t dim = 0; dim < offsets.size(); ++dim) {
    const auto d = static_cast<int64_t>(dim);
    const int64_t size = sizes[dim] == -1 ? tensor.size(d) - offsets[dim] : sizes[dim];
    tensor = tensor.narrow(d, offsets[dim], size);
  }
  return tensor;
}

Tensor bit_numbers() { return at::arange(8, at::TensorOptions(ScalarType::Byte)); }

// A bit for each sign, 1 of what is not negative, from the lowest bit on; a byte that is not full has zeros.
Tensor sign_bits(const Tensor& tensor, int64_t rows) {
  const Tensor positive = (tensor.flatten() >= 0).to(ScalarType::Byte);
  const Tensor whole = at::constant_pad_nd(positive, {0, (8 - positive.numel() % 8) % 8}).view({-1, 8});
  return whole.bitwise_left_shift(bit_numbers()).sum(1, false, ScalarType::Byte).view({rows, -1});
}

Tensor signs(const Tensor& bytes, int64_t rows) {
  const Tensor bits = bytes.flatten().unsqueeze(1).bitwise_right_shift(bit_numbers()).bitwise_and(1);
  return (bits.to(ScalarType::Float) * 2 - 1).view({rows, -1});
}

// A value in each row along a dimension, which the indices and the values do not have or have once.
Tensor scattered(const Tensor& tensor, Tensor indices, Tensor values, int64_t dim) {
  if (indices.dim() < tensor.dim()) indices = indices.unsqueeze(dim);
  if (values.dim() < tensor.dim()) values = values.unsqueeze(dim);
  return tensor.scatter(dim, indices.to(ScalarType::Long), values);
}

}  // namespace

// Where the formats of both differ, it is a cast of formats.
ACLOP(Identity, (Tensor x, Out y), y = x)
ACLOP(Cast, (Tensor x, const Attributes&, Out y), y = x)
ACLOP(BroadcastTo, (Tensor x, Tensor shape, Out y), y = x.expand(numbers_of(shape)))
ACLOP(Transpose, (Tensor x, Tensor order, Out y), y = x.permute(numbers_of(order)))
ACLOP(Pad, (Tensor x, Tensor widths, Out y), y = pad(x, numbers_of(widths)))
ACLOP(Slice, (Tensor x, Tensor offsets, Tensor sizes, Out y), y = slice(x, numbers_of(offsets), numbers_of(sizes)))
ACLOP(SignBitsPack, (Tensor x, const Attributes& with, Out y), y = sign_bits(x, with.get<int64_t>("size")))
ACLOP(SignBitsUnpack, (Tensor x, const Attributes& with, Out y), y = signs(x, with.get<int64_t>("size")))
ACLOP(ArgMaxGrad, (Tensor x, Tensor indices, Tensor values, const Attributes& with, Out y),
      y = scattered(x, indices, values, with.get<int64_t>("dimension")))
ACLOP(NonZero, (Tensor x, const Attributes& with, Shaped y),
      y = with.get<bool>("transpose", false) ? x.nonzero().t() : x.nonzero())
ACLOP(MaskedSelect, (Tensor x, Tensor mask, Shaped y), y = at::masked_select(x, mask))
