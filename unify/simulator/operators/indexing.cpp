// Operators that read or write elements at places which other tensors name.
#include <ATen/Functions.h>
#include <ATen/core/List.h>

#include "operator.h"

using namespace unify::operators;

namespace {

// torch_npu has an empty tensor stand for a dimension without indices.
c10::List<optional<Tensor>> without_empty(const Tensors& indices) {
  c10::List<optional<Tensor>> list;
  for (const Tensor& each : indices) list.push_back(each.numel() == 0 ? std::nullopt : optional<Tensor>(each));
  return list;
}

bool are_all_empty(const Tensors& indices) {
  for (const Tensor& each : indices) {
    if (each.numel() != 0) return false;
  }
  return true;
}

enum Reduction : int64_t { kNone, kAdd, kMultiply, kMax, kMin, kMean };

// By the name that torch's scatter_reduce has for it.
const char* reduction_name(int64_t reduction) {
  constexpr const char* kNames[] = {"", "sum", "prod", "amax", "amin", "mean"};
  TORCH_CHECK(reduction > kNone && reduction <= kMean, "reduction is ", reduction, ", not 1 to 5.");
  return kNames[reduction];
}

Tensor scatter(const Tensor& self, int64_t dim, const Tensor& index, const Tensor& source, int64_t reduction) {
  if (reduction == kNone) return at::scatter(self, dim, index, source);
  return at::scatter_reduce(self, dim, index, source, reduction_name(reduction));
}

Tensor scatter(const Tensor& self, int64_t dim, const Tensor& index, const Scalar& value, int64_t reduction) {
  if (reduction == kNone) return at::scatter(self, dim, index, value);
  return scatter(self, dim, index, at::full(index.sizes(), value, self.options()), reduction);
}

Tensor scatter_reduce(const Tensor& self, int64_t dim, const Tensor& index, const Tensor& source, int64_t reduction,
                      bool include_self) {
  if (reduction == kNone) return at::scatter(self, dim, index, source);
  return at::scatter_reduce(self, dim, index, source, reduction_name(reduction), include_self);
}

// Writes each update at `starts` along an axis of one of `memory`: caches of keys grow so.
void update(const Tensors& memory, const Tensor& starts, const Tensor& updates, int64_t axis) {
  TORCH_CHECK(starts.dim() == 1, "indices of shape ", starts.sizes(), " are not simulated: one dimension is.");
  for (int64_t i = 0; i < starts.numel(); ++i) {
    const Tensor each = updates.select(0, i);
    memory[i].narrow(axis, starts[i].item<int64_t>(), each.size(axis)).copy_(each);
  }
}

// Which axis of an element of a batch an axis of the batch is.
int64_t inner_axis(int64_t axis) { return axis < 0 ? axis : axis - 1; }

Tensor one_hot(const Tensor& self, int64_t depth, const Tensor& on, const Tensor& off, int64_t axis) {
  Tensor classes = at::arange(depth, self.options());
  for (int64_t after = axis < 0 ? -1 - axis : self.dim() - axis; after > 0; --after) classes = classes.unsqueeze(-1);
  return at::where(at::eq(self.unsqueeze(axis), classes), on, off);
}

void write_if_kept(const Out& out, const Tensor& result) {
  if (out.is_wanted() && out->numel() != 0) out = result;
}

}  // namespace

// Reading.
OPERATOR(aclnnEmbedding, (Tensor weight, Tensor indices, Out out), out = at::embedding(weight, indices))
OPERATOR(aclnnEmbeddingBag,
         (Tensor weight, Tensor indices, Tensor offsets, bool scale_by_frequency, int64_t mode, bool sparse,
          optional<Tensor> weights, bool include_last, int64_t padding, Out out, Out bags, Out sizes, Out largest),
         const auto found = at::_embedding_bag(weight.contiguous(), indices, offsets, scale_by_frequency, mode, sparse,
                                               weights, include_last, padding);
         out = std::get<0>(found); write_if_kept(bags, std::get<1>(found)); sizes = std::get<2>(found);
         write_if_kept(largest, std::get<3>(found)))
OPERATOR(aclnnGather, (Tensor self, int64_t dim, Tensor index, Out out), out = at::gather(self, dim, index))
OPERATOR(aclnnGatherV3, (Tensor self, int64_t dim, Tensor index, int64_t batch_dims, int64_t mode, Out out),
         TORCH_CHECK(dim == 0 && batch_dims == 0 && mode >= 0, "dim ", dim, " and batchDims ", batch_dims,
                     " are not simulated: 0 is.");
         out = at::index(self, {optional<Tensor>(index)}))
OPERATOR(aclnnIndex, (Tensor self, Tensors indices, Out out),
         if (out->numel() != 0) out = at::index(self, without_empty(indices)))
OPERATOR(aclnnIndexSelect, (Tensor self, int64_t dim, Tensor index, Out out), out = at::index_select(self, dim, index))
OPERATOR(aclnnMaskedSelect, (Tensor self, Tensor mask, Shaped out), out = at::masked_select(self, mask))
OPERATOR(aclnnNonzero, (Tensor self, Shaped out), out = at::nonzero(self))
OPERATOR(aclnnNonzeroV2, (Tensor self, Shaped out), out = at::nonzero(self).t())
OPERATOR(aclnnOneHot, (Tensor self, int64_t depth, Tensor on, Tensor off, int64_t axis, Out out),
         out = one_hot(self, depth, on, off, axis))
OPERATOR(aclnnTake, (Tensor self, Tensor index, Out out), out = at::take(self, index))

// Writing.
OPERATOR(aclnnEmbeddingDenseBackward,
         (Tensor grad, Tensor indices, int64_t rows, int64_t padding, bool scale_by_frequency, Out out),
         out = at::embedding_dense_backward(grad, indices, rows, padding, scale_by_frequency))
OPERATOR(aclnnEmbeddingRenorm, (Out self, Tensor indices, double max_norm, double norm_type), Tensor weight = self;
         at::embedding_renorm_(weight, indices, max_norm, norm_type))
OPERATOR(aclnnIndexAdd, (Tensor self, int64_t dim, Tensor index, Tensor source, Scalar alpha, Out out),
         out = at::index_add(self, dim, index, source, alpha))
OPERATOR(aclnnIndexAddV2, (Tensor self, int64_t dim, Tensor index, Tensor source, Scalar alpha, int64_t mode, Out out),
         TORCH_CHECK(mode == 0, "mode ", mode, " is not simulated: 0 is.");
         out = at::index_add(self, dim, index, source, alpha))
OPERATOR(aclnnIndexCopy, (Tensor self, int64_t dim, Tensor index, Tensor source, Out out),
         out = at::index_copy(self, dim, index, source))
OPERATOR(aclnnIndexFill, (Tensor self, int64_t dim, Tensor index, Scalar value, Out out),
         out = at::index_fill(self, dim, index.to(at::kLong), value))
OPERATOR(aclnnIndexFillTensor, (Tensor self, int64_t dim, Ints index, Scalar value, Out out),
         out = at::index_fill(self, dim, at::tensor(index), value))
OPERATOR(aclnnIndexPutImpl, (Out self, Tensors indices, Tensor values, bool accumulate, bool unsafe),
         Tensor memory = self;
         if (!are_all_empty(indices)) at::_index_put_impl_(memory, without_empty(indices), values, accumulate, unsafe))
OPERATOR(aclnnInplaceIndexCopy, (Out self, int64_t dim, Tensor index, Tensor source),
         self->index_copy_(dim, index, source))
OPERATOR(aclnnInplaceIndexFill, (Out self, int64_t dim, Tensor index, Scalar value),
         self->index_fill_(dim, index.to(at::kLong), value))
OPERATOR(aclnnInplaceIndexFillTensor, (Out self, int64_t dim, Ints index, Scalar value),
         self->index_fill_(dim, at::tensor(index), value))
OPERATOR(aclnnInplacePut, (Out self, Tensor index, Tensor source, bool accumulate),
         self->put_(index, source, accumulate))
OPERATOR(aclnnInplaceScatter, (Out self, int64_t dim, Tensor index, Tensor source, int64_t reduction),
         self = scatter(self, dim, index, source, reduction))
OPERATOR(aclnnInplaceScatterReduce,
         (Out self, int64_t dim, Tensor index, Tensor source, int64_t reduction, bool include_self),
         self = scatter_reduce(self, dim, index, source, reduction, include_self))
OPERATOR(aclnnInplaceScatterValue, (Out self, int64_t dim, Tensor index, Scalar value, int64_t reduction),
         self = scatter(self, dim, index, value, reduction))
OPERATOR(aclnnInplaceScatterUpdate, (Out self, Tensor indices, Tensor updates, int64_t axis),
         const Tensor memory = self;
         update(memory.unbind(0), indices, updates, inner_axis(axis)))
OPERATOR(aclnnScatterList,
         (Outs self, Tensor indices, Tensor updates, optional<Tensor> mask, std::string reduce, int64_t axis),
         TORCH_CHECK(!mask && reduce == "update", "a mask and reduce ", reduce, " are not simulated: update is.");
         update(Tensors(self.begin(), self.end()), indices, updates, axis))
OPERATOR(aclnnScatterNdUpdate, (Out self, Tensor indices, Tensor updates), Tensor memory = self;
         at::_index_put_impl_(memory, without_empty(indices.unbind(-1)), updates, false, false))
OPERATOR(aclnnScatter, (Tensor self, int64_t dim, Tensor index, Tensor source, int64_t reduction, Out out),
         out = scatter(self, dim, index, source, reduction))
OPERATOR(aclnnScatterAdd, (Tensor self, int64_t dim, Tensor index, Tensor source, Out out),
         out = at::scatter_add(self, dim, index, source))
OPERATOR(aclnnScatterReduce,
         (Tensor self, int64_t dim, Tensor index, Tensor source, int64_t reduction, bool include_self, Out out),
         out = scatter_reduce(self, dim, index, source, reduction, include_self))
OPERATOR(aclnnScatterValue, (Tensor self, int64_t dim, Tensor index, Scalar value, int64_t reduction, Out out),
         out = scatter(self, dim, index, value, reduction))
