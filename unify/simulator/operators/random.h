// Random numbers of a seed and an offset.
#pragma once

#include <ATen/CPUGeneratorImpl.h>

#include "operator.h"

namespace unify::operators {

// Where the numbers begin: torch_npu moves the offset on with each call.
struct Random {
  Random(int64_t seed, int64_t offset) : seed(seed), offset(offset) {}
  // In a captured graph both are memory that changes before each replay.
  Random(const Tensor& seed, const Tensor& offset, uint64_t offset_in_graph)
      : seed(seed.reshape({}).item<int64_t>()),
        offset(offset.reshape({}).item<int64_t>() + static_cast<int64_t>(offset_in_graph)) {}

  [[nodiscard]] at::Generator generator() const {
    uint64_t mixed = static_cast<uint64_t>(seed) + 0x9e3779b97f4a7c15U * (static_cast<uint64_t>(offset) + 1);
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9U;  // splitmix64: near seeds give unlike numbers
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebU;
    return at::make_generator<at::CPUGeneratorImpl>(mixed ^ (mixed >> 31));
  }

  int64_t seed, offset;
};

// A bit for each element, eight to a byte, the lowest first: 1 keeps it. p: of its being dropped; bytes: like the mask.
Tensor mask_of(const Tensor& bytes, double p, const at::Generator& generator);

}  // namespace unify::operators
