// A thin tensor: a storage, an offset, a dtype, a shape and strides. Views share the storage.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "allocator.h"
#include "dtype.h"

namespace unify {

constexpr int kMaxDims = 8;

struct Tensor {
  std::shared_ptr<Storage> storage;
  uint64_t offset_bytes = 0;
  DType dtype = DType::kFloat32;
  int ndim = 0;
  std::array<int64_t, kMaxDims> shape{};
  std::array<int64_t, kMaxDims> strides{};  // in elements

  [[nodiscard]] unify_address address() const noexcept { return storage->address() + offset_bytes; }
  [[nodiscard]] int64_t size() const noexcept;  // elements
  [[nodiscard]] uint64_t bytes() const noexcept { return static_cast<uint64_t>(size()) * itemsize(dtype); }
  [[nodiscard]] bool is_contiguous() const noexcept;
  [[nodiscard]] Device& device() const noexcept { return storage->device(); }
};

Tensor empty(Stream& stream, const std::vector<int64_t>& shape, DType dtype);
// Views; throw ShapeError or LayoutError with the shapes on both sides.
Tensor reshape(const Tensor& tensor,
               const std::vector<int64_t>& shape);  // one -1 allowed; LayoutError if it needs a copy
Tensor permute(const Tensor& tensor, const std::vector<int>& axes);
struct Slice {
  int64_t start, step, length;
  bool drop;
};  // per axis, already normalised
Tensor slice(const Tensor& tensor, const std::vector<Slice>& slices);

// dst[...] = src, with broadcasting, casting and any strides, across devices: enqueued on `stream`. Strided and casting
// copies on host-visible memory run in the core. Elsewhere one call of the backend makes them (copy_directly), or they
// go by way of the host, which waits: whoever has a kernel for them asks copy_directly first, and launches it.
void copy_into(Stream& stream, const Tensor& dst, const Tensor& src);
// The same, if no staging copy is needed; else false, and nothing was done.
[[nodiscard]] bool copy_directly(Stream& stream, const Tensor& dst, const Tensor& src);
// Both with `src` broadcast, in one shape with as few axes as it takes.
std::pair<Tensor, Tensor> folded_views(const Tensor& dst, const Tensor& src);

}  // namespace unify
