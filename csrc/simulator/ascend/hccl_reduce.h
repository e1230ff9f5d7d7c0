// The arithmetic of collective operations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "hccl.h"

namespace unify::simulator {

size_t bytes_of(HcclDataType type);  // 0: unknown
bool is_reducible(HcclDataType type);
const char* name_of(HcclDataType type) noexcept;
const char* name_of(HcclReduceOp op) noexcept;

constexpr size_t kMostReduced = 2048;  // elements at a time

// out[i] = ranks[0][i] op ranks[1][i] ..., in this order: the same on every rank. float16 and bfloat16 are computed in
// float32 and rounded once, to the nearest, ties to even; integers wrap around; the maximum and minimum of NaN and
// another number is NaN. `out` may be one of `ranks`. All are aligned to their elements; count <= kMostReduced.
void reduce(char* out, const std::vector<const char*>& ranks, size_t count, HcclDataType type, HcclReduceOp op);

}  // namespace unify::simulator
