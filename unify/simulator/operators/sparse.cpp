// Sparse tensors: entries of one place become one.
#include <ATen/Functions.h>

#include "operator.h"

using namespace unify::operators;

namespace {

// numbers: of each entry, which one it becomes. indices: [entries, dimensions].
void coalesce(const Tensor& numbers, const Tensor& indices, const Tensor& values, const Out& out_indices,
              const Out& out_values) {
  const Tensor places = numbers.to(ScalarType::Long);
  out_indices = at::zeros_like(out_indices).index_copy(0, places, indices);
  out_values = at::zeros_like(out_values).index_add(0, places, values);
}

}  // namespace

OPERATOR(aclnnCoalesceSparse, (Tensor, Tensor numbers, Tensor indices, Tensor values, Out out_indices, Out out_values),
         coalesce(numbers, indices, values, out_indices, out_values))
