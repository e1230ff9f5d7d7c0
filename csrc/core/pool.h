// Segments of memory, cut into blocks: the free ones by stream and size, neighbours merged. Knows no device and no
// lock.
#pragma once

#include <unify/backend.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "event.h"

namespace unify {

class Stream;
struct Block;
struct Pool;

struct Segment {
  unify_address address;
  size_t bytes;
  bool is_small;  // holds blocks of up to kSmall
  Block* first;
};

struct Block {
  Segment* segment = nullptr;
  Pool* pool = nullptr;
  unify_address address = 0;
  size_t bytes = 0;
  size_t requested = 0;
  std::atomic<uint32_t> stream{0};  // id of the one whose order it follows; the default one's once that has ended
  uint32_t generation = 0;          // of the device
  bool is_free = true;
  Block* previous = nullptr;  // neighbours in the segment
  Block* next = nullptr;
  std::vector<std::shared_ptr<Stream>> used_on;  // other streams
  std::vector<Mark> waits_for;                   // freed, and these have still to pass
  std::shared_ptr<Pool> keeps;                   // a graph's pool lives as long as its blocks
  Block* next_let_go = nullptr;
};

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
  // far too large.
  enum class Choice { kAny, kSegment, kLastResort };
  Block* find(size_t bytes, uint32_t stream, Choice choice = Choice::kAny);
  Block* add_segment(unify_address address, size_t bytes, bool is_small);  // one block, on no list
  void split(Block* block, size_t bytes);                                  // if the rest is worth it
  void release(Block* block);                                              // to the free ones, merged with neighbours
  void insert(Block* block) { free_of(block)[block->stream].insert(block); }
  void erase(Block* block) { free_of(block)[block->stream].erase(block); }

 private:
  Free& free_of(const Block* block) { return block->segment->is_small ? free_small : free_large; }
};

}  // namespace unify
