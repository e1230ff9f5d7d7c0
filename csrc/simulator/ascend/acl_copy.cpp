// ACL's functions that copy and fill.
#include "acl.h"
#include "calls.h"
#include "simulator/copy.h"
#include "simulator/graph.h"

using namespace unify::simulator;

namespace {

uint64_t number(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); }

std::shared_ptr<Range> find(const void* pointer) { return driver().memory.find(number(pointer)); }

// Whether an address is in a device's memory: in use, or where it would be.
bool is_on_device(const void* pointer) {
  const std::shared_ptr<Range> range = find(pointer);
  if (range != nullptr) return range->device >= 0;
  std::vector<Piece> pieces;
  return !driver().memory.resolve(number(pointer), 1, pieces);
}

// Whether the host may move the pages of it away: then a copy cannot be left to the chip.
bool is_pageable(const void* pointer) { return find(pointer) == nullptr && !is_on_device(pointer); }

bool is_whole(uint64_t address, const Copy& copy, uint64_t pitch) {
  std::vector<Piece> pieces;
  for (uint64_t row = 0; row < copy.height; ++row) {
    if (!driver().memory.resolve(address + row * pitch, copy.width, pieces)) return false;
  }
  return true;
}

bool is_whole(const Copy& copy) {
  return is_whole(copy.dst, copy, copy.dst_pitch) && is_whole(copy.src, copy, copy.src_pitch);
}

bool can_reach(const Device& device, const void* pointer) {
  const std::shared_ptr<Range> range = find(pointer);
  return range == nullptr || range->device < 0 || driver().memory.may_use(device.index, number(pointer));
}

Result check_kind(aclrtMemcpyKind kind, const void* dst, const void* src) {
  const bool is_to_device = is_on_device(dst);
  const bool is_from_device = is_on_device(src);
  bool fits = false;
  switch (kind) {
    case ACL_MEMCPY_HOST_TO_HOST:
      fits = !is_to_device && !is_from_device;
      break;
    case ACL_MEMCPY_HOST_TO_DEVICE:
    case ACL_MEMCPY_HOST_TO_BUF_TO_DEVICE:
      fits = is_to_device && !is_from_device;
      break;
    case ACL_MEMCPY_DEVICE_TO_HOST:
      fits = !is_to_device && is_from_device;
      break;
    case ACL_MEMCPY_DEVICE_TO_DEVICE:
      fits = is_to_device && is_from_device;
      break;
    case ACL_MEMCPY_DEFAULT:
      fits = true;
      break;
    default:
      return refuse(ACL_ERROR_INVALID_PARAM, "Memory copy kind " + std::to_string(kind) + ".");
  }
  if (fits) return ACL_SUCCESS;
  const auto where = [](bool is_device) { return is_device ? "a device" : "the host"; };
  return refuse(ACL_ERROR_RT_PARAM_INVALID, "Memory copy kind " + std::to_string(kind) + " from " +
                                                where(is_from_device) + " to " + where(is_to_device) + ".");
}

uint32_t wrong_bits(const Call& call) { return call.fault.kind == Fault::Kind::kCorrupt ? call.fault.bits : 0; }

Result check_sizes(const Copy& copy, size_t most, const void* dst, const void* src) {
  if (dst == nullptr || src == nullptr) return refuse(ACL_ERROR_INVALID_PARAM, "A null pointer.");
  if (copy.width > most) {
    return refuse(ACL_ERROR_RT_PARAM_INVALID, "The count " + std::to_string(copy.width) +
                                                  " cannot exceed the maximum value destMax " + std::to_string(most) +
                                                  ".");
  }
  if (copy.height > 1 && (copy.dst_pitch < copy.width || copy.src_pitch < copy.width)) {
    return refuse(ACL_ERROR_INVALID_PARAM, "The width must not be more than a pitch.");
  }
  return ACL_SUCCESS;
}

// At once: "no implicit synchronisation of the device or of a stream".
Result copy_at_once(Call& call, const Copy& copy, const void* dst, const void* src) {
  if (is_forbidden()) return ACL_ERROR_RT_CAPTURE_MODE_NOT_SUPPORT;
  const std::shared_ptr<Context> context = call.context;
  if (!can_reach(*context->device, dst) || !can_reach(*context->device, src)) {
    return refuse(ACL_ERROR_RT_DRV_INTERNAL_ERROR, "Access to the other device is not enabled.");
  }
  if (!is_whole(copy)) return refuse(ACL_ERROR_RT_DRV_INTERNAL_ERROR, "An address is not in memory of the device.");
  if (const Result result = hang_here(call); result != ACL_SUCCESS) return result;
  Operation operation;
  operation.kind = OperationKind::kCopy;
  operation.bytes = copy.width * copy.height;
  operation.direction = direction_of(copy);
  operation.run = [&, bits = wrong_bits(call)](Stream&) { return copy_now(copy, *context, bits); };
  call.lock.unlock();
  const Result result = watch(*context, operation);
  call.lock.lock();
  return result;
}

// Work that the chip's copy engine gives up.
Result submit_fault(Call& call, Stream& stream) {
  Operation operation;
  operation.kind = OperationKind::kCopy;
  operation.run = [](Stream&) -> Result { return ACL_ERROR_RT_SYS_DMA; };
  return submit(call, stream, std::move(operation));
}

Result copy_later(Call& call, Stream& stream, const Copy& copy, aclrtMemcpyKind kind, const void* dst,
                  const void* src) {
  if (kind == ACL_MEMCPY_HOST_TO_HOST) return refuse(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "From the host to the host.");
  if (const Result result = check_kind(kind, dst, src); result != ACL_SUCCESS) return result;
  const bool waits = is_pageable(dst) || is_pageable(src);
  const bool is_captured = stream.capture != nullptr;
  if (is_captured && waits && is_forbidden()) return ACL_ERROR_RT_CAPTURE_MODE_BLOCK_ASYNC;
  const Device& device = *stream.context->device;
  const bool is_between_devices = is_on_device(dst) && is_on_device(src);
  // The host's side is looked up when the copy is enqueued; between devices the chip finds out.
  if (is_between_devices && (!is_whole(copy) || !can_reach(device, dst) || !can_reach(device, src))) {
    return submit_fault(call, stream);
  }
  if (!is_whole(copy)) return refuse(ACL_ERROR_RT_PARAM_INVALID, "An address is not in memory of the device.");
  if (const Result result = submit_copy(call, stream, copy); result != ACL_SUCCESS) return result;
  return waits && !is_captured ? wait_for_work(call.lock, stream, stream.tail) : ACL_SUCCESS;
}

// What the vendor's runtime takes of a row, of rows, and of kinds: ApiErrorDecorator::MemCopy2DCheckParam and
// MemCopy2DSync. The API reference has the numbers for aclrtMemcpy2dAsync.
Result check_rows(const Copy& copy, aclrtMemcpyKind kind, bool is_at_once) {
  constexpr size_t kMostWidth = 5000000;
  constexpr size_t kMostRows = 5242880;
  if (copy.width > kMostWidth || copy.height > kMostRows) {
    return refuse(ACL_ERROR_RT_PARAM_INVALID,
                  "A row has 5000000 bytes at most, and there are 5242880 of them at most.");
  }
  if (kind == ACL_MEMCPY_HOST_TO_DEVICE || kind == ACL_MEMCPY_DEVICE_TO_HOST || kind == ACL_MEMCPY_DEFAULT) {
    return ACL_SUCCESS;
  }
  if (kind != ACL_MEMCPY_DEVICE_TO_DEVICE) return refuse(ACL_ERROR_INVALID_PARAM, "Rows within the host.");
  return is_at_once ? refuse(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "Rows within a device, at once.") : ACL_SUCCESS;
}

Copy plain(void* dst, const void* src, size_t bytes) { return {number(dst), bytes, number(src), bytes, bytes, 1}; }

// What aclrtMemset and its like take: memory of a device, or of the host from aclrtMallocHost.
Result check_fill(const void* memory, size_t most, uint64_t width, size_t count) {
  if (memory == nullptr) return refuse(ACL_ERROR_INVALID_PARAM, "A null pointer.");
  // aclrtMemsetD32 looks for itself, aclrtMemset leaves it to the runtime: src/acl/aclrt_impl/memory.cpp.
  const Result invalid = width > 1 ? ACL_ERROR_INVALID_PARAM : ACL_ERROR_RT_PARAM_INVALID;
  if (count > UINT64_MAX / width || count * width > most) return invalid;
  std::vector<Piece> pieces;
  if (find(memory) == nullptr || !driver().memory.resolve(number(memory), count * width, pieces)) {
    return refuse(invalid, "An address is not in memory that a device can use.");
  }
  return number(memory) % width == 0 ? ACL_SUCCESS : refuse(invalid, "The address is no multiple of 4.");
}

aclError fill_at_once(const char* name, void* memory, size_t most, uint32_t value, uint32_t width, size_t count) {
  return with_context(name, [&](Call& call) -> Result {
    if (is_forbidden()) return ACL_ERROR_RT_CAPTURE_MODE_NOT_SUPPORT;
    if (count == 0) return ACL_SUCCESS;
    if (const Result result = check_fill(memory, most, width, count); result != ACL_SUCCESS) return result;
    if (const Result result = hang_here(call); result != ACL_SUCCESS) return result;
    const std::shared_ptr<Context> context = call.context;
    Operation operation;
    operation.kind = OperationKind::kFill;
    operation.bytes = width * count;
    operation.run = [=](Stream&) { return fill_now(number(memory), value, width, count); };
    call.lock.unlock();
    const Result result = watch(*context, operation);
    call.lock.lock();
    return result;
  });
}

aclError fill_later(const char* name, void* memory, size_t most, uint32_t value, uint32_t width, size_t count,
                    aclrtStream handle) {
  return with_work(name, handle, [&](Call& call, Stream& stream) -> Result {
    if (count == 0) return ACL_SUCCESS;
    if (const Result result = check_fill(memory, most, width, count); result != ACL_SUCCESS) return result;
    return submit_fill(call, stream, number(memory), value, width, count);
  });
}

struct Batch {
  void** dsts;
  size_t* most;
  void** srcs;
  size_t* sizes;
  size_t count;
};

// Each copy of a batch by `copy(dst, most, src, bytes)`; in order, which is one of those allowed.
template <typename One>
Result copy_all(const Batch& batch, const aclrtMemcpyBatchAttr* attributes, const size_t* indexes,
                size_t attribute_count, size_t* failed, One&& copy) {
  if (failed != nullptr) *failed = SIZE_MAX;
  if (batch.dsts == nullptr || batch.most == nullptr || batch.srcs == nullptr || batch.sizes == nullptr ||
      batch.count == 0 || attributes == nullptr || indexes == nullptr || attribute_count == 0 ||
      attribute_count > batch.count || indexes[0] != 0) {
    return ACL_ERROR_INVALID_PARAM;
  }
  for (size_t i = 0; i < batch.count; ++i) {
    if (batch.sizes[i] == 0) continue;
    const Result result = copy(batch.dsts[i], batch.most[i], batch.srcs[i], batch.sizes[i]);
    if (result == ACL_SUCCESS) continue;
    if (failed != nullptr) *failed = i;
    return result;
  }
  return ACL_SUCCESS;
}

}  // namespace

// Of the kind: "reserved; what is possible is told from the pointers".
UNIFY_SIMULATOR_EXPORT aclError aclrtMemcpy(void* dst, size_t most, const void* src, size_t bytes, aclrtMemcpyKind) {
  return with_context("aclrtMemcpy", [&](Call& call) -> Result {
    if (bytes == 0) return ACL_SUCCESS;
    const Copy copy = plain(dst, src, bytes);
    if (const Result result = check_sizes(copy, most, dst, src); result != ACL_SUCCESS) return result;
    return copy_at_once(call, copy, dst, src);
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtMemcpyAsync(void* dst, size_t most, const void* src, size_t bytes,
                                                 aclrtMemcpyKind kind, aclrtStream handle) {
  return with_work("aclrtMemcpyAsync", handle, [&](Call& call, Stream& stream) -> Result {
    if (bytes == 0) return ACL_SUCCESS;
    const Copy copy = plain(dst, src, bytes);
    if (const Result result = check_sizes(copy, most, dst, src); result != ACL_SUCCESS) return result;
    return copy_later(call, stream, copy, kind, dst, src);
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtMemcpy2d(void* dst, size_t dst_pitch, const void* src, size_t src_pitch,
                                              size_t width, size_t height, aclrtMemcpyKind kind) {
  return with_context("aclrtMemcpy2d", [&](Call& call) -> Result {
    if (width == 0 || height == 0) return ACL_SUCCESS;
    const Copy copy{number(dst), dst_pitch, number(src), src_pitch, width, height};
    if (const Result result = check_sizes(copy, width, dst, src); result != ACL_SUCCESS) return result;
    if (const Result result = check_rows(copy, kind, true); result != ACL_SUCCESS) return result;
    if (const Result result = check_kind(kind, dst, src); result != ACL_SUCCESS) return result;
    return copy_at_once(call, copy, dst, src);
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtMemcpy2dAsync(void* dst, size_t dst_pitch, const void* src, size_t src_pitch,
                                                   size_t width, size_t height, aclrtMemcpyKind kind,
                                                   aclrtStream handle) {
  return with_work("aclrtMemcpy2dAsync", handle, [&](Call& call, Stream& stream) -> Result {
    if (width == 0 || height == 0) return ACL_SUCCESS;
    const Copy copy{number(dst), dst_pitch, number(src), src_pitch, width, height};
    if (const Result result = check_sizes(copy, width, dst, src); result != ACL_SUCCESS) return result;
    if (const Result result = check_rows(copy, kind, false); result != ACL_SUCCESS) return result;
    return copy_later(call, stream, copy, kind, dst, src);
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtMemcpyBatch(void** dsts, size_t* most, void** srcs, size_t* sizes, size_t count,
                                                 aclrtMemcpyBatchAttr* attributes, size_t* indexes,
                                                 size_t attribute_count, size_t* failed) {
  return with_context("aclrtMemcpyBatch", [&](Call& call) -> Result {
    return copy_all({dsts, most, srcs, sizes, count}, attributes, indexes, attribute_count, failed,
                    [&](void* dst, size_t room, const void* src, size_t bytes) -> Result {
                      const Copy copy = plain(dst, src, bytes);
                      if (const Result result = check_sizes(copy, room, dst, src); result != ACL_SUCCESS) return result;
                      return copy_at_once(call, copy, dst, src);
                    });
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtMemcpyBatchAsync(void** dsts, size_t* most, void** srcs, size_t* sizes,
                                                      size_t count, aclrtMemcpyBatchAttr* attributes, size_t* indexes,
                                                      size_t attribute_count, size_t* failed, aclrtStream handle) {
  return with_work("aclrtMemcpyBatchAsync", handle, [&](Call& call, Stream& stream) -> Result {
    return copy_all({dsts, most, srcs, sizes, count}, attributes, indexes, attribute_count, failed,
                    [&](void* dst, size_t room, const void* src, size_t bytes) -> Result {
                      const Copy copy = plain(dst, src, bytes);
                      if (const Result result = check_sizes(copy, room, dst, src); result != ACL_SUCCESS) return result;
                      return copy_later(call, stream, copy, ACL_MEMCPY_DEFAULT, dst, src);
                    });
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtMemset(void* memory, size_t most, int32_t value, size_t count) {
  return fill_at_once("aclrtMemset", memory, most, static_cast<uint32_t>(value), 1, count);
}

UNIFY_SIMULATOR_EXPORT aclError aclrtMemsetAsync(void* memory, size_t most, int32_t value, size_t count,
                                                 aclrtStream stream) {
  return fill_later("aclrtMemsetAsync", memory, most, static_cast<uint32_t>(value), 1, count, stream);
}

UNIFY_SIMULATOR_EXPORT aclError aclrtMemsetD32(void* memory, size_t most, uint32_t value, size_t count) {
  return fill_at_once("aclrtMemsetD32", memory, most, value, 4, count);
}

UNIFY_SIMULATOR_EXPORT aclError aclrtMemsetD32Async(void* memory, size_t most, uint32_t value, size_t count,
                                                    aclrtStream stream) {
  return fill_later("aclrtMemsetD32Async", memory, most, value, 4, count, stream);
}
