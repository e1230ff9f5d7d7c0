#include "memory.h"

#include <algorithm>
#include <mutex>
#include <new>

#include "device.h"
#include "error.h"
#include "failures.h"
#include "launch.h"
#include "leaks.h"
#include "reclaim.h"
#include "recording.h"
#include "stream.h"
#include "trace.h"

namespace unify {
namespace {

// Records a copy, or enqueues it by an entry of the backend's table. What is recorded throws what is wrong, but for
// UNSUPPORTED.
template <typename Args>
unify_status enqueue(Stream& stream, Args& args, const Place& dst, const Place& src, size_t bytes,
                     unify_status (*record)(Recording&, Stream&, const Args&),
                     unify_status (*unify_backend::*entry)(unify_stream, const Args*)) {
  Device& device = stream.device();
  args.struct_size = sizeof args;
  args.dst = dst.address;
  args.src = src.address;
  args.dst_device = dst.device == nullptr ? nullptr : dst.device->handle();
  args.src_device = src.device == nullptr ? nullptr : src.device->handle();
  const std::lock_guard<std::mutex> lock(stream.mutex());
  stream.require_current();
  if (stream.recording() != nullptr) {
    return record(*stream.recording(), stream, args);
  }
  (void)stream.goes_into_other_graph_locked();  // or throws
  const Enqueued enqueued(stream, {0, Operation::Kind::kCopy, stream.id(), nullptr, {}, bytes});
  args.operation = enqueued.number();
  const TraceScope span(stream, "copy");
  return enqueued.take((device.table().*entry)(stream.handle(), &args));
}

unify_status enqueue_copy(Stream& stream, const Place& dst, const Place& src, size_t bytes) {
  unify_copy_args args{};
  args.bytes = bytes;
  return enqueue(stream, args, dst, src, bytes, record_copy, &unify_backend::copy);
}

void note_use(Stream& stream, const Place& dst, const Place& src) {
  for (const Place* place : {&dst, &src}) {
    if (place->storage != nullptr) place->storage->used_on(stream);
  }
}

void copy_directly(Stream& stream, const Place& dst, const Place& src, size_t bytes) {
  const unify_status status = enqueue_copy(stream, dst, src, bytes);
  if (status != UNIFY_OK) throw_status(stream.device(), &stream, status, "copy of " + format_bytes(bytes));
  note_use(stream, dst, src);
}

bool can_reach(Device& device, Device& peer) {
  if (&device == &peer || peer.is_host_visible()) return true;
  if (&device.backend() != &peer.backend() || device.table().peer_access == nullptr) return false;
  uint32_t can = 0;
  const auto call = device.call();
  return device.table().peer_access(device.handle(), peer.handle(), 1, &can) == UNIFY_OK && can != 0;
}

bool is_reachable(Device& device, const Place& place) {
  return place.device == nullptr || can_reach(device, *place.device);
}

// Freeing it may wait for the device's driver.
class Pinned : public Reclaimable {
 public:
  Pinned(std::shared_ptr<Device> device, unify_address address) : device_(std::move(device)), address_(address) {}
  bool end() noexcept override {
    const auto call = device_->call();
    const unify_status status = device_->table().memory_free(device_->handle(), UNIFY_MEMORY_PINNED, address_);
    if (status != UNIFY_OK) device_->failures().note(Failures::kNoStream, status, "freeing pinned memory");
    return true;
  }

 private:
  std::shared_ptr<Device> device_;
  unify_address address_;
};

// A host-visible device's memory is the host's for every other backend.
Place seen_from(const Device& device, Place place) {
  const bool is_host = place.device != nullptr && place.device != &device && place.device->is_host_visible() &&
                       &place.device->backend() != &device.backend();
  return is_host ? Place{nullptr, place.address, place.storage} : place;
}

}  // namespace

void copy(Stream& stream, Place dst, Place src, size_t bytes) {
  if (bytes == 0) return;
  Device& device = stream.device();
  device.require_usable();
  dst = seen_from(device, dst);
  src = seen_from(device, src);
  if (is_reachable(device, dst) && is_reachable(device, src)) {
    copy_directly(stream, dst, src, bytes);
    return;
  }
  // Two devices with no way between them: through the host. The source's part is waited for, since its stream is
  // another one.
  stream.require_not_recorded("copy by way of the host, which waits for the stream,");
  const bool is_incoming = src.device != nullptr && src.device != &device;
  Device& other = is_incoming ? *src.device : *dst.device;
  const std::shared_ptr<Storage> staging = allocate_pinned(stream.device_ptr(), bytes);
  const Place host{nullptr, staging->address(), staging.get()};
  const std::shared_ptr<Stream> other_stream = other.current_stream();
  if (is_incoming) {
    copy_directly(*other_stream, host, src, bytes);
    other_stream->synchronize();
    copy_directly(stream, dst, host, bytes);
  } else {
    copy_directly(stream, host, src, bytes);
    stream.synchronize();
    copy_directly(*other_stream, dst, host, bytes);
  }
}

bool try_copy(Stream& stream, Place dst, Place src, size_t bytes) {
  const bool is_within = bytes > 0 && dst.device == &stream.device() && src.device == dst.device;
  if (!is_within) {
    copy(stream, dst, src, bytes);
    return true;
  }
  stream.device().require_usable();
  const unify_status status = enqueue_copy(stream, dst, src, bytes);
  if (status == UNIFY_UNSUPPORTED) return false;
  if (status != UNIFY_OK) throw_status(stream.device(), &stream, status, "copy of " + format_bytes(bytes));
  note_use(stream, dst, src);
  return true;
}

bool copy_rows(Stream& stream, Place dst, size_t dst_pitch, Place src, size_t src_pitch, size_t bytes, size_t rows) {
  Device& device = stream.device();
  device.require_usable();
  if (device.table().copy_rows == nullptr) return false;
  dst = seen_from(device, dst);
  src = seen_from(device, src);
  if (!is_reachable(device, dst) || !is_reachable(device, src)) return false;
  unify_copy_rows_args args{};
  args.bytes = bytes;
  args.rows = rows;
  args.dst_pitch = dst_pitch;
  args.src_pitch = src_pitch;
  const unify_status status =
      enqueue(stream, args, dst, src, bytes * rows, record_copy_rows, &unify_backend::copy_rows);
  if (status == UNIFY_OK) return true;
  if (status == UNIFY_UNSUPPORTED) return false;
  throw_status(device, &stream, status, "copy of " + std::to_string(rows) + " rows of " + format_bytes(bytes));
}

namespace {

// The narrowest value of 1, 2, 4 or 8 bytes whose repetition is the same: every backend repeats a byte.
void make_narrow(uint64_t& value, uint32_t& value_bytes, size_t& count) {
  while (value_bytes > 1) {
    const uint32_t bits = value_bytes * 4;
    const uint64_t low = value & ((uint64_t{1} << bits) - 1);
    if (((value >> bits) & ((uint64_t{1} << bits) - 1)) != low) return;
    value = low;
    value_bytes /= 2;
    count *= 2;
  }
}

// Fills, or records it. False where the backend repeats no value of this width.
bool enqueue_fill(Stream& stream, unify_fill_args& args) {
  Device& device = stream.device();
  if (args.value_bytes == 8) return false;
  if (stream.recording() != nullptr && !records_natively(stream) && !device.takes_fill(args.value_bytes)) return false;
  const std::lock_guard<std::mutex> lock(stream.mutex());
  stream.require_current();
  if (stream.recording() != nullptr) return record_fill(*stream.recording(), stream, args);
  (void)stream.goes_into_other_graph_locked();  // or throws
  const Enqueued enqueued(stream, {0, Operation::Kind::kFill, stream.id(), nullptr, {}, args.count * args.value_bytes});
  args.operation = enqueued.number();
  const TraceScope span(stream, "fill");
  const unify_status status = enqueued.take(device.table().fill(stream.handle(), &args));
  if (status == UNIFY_UNSUPPORTED) return false;
  if (status != UNIFY_OK) throw_status(device, &stream, status, "fill");
  return true;
}

}  // namespace

void fill(Stream& stream, Place dst, uint64_t value, uint32_t value_bytes, size_t count) {
  if (count == 0) return;
  stream.device().require_usable();
  make_narrow(value, value_bytes, count);
  unify_fill_args args{};
  args.struct_size = sizeof args;
  args.dst = dst.address;
  args.value = static_cast<uint32_t>(value);
  args.value_bytes = value_bytes;
  args.count = count;
  if (enqueue_fill(stream, args)) {
    if (dst.storage != nullptr) dst.storage->used_on(stream);
    return;
  }
  // The backend repeats no value of this width: a filled host buffer is copied.
  const size_t bytes = count * value_bytes;
  const std::shared_ptr<Storage> staging = allocate_pinned(stream.device_ptr(), bytes);
  auto* out = reinterpret_cast<unsigned char*>(static_cast<uintptr_t>(staging->address()));
  for (size_t i = 0; i < bytes; ++i) out[i] = static_cast<unsigned char>(value >> (8 * (i % value_bytes)));
  copy(stream, dst, {nullptr, staging->address(), staging.get()}, bytes);
}

bool has_pinned_memory(const Device& device) {
  unify_allocate_args args{};
  args.struct_size = sizeof args;
  args.kind = UNIFY_MEMORY_PINNED;
  args.bytes = 1;
  unify_address address = 0;
  const auto call = device.call();
  const unify_status status = device.table().memory_allocate(device.handle(), &args, &address);
  if (status == UNIFY_OK) device.table().memory_free(device.handle(), UNIFY_MEMORY_PINNED, address);
  return status != UNIFY_UNSUPPORTED;
}

std::shared_ptr<Storage> allocate_pinned(const std::shared_ptr<Device>& device, size_t bytes) {
  const char* caller = leaks::caller();
  const auto made = [&](std::shared_ptr<Storage> storage) {
    leaks::held(storage.get(), leaks::Kind::kPinned, *device, bytes, caller);
    return storage;
  };
  const unify_backend& table = device->table();
  unify_allocate_args args{};
  args.struct_size = sizeof args;
  args.kind = UNIFY_MEMORY_PINNED;
  args.bytes = std::max<size_t>(bytes, 1);
  unify_address address = 0;
  const auto call = device->call();
  const unify_status status = table.memory_allocate(device->handle(), &args, &address);
  if (status == UNIFY_OK) {
    return made(std::make_shared<Storage>(device, address, bytes, reclaimed(new Pinned(device, address))));
  }
  if (status != UNIFY_UNSUPPORTED) throw_status(*device, nullptr, status, "allocating pinned " + format_bytes(bytes));
  std::shared_ptr<void> memory(::operator new(args.bytes, std::align_val_t{64}),
                               [](void* p) { ::operator delete(p, std::align_val_t{64}); });
  const auto plain = static_cast<unify_address>(reinterpret_cast<uintptr_t>(memory.get()));
  return made(std::make_shared<Storage>(device, plain, bytes, std::move(memory)));
}

}  // namespace unify
