// Copies, fills and pinned host memory.
#pragma once

#include <unify/backend.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "allocator.h"

namespace unify {

class Device;
class Stream;

// A place in memory: a device's, or the host's when `device` is null.
struct Place {
  Device* device;
  unify_address address;
  Storage* storage = nullptr;  // that it lies in, to be noted as used; null where the caller sees to its life
};

// Enqueues a copy on `stream`. Between two devices without a way between them it goes through pinned host memory, by
// way of the other device's current stream too. Recorded if the stream records.
void copy(Stream& stream, Place dst, Place src, size_t bytes);

// The same. False, and nothing done, where the backend does not copy between these places of one device.
[[nodiscard]] bool try_copy(Stream& stream, Place dst, Place src, size_t bytes);

// As copy, of `rows` rows of `bytes` bytes that lie further apart. False, and nothing done, where no call of the
// backend copies them: one of the devices cannot be reached, or there is no such call.
[[nodiscard]] bool copy_rows(Stream& stream, Place dst, size_t dst_pitch, Place src, size_t src_pitch, size_t bytes,
                             size_t rows);

// Enqueues the repetition of `value` (1, 2, 4 or 8 bytes wide).
void fill(Stream& stream, Place dst, uint64_t value, uint32_t value_bytes, size_t count);

// Whether the backend has such memory of its own.
[[nodiscard]] bool has_pinned_memory(const Device& device);

// Host memory that copies need not stage, or plain memory where the device has none of its own. 64-byte aligned.
std::shared_ptr<Storage> allocate_pinned(const std::shared_ptr<Device>& device, size_t bytes);

}  // namespace unify
