#include "copy.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace unify::simulator {
namespace {

using Pieces = std::vector<Piece>;

bool is_pageable(const Pieces& pieces) { return !pieces.empty() && pieces.front().range == nullptr; }

Direction direction_of(const Pieces& dst, const Pieces& src) {
  const auto device = [](const Pieces& pieces) {
    return pieces.empty() || pieces.front().range == nullptr ? -1 : pieces.front().range->device;
  };
  if (device(dst) < 0) return device(src) < 0 ? Direction::kHostToHost : Direction::kDeviceToHost;
  if (device(src) < 0) return Direction::kHostToDevice;
  return device(dst) == device(src) ? Direction::kWithinDevice : Direction::kBetweenDevices;
}

// Both sides of a copy, row after row.
bool resolve(const Copy& copy, Pieces& dst, Pieces& src) {
  const Memory& memory = driver().memory;
  for (uint64_t row = 0; row < copy.height; ++row) {
    if (!memory.resolve(copy.dst + row * copy.dst_pitch, copy.width, dst) ||
        !memory.resolve(copy.src + row * copy.src_pitch, copy.width, src)) {
      return false;
    }
  }
  return true;
}

void move(const Pieces& dst, const Pieces& src) {
  auto from = src.begin();
  uint64_t taken = 0;
  for (const Piece& to : dst) {
    for (uint64_t given = 0; given < to.bytes;) {
      const uint64_t part = std::min(to.bytes - given, from->bytes - taken);
      std::memmove(to.alias + given, from->alias + taken, part);
      given += part;
      taken += part;
      if (taken == from->bytes) {
        ++from;
        taken = 0;
      }
    }
  }
}

void flip_bits(const Pieces& pieces, uint32_t bits) {
  for (uint32_t i = 0; i < bits; ++i) {
    const Piece& piece = pieces[i % pieces.size()];
    char& byte = piece.alias[(piece.bytes / 2 + i / 8) % piece.bytes];
    byte = static_cast<char>(byte ^ (1 << i % 8));
  }
}

// Lets the time pass that the bytes take at the bandwidth asked for.
void pay_time(Lock& lock, const Context& context, uint64_t bytes) {
  const double bandwidth = context.device->faults.copy_bytes_per_second;
  if (bandwidth <= 0) return;
  const double seconds = static_cast<double>(bytes) / bandwidth;
  const auto until = Clock::now() + std::chrono::microseconds(static_cast<int64_t>(std::min(seconds, 1e6) * 1e6));
  while (Clock::now() < until && result_of(context) == kSuccess) driver().progress.wait_until(lock, until);
}

// Addresses are looked up when the copy runs: a graph may be launched after memory was freed.
Result run(const Copy& copy, const Context& context, const std::vector<char>& staged, uint32_t wrong_bits) {
  Pieces dst;
  Pieces src;
  Lock lock(driver().mutex);
  pay_time(lock, context, copy.width * copy.height);
  if (result_of(context) != kSuccess) return kSuccess;
  if (!resolve(copy, dst, src)) return kResults.illegal_copy;
  if (!staged.empty()) src = {{nullptr, const_cast<char*>(staged.data()), staged.size()}};
  lock.unlock();
  move(dst, src);
  flip_bits(dst, wrong_bits);
  lock.lock();  // the last reference to memory that was freed meanwhile is let go with the mutex
  dst.clear();
  src.clear();
  return kSuccess;
}

std::vector<char> stage(const Copy& copy) {
  std::vector<char> staged(copy.width * copy.height);
  for (uint64_t row = 0; row < copy.height; ++row) {
    const void* from = reinterpret_cast<const void*>(static_cast<uintptr_t>(copy.src + row * copy.src_pitch));
    std::memcpy(staged.data() + row * copy.width, from, copy.width);
  }
  return staged;
}

template <typename Value>
void fill_pieces(const Pieces& pieces, uint32_t value) {
  for (const Piece& piece : pieces) {
    std::fill_n(reinterpret_cast<Value*>(piece.alias), piece.bytes / sizeof(Value), static_cast<Value>(value));
  }
}

Result run_fill(uint64_t address, uint32_t value, uint32_t width, uint64_t count) {
  Pieces pieces;
  Lock lock(driver().mutex);
  if (!driver().memory.resolve(address, width * count, pieces)) return kResults.illegal_copy;
  lock.unlock();
  if (width == 1) fill_pieces<uint8_t>(pieces, value);
  if (width == 2) fill_pieces<uint16_t>(pieces, value);
  if (width == 4) fill_pieces<uint32_t>(pieces, value);
  lock.lock();
  pieces.clear();
  return kSuccess;
}

}  // namespace

Direction direction_of(const Copy& copy) {
  Pieces dst;
  Pieces src;
  driver().memory.resolve(copy.dst, 1, dst);
  driver().memory.resolve(copy.src, 1, src);
  return direction_of(dst, src);
}

Result copy_now(const Copy& copy, const Context& context, uint32_t wrong_bits) {
  return run(copy, context, {}, wrong_bits);
}

Result fill_now(uint64_t address, uint32_t value, uint32_t width, uint64_t count) {
  return run_fill(address, value, width, count);
}

Result submit_copy(Call& call, Stream& stream, const Copy& copy) {
  if (copy.width == 0 || copy.height == 0) return kSuccess;
  if (copy.height > 1 && (copy.dst_pitch < copy.width || copy.src_pitch < copy.width)) return kResults.invalid_value;
  Pieces dst;
  Pieces src;
  if (!resolve(copy, dst, src)) return kResults.invalid_value;
  const bool is_captured = stream.capture != nullptr;
  const bool writes_pageable = is_pageable(dst);
  auto staged = std::make_shared<std::vector<char>>();
  if (is_pageable(src) && !is_captured) *staged = stage(copy);
  const uint32_t wrong_bits = call.fault.kind == Fault::Kind::kCorrupt ? call.fault.bits : 0;
  Operation operation;
  operation.kind = OperationKind::kCopy;
  operation.bytes = copy.width * copy.height;
  operation.direction = direction_of(dst, src);
  operation.run = [copy, staged, wrong_bits, context = stream.context](Stream&) {
    return run(copy, *context, *staged, wrong_bits);
  };
  if (const Result result = submit(call, stream, std::move(operation)); result != kSuccess) return result;
  return writes_pageable && !is_captured ? wait_for_stream(call.lock, stream) : kSuccess;
}

Result submit_fill(Call& call, Stream& stream, uint64_t address, uint32_t value, uint32_t width, uint64_t count) {
  if (count == 0) return kSuccess;
  if (address % width != 0 || count > UINT64_MAX / width) return kResults.invalid_value;
  Pieces pieces;
  if (!driver().memory.resolve(address, width * count, pieces) || is_pageable(pieces)) return kResults.invalid_value;
  Operation operation;
  operation.kind = OperationKind::kFill;
  operation.bytes = width * count;
  operation.run = [=](Stream&) { return run_fill(address, value, width, count); };
  return submit(call, stream, std::move(operation));
}

}  // namespace unify::simulator
