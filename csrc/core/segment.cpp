#include "segment.h"

#include <algorithm>
#include <utility>

#include "device.h"
#include "error.h"
#include "failures.h"

namespace unify {
namespace {

size_t round_up(size_t value, size_t to) { return (value + to - 1) / to * to; }

}  // namespace

std::unique_ptr<AddressRange> AddressRange::reserve(Device& device, size_t bytes, size_t chunk) {
  std::unique_ptr<AddressRange> range(new AddressRange(device));
  range->granularity_ = device.info().virtual_granularity;
  range->chunk_ = round_up(chunk, range->granularity_);
  range->bytes_ = round_up(bytes, range->granularity_);
  const unify_status status = device.table().virtual_reserve(device.handle(), range->bytes_, &range->begin_);
  if (status == UNIFY_OK) return range;
  range->forget();
  if (status != UNIFY_OUT_OF_MEMORY && status != UNIFY_UNSUPPORTED) {
    check(device, nullptr, status, "reserving addresses");
  }
  return nullptr;
}

AddressRange::~AddressRange() {
  if (is_gone_) return;
  const unify_status status = device_.table().virtual_release(device_.handle(), begin_, bytes_);
  if (status != UNIFY_OK) device_.failures().note(Failures::kNoStream, status, "releasing addresses");
}

size_t AddressRange::commit(unify_address begin, size_t least, size_t most) {
  if (least > most) return 0;
  size_t done = 0;
  try {
    while (done < least) {
      size_t bytes = chunk_;
      bool is_there = done + bytes <= most && commit_chunk(begin + done, bytes);
      if (!is_there) {
        bytes = std::min(chunk_, round_up(least - done, granularity_));  // what is missing, where a chunk is too much
        is_there = bytes < chunk_ && done + bytes <= most && commit_chunk(begin + done, bytes);
      }
      if (!is_there) {
        decommit(begin, begin + done);
        return 0;
      }
      done += bytes;
    }
  } catch (...) {
    decommit(begin, begin + done);
    throw;
  }
  return done;
}

bool AddressRange::commit_chunk(unify_address begin, size_t bytes) {
  const unify_status status = device_.table().virtual_commit(device_.handle(), begin, bytes);
  if (status == UNIFY_OUT_OF_MEMORY) return false;
  check(device_, nullptr, status, "putting memory behind addresses");
  chunks_[begin] = bytes;
  return true;
}

AddressRange::Part AddressRange::decommit(unify_address begin, unify_address end) noexcept {
  auto chunk = chunks_.lower_bound(begin);
  if (chunk == chunks_.end()) return {};
  Part part{chunk->first, 0};
  while (chunk != chunks_.end() && chunk->first + chunk->second <= end) {
    const unify_status status = device_.table().virtual_decommit(device_.handle(), chunk->first, chunk->second);
    if (status != UNIFY_OK) {
      device_.failures().note(Failures::kNoStream, status, "taking memory from behind addresses");
      break;
    }
    part.bytes += chunk->second;
    chunk = chunks_.erase(chunk);
  }
  return part;
}

std::optional<Segment::Gap> Segment::find_gap(size_t bytes) const {
  const auto joins = [&](const Block* block) { return block != nullptr && block->is_free && block->stream == stream; };
  Block* previous = nullptr;
  Block* next = first;
  while (true) {
    const unify_address begin = previous != nullptr ? previous->end() : range->begin();
    const unify_address end = next != nullptr ? next->address : range->end();
    if (begin < end) {
      const size_t before = joins(previous) ? previous->bytes : 0;
      const size_t after = joins(next) ? next->bytes : 0;
      const size_t most = end - begin;
      if (before + most >= bytes) return Gap{previous, begin, bytes - before, most};
      // It takes the whole gap, and a part of what follows.
      if (before + most + after >= bytes) return Gap{previous, begin, most, most};
    }
    if (next == nullptr) return std::nullopt;
    previous = std::exchange(next, next->next);
  }
}

}  // namespace unify
