// Groups of rows: each expert's lie together.
#pragma once

#include "quantized.h"

namespace unify::operators {

struct Group {
  int64_t expert, begin, end;
};

enum GroupList : int64_t { kEnds = 0, kCounts = 1, kPairs = 2 };  // pairs: an expert and its count

// Raises where a group ends before it begins, or behind the last of so many rows.
std::vector<Group> groups_of(const Tensor& list, int64_t type, int64_t rows);

// The expert of each row; of rows behind the last group, whose results nobody defines, the last one.
Tensor experts_of(const std::vector<Group>& groups, int64_t rows);

// A group's part of what is kept for all experts: of one tensor, or of one for each.
optional<Tensor> part_of(const Tensors& tensors, int64_t expert);
optional<Tensor> part_of(const optional<Tensor>& tensor, int64_t expert);

// Each group's product, one below the other; rows of no group are zero. x [m, k], weight [experts, k, n].
struct GroupedProduct {
  Tensor x, weight;
  optional<Tensor> x_scale;                       // [m], or [m, ...] of blocks
  optional<Tensor> weight_scale, offset, assist;  // for each expert
};
Tensor grouped_product(const GroupedProduct& given, const std::vector<Group>& groups);

}  // namespace unify::operators
