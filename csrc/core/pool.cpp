#include "pool.h"

#include <algorithm>
#include <utility>

namespace unify {
namespace {

constexpr size_t kGranule = 512;
constexpr size_t kSplitRest = size_t{1} << 20;  // a large block is split only if this much is left

size_t round_up(size_t value, size_t to) { return (value + to - 1) / to * to; }

bool is_whole_segment(const Block* block) { return block->previous == nullptr && block->next == nullptr; }

// Better kept for a request of its size.
bool is_far_too_large(const Block* block, size_t bytes) {
  return block->bytes > Pool::kLargeSegment && block->bytes > 2 * bytes;
}

Block* merge(Block* left, Block* right) {
  left->bytes += right->bytes;
  left->next = right->next;
  if (left->next != nullptr) left->next->previous = left;
  delete right;
  return left;
}

}  // namespace

size_t Pool::rounded(size_t bytes, size_t alignment) { return round_up(bytes, std::max(kGranule, alignment)); }

std::array<size_t, 3> Pool::segment_sizes(size_t bytes) {
  const size_t exact = round_up(bytes, kSmallSegment);
  return {bytes <= kSmall || bytes >= kOwnSegment ? exact : kLargeSegment, exact, bytes};
}

Block* Pool::find(size_t bytes, uint32_t stream, Choice choice) {
  Free& free = bytes <= kSmall ? free_small : free_large;
  const auto blocks = free.find(stream);
  if (blocks == free.end()) return nullptr;
  Block key{};
  key.bytes = bytes;
  const auto is_fitting = [&](const Block* block) {
    if (choice == Choice::kSegment && !is_whole_segment(block)) return false;
    const bool may_split = choice == Choice::kLastResort || (choice == Choice::kAny && block->segment->is_expandable());
    return may_split || !is_far_too_large(block, bytes);
  };
  const auto best = std::find_if(blocks->second.lower_bound(&key), blocks->second.end(), is_fitting);
  if (best == blocks->second.end()) return nullptr;
  Block* block = *best;
  blocks->second.erase(best);
  return block;
}

Block* Pool::add_segment(unify_address address, size_t bytes, bool is_small) {
  Segment& segment = segments.emplace_back();
  segment.address = address;
  segment.is_small = is_small;
  return add_memory({&segment, {nullptr, address, bytes, bytes}}, bytes);
}

std::optional<Pool::Growth> Pool::find_growth(size_t bytes, uint32_t stream) {
  for (Segment& segment : segments) {
    if (!segment.is_expandable() || segment.stream != stream || segment.is_small != (bytes <= kSmall)) continue;
    if (const auto gap = segment.find_gap(bytes)) return Growth{&segment, *gap};
  }
  return std::nullopt;
}

Segment& Pool::add_range(std::unique_ptr<AddressRange> range, bool is_small, uint32_t stream) {
  Segment& segment = segments.emplace_back();
  segment.address = range->begin();
  segment.is_small = is_small;
  segment.range = std::move(range);
  segment.stream = stream;
  return segment;
}

Block* Pool::add_memory(const Growth& growth, size_t bytes) {
  Segment& segment = *growth.segment;
  auto* block = new Block{};
  block->segment = &segment;
  block->pool = this;
  block->address = growth.gap.begin;
  block->bytes = bytes;
  block->previous = growth.gap.previous;
  block->next = block->previous != nullptr ? block->previous->next : segment.first;
  (block->previous != nullptr ? block->previous->next : segment.first) = block;
  if (block->next != nullptr) block->next->previous = block;
  segment.bytes += bytes;
  return block;
}

void Pool::remove_memory(Block* block, AddressRange::Part part) {
  erase(block);
  Block* gone = block;
  if (part.begin > block->address) {
    gone = cut(block, part.begin - block->address);
    insert(block);
  }
  if (gone->bytes > part.bytes) insert(cut(gone, part.bytes));
  (gone->previous != nullptr ? gone->previous->next : gone->segment->first) = gone->next;
  if (gone->next != nullptr) gone->next->previous = gone->previous;
  gone->segment->bytes -= part.bytes;
  delete gone;
}

Block* Pool::cut(Block* block, size_t bytes) {
  auto* tail = new Block{};
  tail->segment = block->segment;
  tail->pool = block->pool;
  tail->address = block->address + bytes;
  tail->bytes = block->bytes - bytes;
  tail->stream = block->stream.load();
  tail->generation = block->generation;
  tail->previous = block;
  tail->next = block->next;
  if (tail->next != nullptr) tail->next->previous = tail;
  block->next = tail;
  block->bytes = bytes;
  return tail;
}

void Pool::join(Block* left, Block* right) {
  erase(right);
  right->stream = left->stream.load();
  release(right);
}

Pool::Idle Pool::idle() const {
  Idle idle;
  for (const Segment& segment : segments) {
    for (const Block* block = segment.first; block != nullptr; block = block->next) {
      if (!block->is_free) continue;
      idle.bytes += block->bytes;
      idle.largest = std::max(idle.largest, block->bytes);
    }
  }
  return idle;
}

void Pool::split(Block* block, size_t bytes) {
  if (block->bytes - bytes >= (bytes <= kSmall ? kGranule : kSplitRest)) insert(cut(block, bytes));
}

void Pool::release(Block* block) {
  block->is_free = true;
  const auto joins = [&](const Block* other) {
    return other != nullptr && other->is_free && other->stream == block->stream;
  };
  if (joins(block->next) && are_adjacent(block, block->next)) {
    erase(block->next);
    block = merge(block, block->next);
  }
  if (joins(block->previous) && are_adjacent(block->previous, block)) {
    erase(block->previous);
    block = merge(block->previous, block);
  }
  insert(block);
}

}  // namespace unify
