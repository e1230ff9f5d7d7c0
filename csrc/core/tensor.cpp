#include "tensor.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>

#include "device.h"
#include "error.h"
#include "memory.h"
#include "stream.h"

namespace unify {
namespace {

std::string text_of(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + "]";
}

std::string shape_of(const Tensor& tensor) {
  return text_of(std::vector<int64_t>(tensor.shape.begin(), tensor.shape.begin() + tensor.ndim));
}

void set_shape(Tensor& tensor, const std::vector<int64_t>& shape) {
  if (shape.size() > kMaxDims) {
    throw Error(ErrorKind::kShape, "at most " + std::to_string(kMaxDims) + " axes; " + text_of(shape) + " has " +
                                       std::to_string(shape.size()) + ".");
  }
  tensor.ndim = static_cast<int>(shape.size());
  std::copy(shape.begin(), shape.end(), tensor.shape.begin());
}

void set_contiguous_strides(Tensor& tensor) {
  int64_t stride = 1;
  for (int axis = tensor.ndim - 1; axis >= 0; --axis) {
    const auto i = static_cast<size_t>(axis);
    tensor.strides[i] = stride;
    stride *= std::max<int64_t>(tensor.shape[i], 1);
  }
}

// A loop nest over two tensors of one shape, with the axes that run together folded into one.
struct Nest {
  int ndim = 0;
  std::array<int64_t, kMaxDims> shape{};
  std::array<int64_t, kMaxDims> dst{};  // strides in elements
  std::array<int64_t, kMaxDims> src{};
};

Nest folded(const Tensor& dst, const Tensor& src) {
  Nest nest;
  for (size_t i = 0; i < static_cast<size_t>(dst.ndim); ++i) {
    if (dst.shape[i] == 1) continue;
    const auto last = static_cast<size_t>(nest.ndim) - 1;
    if (nest.ndim > 0 && nest.dst[last] == dst.strides[i] * dst.shape[i] &&
        nest.src[last] == src.strides[i] * dst.shape[i]) {
      nest.shape[last] *= dst.shape[i];
      nest.dst[last] = dst.strides[i];
      nest.src[last] = src.strides[i];
    } else {
      const auto next = static_cast<size_t>(nest.ndim++);
      nest.shape[next] = dst.shape[i];
      nest.dst[next] = dst.strides[i];
      nest.src[next] = src.strides[i];
    }
  }
  if (nest.ndim == 0) {
    nest.ndim = 1;
    nest.shape[0] = nest.dst[0] = nest.src[0] = 1;
  }
  return nest;
}

void copy_nest(const Nest& nest, int axis, DType to, unsigned char* dst, DType from, const unsigned char* src) {
  const auto i = static_cast<size_t>(axis);
  const int64_t to_size = itemsize(to);
  const int64_t from_size = itemsize(from);
  if (axis + 1 < nest.ndim) {
    for (int64_t n = 0; n < nest.shape[i]; ++n) {
      copy_nest(nest, axis + 1, to, dst + n * nest.dst[i] * to_size, from, src + n * nest.src[i] * from_size);
    }
    return;
  }
  if (to == from && nest.dst[i] == 1 && nest.src[i] == 1) {
    std::memmove(dst, src, static_cast<size_t>(nest.shape[i] * to_size));
  } else {
    convert(to, dst, nest.dst[i], from, src, nest.src[i], static_cast<size_t>(nest.shape[i]));
  }
}

unsigned char* host_pointer(const Tensor& tensor) {
  return reinterpret_cast<unsigned char*>(static_cast<uintptr_t>(tensor.address()));
}

// Copies on the host what the host can see, in the order of the stream.
void copy_on_host(Stream& stream, const Tensor& dst, const Tensor& src) {
  const auto work = [dst, src] {
    copy_nest(folded(dst, src), 0, dst.dtype, host_pointer(dst), src.dtype, host_pointer(src));
  };
  if (stream.recording() == nullptr && stream.id() == 0 && stream.query()) {
    work();  // nothing to wait for
  } else {
    stream.host_call(work);
  }
}

Tensor broadcast(const Tensor& src, const Tensor& dst) {
  Tensor wide = src;
  wide.ndim = dst.ndim;
  wide.shape = dst.shape;
  for (int axis = 0; axis < dst.ndim; ++axis) {
    const auto to = static_cast<size_t>(axis);
    const int from = axis - (dst.ndim - src.ndim);
    const int64_t extent = from < 0 ? 1 : src.shape[static_cast<size_t>(from)];
    wide.strides[to] = extent == 1 ? 0 : src.strides[static_cast<size_t>(from)];
    if (extent != 1 && extent != dst.shape[to]) {
      throw Error(ErrorKind::kShape,
                  "an array of shape " + shape_of(src) + " does not broadcast to " + shape_of(dst) + ".");
    }
  }
  for (int axis = 0; axis < src.ndim - dst.ndim; ++axis) {
    if (src.shape[static_cast<size_t>(axis)] != 1) {
      throw Error(ErrorKind::kShape,
                  "an array of shape " + shape_of(src) + " does not broadcast to " + shape_of(dst) + ".");
    }
  }
  return wide;
}

// The bytes from a tensor's first element in memory to its last.
struct Span {
  int64_t begin;  // relative to the tensor's address
  int64_t end;
};

Span span_of(const Tensor& tensor) {
  const int64_t width = itemsize(tensor.dtype);
  Span span{0, width};
  for (size_t i = 0; i < static_cast<size_t>(tensor.ndim); ++i) {
    const int64_t reach = (tensor.shape[i] - 1) * tensor.strides[i] * width;
    (reach < 0 ? span.begin : span.end) += reach;
  }
  return span;
}

Place place_of(const Tensor& tensor, unify_address address) {
  return {&tensor.device(), address, tensor.storage.get()};
}

// One call of the backend, if that is all it takes: rows of adjacent elements of one dtype.
bool copy_as_rows(Stream& stream, const Tensor& dst, const Tensor& src) {
  const Nest nest = folded(dst, src);
  const int64_t width = nest.shape[1];
  if (dst.dtype != src.dtype || nest.ndim != 2 || nest.dst[1] != 1 || nest.src[1] != 1) return false;
  if (nest.dst[0] < width || nest.src[0] < width) return false;  // repeated, or backwards
  const int64_t size = itemsize(dst.dtype);
  const auto bytes = [size](int64_t elements) { return static_cast<size_t>(elements * size); };
  return copy_rows(stream, place_of(dst, dst.address()), bytes(nest.dst[0]), place_of(src, src.address()),
                   bytes(nest.src[0]), bytes(width), static_cast<size_t>(nest.shape[0]));
}

// The same tensor over host memory: its span, copied there if asked for. Waits for a copy.
Tensor on_host(Stream& stream, const Tensor& tensor, bool with_contents) {
  const Span span = span_of(tensor);
  const auto bytes = static_cast<size_t>(span.end - span.begin);
  Tensor staged = tensor;
  staged.storage = allocate_pinned(stream.device_ptr(), bytes);
  staged.offset_bytes = static_cast<uint64_t>(-span.begin);
  if (with_contents) {
    const unify_address first = tensor.address() + static_cast<uint64_t>(span.begin);
    copy(stream, {nullptr, staged.storage->address(), staged.storage.get()}, place_of(tensor, first), bytes);
    stream.synchronize();
  }
  return staged;
}

// Between memory that the host cannot see, strided or of two dtypes: on host copies of what lies between first and
// last element. What lies in the gaps is read and written back as it was, in the order of the stream.
void copy_through_host(Stream& stream, const Tensor& dst, const Tensor& src) {
  stream.require_not_recorded("copy by way of the host, which waits for the stream,");
  const Tensor values = src.device().is_host_visible() ? src : on_host(stream, src, true);
  if (dst.device().is_host_visible()) {
    copy_on_host(stream, dst, values);
    return;
  }
  if (src.device().is_host_visible()) stream.synchronize();  // the host reads it now
  const Tensor staged = on_host(stream, dst, !dst.is_contiguous());
  copy_nest(folded(staged, values), 0, dst.dtype, host_pointer(staged), values.dtype, host_pointer(values));
  const Span span = span_of(dst);
  copy(stream, place_of(dst, dst.address() + static_cast<uint64_t>(span.begin)),
       {nullptr, staged.storage->address(), staged.storage.get()}, static_cast<size_t>(span.end - span.begin));
}

}  // namespace

int64_t Tensor::size() const noexcept {
  int64_t count = 1;
  for (int axis = 0; axis < ndim; ++axis) count *= shape[static_cast<size_t>(axis)];
  return count;
}

bool Tensor::is_contiguous() const noexcept {
  int64_t expected = 1;
  for (int axis = ndim - 1; axis >= 0; --axis) {
    const auto i = static_cast<size_t>(axis);
    if (shape[i] == 0) return true;
    if (shape[i] != 1 && strides[i] != expected) return false;
    expected *= shape[i];
  }
  return true;
}

Tensor empty(Stream& stream, const std::vector<int64_t>& shape, DType dtype) {
  Tensor tensor;
  tensor.dtype = dtype;
  set_shape(tensor, shape);
  uint64_t bytes = itemsize(dtype);
  for (const int64_t extent : shape) {
    if (extent < 0) throw Error(ErrorKind::kShape, "a negative length in the shape " + text_of(shape) + ".");
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(extent), &bytes)) {
      throw Error(ErrorKind::kShape, "the shape " + text_of(shape) + " has more bytes than an address can count.");
    }
  }
  set_contiguous_strides(tensor);
  tensor.storage = stream.device().allocator().allocate(bytes, stream);
  return tensor;
}

namespace {

// The lengths with the one -1 made up for; as many elements as `tensor` has.
std::vector<int64_t> resolved(const Tensor& tensor, const std::vector<int64_t>& wanted) {
  const auto other_count = [&] {
    return Error(ErrorKind::kShape, "reshape: " + shape_of(tensor) + " has " + std::to_string(tensor.size()) +
                                        " elements, " + text_of(wanted) + " does not.");
  };
  std::vector<int64_t> shape = wanted;
  const auto unknown = std::find(shape.begin(), shape.end(), -1);
  int64_t known = 1;   // product of what was given,
  int64_t stride = 1;  // and with each 0 as 1, since strides are computed that way
  for (auto it = shape.begin(); it != shape.end(); ++it) {
    if (it == unknown) continue;
    if (*it < 0) {
      throw Error(ErrorKind::kShape,
                  "reshape to " + text_of(wanted) + ": at most one -1, and no other negative length.");
    }
    if (__builtin_mul_overflow(stride, std::max<int64_t>(*it, 1), &stride)) throw other_count();
    known *= *it;
  }
  if (unknown != shape.end()) *unknown = known == 0 ? 0 : tensor.size() / known;
  if (known * (unknown != shape.end() ? *unknown : 1) != tensor.size()) throw other_count();
  return shape;
}

// Axes of `tensor`, last one first, that follow each other in memory as one run.
struct Run {
  const Tensor& tensor;
  int axis;
  int64_t stride = 1;  // of the run's last axis
  int64_t length = 1;

  explicit Run(const Tensor& t) : tensor(t), axis(t.ndim - 1) {}
  void skip_ones() {
    while (axis >= 0 && tensor.shape[static_cast<size_t>(axis)] == 1) --axis;
  }
  void begin() {
    skip_ones();
    stride = axis >= 0 ? tensor.strides[static_cast<size_t>(axis)] : 1;
    length = axis >= 0 ? tensor.shape[static_cast<size_t>(axis)] : 1;
  }
  // One axis more, if it lies before what there is.
  [[nodiscard]] bool extend() {
    --axis;
    skip_ones();
    if (axis < 0 || tensor.strides[static_cast<size_t>(axis)] != stride * length) return false;
    length *= tensor.shape[static_cast<size_t>(axis)];
    return true;
  }
};

// Each new axis has to lie within one run of old axes. False where that takes a copy.
bool set_strides_within(Tensor& view, Run run) {
  for (int axis = view.ndim - 1; axis >= 0; --run.axis) {
    run.begin();
    int64_t taken = 1;
    for (;;) {
      while (axis >= 0 && (taken < run.length || view.shape[static_cast<size_t>(axis)] == 1)) {
        view.strides[static_cast<size_t>(axis)] = run.stride * taken;
        taken *= view.shape[static_cast<size_t>(axis--)];
      }
      if (taken == run.length) break;
      if (!run.extend()) return false;
    }
  }
  return true;
}

}  // namespace

Tensor reshape(const Tensor& tensor, const std::vector<int64_t>& wanted) {
  Tensor view = tensor;
  set_shape(view, resolved(tensor, wanted));
  if (tensor.is_contiguous()) {
    set_contiguous_strides(view);
  } else if (!set_strides_within(view, Run(tensor))) {
    throw Error(ErrorKind::kLayout, "reshape of a strided " + shape_of(tensor) + " to " + text_of(wanted) +
                                        " needs a copy. Call contiguous() first.");
  }
  return view;
}

Tensor permute(const Tensor& tensor, const std::vector<int>& axes) {
  std::vector<bool> seen(static_cast<size_t>(tensor.ndim), false);
  bool is_valid = axes.size() == seen.size();
  for (const int axis : axes) {
    is_valid = is_valid && axis >= 0 && axis < tensor.ndim && !seen[static_cast<size_t>(axis)];
    if (is_valid) seen[static_cast<size_t>(axis)] = true;
  }
  if (!is_valid) {
    throw Error(ErrorKind::kShape, "permute of " + shape_of(tensor) + " needs each axis from 0 to " +
                                       std::to_string(tensor.ndim - 1) + " once.");
  }
  Tensor view = tensor;
  for (size_t i = 0; i < axes.size(); ++i) {
    view.shape[i] = tensor.shape[static_cast<size_t>(axes[i])];
    view.strides[i] = tensor.strides[static_cast<size_t>(axes[i])];
  }
  return view;
}

Tensor slice(const Tensor& tensor, const std::vector<Slice>& slices) {
  Tensor view = tensor;
  view.ndim = 0;
  int64_t offset = 0;
  for (size_t i = 0; i < slices.size(); ++i) {
    const Slice& part = slices[i];
    if (part.length > 0) offset += part.start * tensor.strides[i];
    if (part.drop) continue;
    const auto to = static_cast<size_t>(view.ndim++);
    view.shape[to] = part.length;
    view.strides[to] = tensor.strides[i] * part.step;
  }
  view.offset_bytes =
      tensor.offset_bytes + static_cast<uint64_t>(offset * static_cast<int64_t>(itemsize(tensor.dtype)));
  return view;
}

bool copy_directly(Stream& stream, const Tensor& dst, const Tensor& source) {
  const Tensor src = broadcast(source, dst);
  if (dst.size() == 0) return true;
  dst.storage->require_current();
  src.storage->require_current();
  const bool is_plain = dst.dtype == src.dtype && dst.is_contiguous() && src.is_contiguous();
  if (is_plain) return try_copy(stream, place_of(dst, dst.address()), place_of(src, src.address()), dst.bytes());
  if (dst.device().is_host_visible() && src.device().is_host_visible()) {
    copy_on_host(stream, dst, src);
  } else if (!copy_as_rows(stream, dst, src)) {
    return false;
  }
  dst.storage->used_on(stream);
  src.storage->used_on(stream);
  return true;
}

void copy_into(Stream& stream, const Tensor& dst, const Tensor& source) {
  if (copy_directly(stream, dst, source)) return;
  const Tensor src = broadcast(source, dst);
  copy_through_host(stream, dst, src);
  dst.storage->used_on(stream);
  src.storage->used_on(stream);
}

std::pair<Tensor, Tensor> folded_views(const Tensor& dst, const Tensor& source) {
  const Nest nest = folded(dst, broadcast(source, dst));
  std::pair<Tensor, Tensor> views{dst, source};
  views.first.ndim = views.second.ndim = nest.ndim;
  views.first.shape = views.second.shape = nest.shape;
  views.first.strides = nest.dst;
  views.second.strides = nest.src;
  return views;
}

}  // namespace unify
