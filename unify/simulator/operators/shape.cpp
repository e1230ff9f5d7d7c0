// Operators that only move elements to other places, or repeat them.
#include <ATen/Functions.h>

#include "operator.h"

using namespace unify::operators;

namespace {

// A slice of each of the first dimensions. torch_npu's npu_indexing infers no shape from TensorFlow's masks.
Tensor strided_slice(Tensor self, const Ints& begin, const Ints& end, const Ints& strides, int64_t masks) {
  TORCH_CHECK(masks == 0, "masks of slices are not simulated.");
  for (size_t dim = 0; dim < strides.size(); ++dim) {
    self = at::slice(self, static_cast<int64_t>(dim), begin[dim], end[dim], strides[dim]);
  }
  return self;
}

}  // namespace

// Joining and splitting.
OPERATOR(aclnnCat, (Tensors tensors, int64_t dim, Out out), out = at::cat(tensors, dim))
OPERATOR(aclnnChunkCat, (Tensors tensors, int64_t dim, int64_t chunks, Out out),
         out = at::_chunk_cat(tensors, dim, chunks))
OPERATOR(aclnnSplitWithSize, (Tensor self, Ints sizes, int64_t dim, Outs outs),
         write(at::split_with_sizes(self, sizes, dim), outs))
OPERATOR(aclnnStack, (Tensors tensors, int64_t dim, Out out), out = at::stack(tensors, dim))

// Moving.
OPERATOR(aclnnChannelShuffle, (Tensor self, int64_t groups, Out out), out = at::channel_shuffle(self, groups))
OPERATOR(aclnnConfusionTranspose, (Tensor self, Ints order, Ints shape, bool transpose_first, Out out),
         out = transpose_first ? self.permute(order).reshape(shape) : self.reshape(shape).permute(order))
OPERATOR(aclnnFlip, (Tensor self, Ints dims, Out out), out = at::flip(self, dims))
OPERATOR(aclnnRoll, (Tensor self, Ints shifts, Ints dims, Out out), out = at::roll(self, shifts, dims))
OPERATOR(aclnnStridedSlice,
         (Tensor self, Ints begin, Ints end, Ints strides, int64_t begin_mask, int64_t end_mask, int64_t ellipsis_mask,
          int64_t new_axis_mask, int64_t shrink_mask, Out out),
         out = strided_slice(self, begin, end, strides,
                             begin_mask | end_mask | ellipsis_mask | new_axis_mask | shrink_mask))
OPERATOR(aclnnUnfoldGrad, (Tensor grad, Ints sizes, int64_t dim, int64_t size, int64_t step, Out out),
         out = at::unfold_backward(grad, sizes, dim, size, step))

// Repeating.
OPERATOR(aclnnRepeat, (Tensor self, Ints repeats, Out out), out = self.repeat(repeats))
OPERATOR(aclnnRepeatInterleave, (Tensor self, Tensor repeats, int64_t size, Out out),
         out = at::repeat_interleave(self, repeats, std::nullopt, size))
OPERATOR(
    aclnnRepeatInterleaveGrad, (Tensor grad, Tensor repeats, int64_t dim, Out out),
    out = at::zeros(out->sizes(), grad.options()).index_add(dim, at::repeat_interleave(repeats).to(at::kLong), grad))
OPERATOR(aclnnRepeatInterleaveInt, (Tensor self, int64_t repeats, int64_t size, Out out),
         out = at::repeat_interleave(self, repeats, std::nullopt, size))
OPERATOR(aclnnRepeatInterleaveIntWithDim, (Tensor self, int64_t repeats, int64_t dim, int64_t size, Out out),
         out = at::repeat_interleave(self, repeats, dim, size))
OPERATOR(aclnnRepeatInterleaveTensor, (Tensor repeats, int64_t size, Out out),
         out = at::repeat_interleave(repeats, optional<int64_t>(size)))
OPERATOR(aclnnRepeatInterleaveWithDim, (Tensor self, Tensor repeats, int64_t dim, int64_t size, Out out),
         out = at::repeat_interleave(self, repeats, dim, size))

// Padding.
OPERATOR(aclnnConstantPadNd, (Tensor self, Ints pad, Scalar value, Out out),
         out = at::constant_pad_nd(self, pad, value))
#define PADDING(NAME, FUNCTION)                                                   \
  OPERATOR(NAME, (Tensor self, Ints pad, Out out), out = at::FUNCTION(self, pad)) \
  OPERATOR(NAME##Backward, (Tensor grad, Tensor self, Ints pad, Out out),         \
           out = at::FUNCTION##_backward(grad, self, pad))
PADDING(aclnnReflectionPad1d, reflection_pad1d)
PADDING(aclnnReflectionPad2d, reflection_pad2d)
PADDING(aclnnReflectionPad3d, reflection_pad3d)
PADDING(aclnnReplicationPad1d, replication_pad1d)
PADDING(aclnnReplicationPad2d, replication_pad2d)
PADDING(aclnnReplicationPad3d, replication_pad3d)
#undef PADDING

// Rows within a norm.
OPERATOR(aclnnInplaceRenorm, (Out self, Scalar p, int64_t dim, Scalar max_norm), self->renorm_(p, dim, max_norm))
OPERATOR(aclnnRenorm, (Tensor self, Scalar p, int64_t dim, Scalar max_norm, Out out),
         out = at::renorm(self, p, dim, max_norm))
