#include "pool.h"

#include <algorithm>

namespace unify {
namespace {

constexpr size_t kGranule = 512;
constexpr size_t kSplitRest = size_t{1} << 20;  // a large block is split only if this much is left

size_t round_up(size_t value, size_t to) { return (value + to - 1) / to * to; }

bool is_whole_segment(const Block* block) { return block->previous == nullptr && block->next == nullptr; }

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
  auto best = blocks->second.lower_bound(&key);
  if (choice == Choice::kSegment) best = std::find_if(best, blocks->second.end(), is_whole_segment);
  if (best == blocks->second.end()) return nullptr;
  Block* block = *best;
  // A block far too large is better kept for a request of its size.
  if (choice != Choice::kLastResort && block->bytes > kLargeSegment && block->bytes > 2 * bytes) return nullptr;
  blocks->second.erase(best);
  return block;
}

Block* Pool::add_segment(unify_address address, size_t bytes, bool is_small) {
  segments.push_back({address, bytes, is_small, nullptr});
  auto* block = new Block{};
  block->segment = &segments.back();
  block->pool = this;
  block->address = address;
  block->bytes = bytes;
  segments.back().first = block;
  return block;
}

void Pool::split(Block* block, size_t bytes) {
  const size_t rest = block->bytes - bytes;
  if (rest < (bytes <= kSmall ? kGranule : kSplitRest)) return;
  auto* tail = new Block{};
  tail->segment = block->segment;
  tail->pool = block->pool;
  tail->address = block->address + bytes;
  tail->bytes = rest;
  tail->stream = block->stream.load();
  tail->generation = block->generation;
  tail->previous = block;
  tail->next = block->next;
  if (tail->next != nullptr) tail->next->previous = tail;
  block->next = tail;
  block->bytes = bytes;
  insert(tail);
}

void Pool::release(Block* block) {
  block->is_free = true;
  const auto joins = [&](const Block* other) {
    return other != nullptr && other->is_free && other->stream == block->stream;
  };
  if (joins(block->next)) {
    erase(block->next);
    block = merge(block, block->next);
  }
  if (joins(block->previous)) {
    erase(block->previous);
    block = merge(block->previous, block);
  }
  insert(block);
}

}  // namespace unify
