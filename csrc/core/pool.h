// Segments and their blocks: the free ones by stream and size, neighbours merged. Knows no device and no lock.
#pragma once

#include <unify/backend.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <set>

#include "segment.h"

namespace unify {

// One for everybody, and one for each graph.
struct Pool {
  static constexpr size_t kSmall = size_t{1} << 20;  // up to here blocks share segments of kSmallSegment
  static constexpr size_t kSmallSegment = size_t{2} << 20;
  static constexpr size_t kLargeSegment = size_t{20} << 20;  // medium blocks share these
  static constexpr size_t kOwnSegment = size_t{10} << 20;    // from here on a block has a segment of its own size

  struct BySize {
    bool operator()(const Block* a, const Block* b) const {
      return a->bytes != b->bytes ? a->bytes < b->bytes : a->address < b->address;
    }
  };
  using Free = std::map<uint32_t, std::set<Block*, BySize>>;
  std::list<Segment> segments;
  Free free_small;
  Free free_large;

  // To a size class: fewer sizes, more reuse.
  static size_t rounded(size_t bytes, size_t alignment);
  // What to take from the device for a block, the usual size first; smaller ones where that is too much.
  static std::array<size_t, 3> segment_sizes(size_t bytes);

  // The best free block for a stream, taken off its list, or null: any, one that is all of its segment, or even one
  // far too large, which an expandable segment, having no other, also gives to whoever takes any.
  enum class Choice { kAny, kSegment, kLastResort };
  Block* find(size_t bytes, uint32_t stream, Choice choice = Choice::kAny);
  Block* add_segment(unify_address address, size_t bytes, bool is_small);  // one block, on no list
  void split(Block* block, size_t bytes);                                  // if the rest is worth it
  void release(Block* block);                                              // to the free ones, merged with neighbours
  static bool are_adjacent(const Block* left, const Block* right) { return left->end() == right->address; }
  void join(Block* left, Block* right);  // free neighbours, of one stream from now on
  struct Idle {
    size_t bytes = 0;
    size_t largest = 0;  // block
  };
  [[nodiscard]] Idle idle() const;  // what is free

  // Expandable segments of a stream: a gap where one can grow for a block, if there is any; what grew, as a block on no
  // list; and what a free block loses.
  struct Growth {
    Segment* segment;
    Segment::Gap gap;
  };
  std::optional<Growth> find_growth(size_t bytes, uint32_t stream);
  Segment& add_range(std::unique_ptr<AddressRange> range, bool is_small, uint32_t stream);
  Block* add_memory(const Growth& growth, size_t bytes);
  void remove_memory(Block* block, AddressRange::Part part);
  void insert(Block* block) { free_of(block)[block->stream].insert(block); }
  void erase(Block* block) { free_of(block)[block->stream].erase(block); }

 private:
  Block* cut(Block* block, size_t bytes);  // returns what is behind, on no list
  Free& free_of(const Block* block) { return block->segment->is_small ? free_small : free_large; }
};

}  // namespace unify
