// Segments: memory of a device, cut into blocks. An ordinary segment is allocated as a whole. An expandable one is a
// range of addresses that gets memory where a block needs it, and gives back what lies idle, chunk by chunk.
#pragma once

#include <unify/backend.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "event.h"

namespace unify {

class Device;
class Stream;
struct Block;
struct Pool;

// Addresses that were reserved by one call, and the chunks of them that have memory. Calls of the device as the
// allocator's: under its mutex.
class AddressRange {
 public:
  // At least `bytes`, which grow by `chunk`. Null where the device gives no addresses.
  static std::unique_ptr<AddressRange> reserve(Device& device, size_t bytes, size_t chunk);
  ~AddressRange();                             // without a chunk
  AddressRange(const AddressRange&) = delete;  // it owns the addresses
  AddressRange& operator=(const AddressRange&) = delete;

  [[nodiscard]] unify_address begin() const noexcept { return begin_; }
  [[nodiscard]] unify_address end() const noexcept { return begin_ + bytes_; }

  // Puts memory behind the addresses from `begin` on: in whole chunks while they fit into `most`, in all at least
  // `least`. Returns how many bytes; 0, and nothing changed, when the device has no more. Throws what else went wrong.
  size_t commit(unify_address begin, size_t least, size_t most);
  // Takes away the chunks that lie wholly in [begin, end). Returns what has no memory any more.
  struct Part {
    unify_address begin = 0;
    size_t bytes = 0;
  };
  Part decommit(unify_address begin, unify_address end) noexcept;
  void forget() noexcept { is_gone_ = true; }  // a reset took it away

 private:
  explicit AddressRange(Device& device) : device_(device) {}
  bool commit_chunk(unify_address begin, size_t bytes);
  Device& device_;
  unify_address begin_ = 0;
  size_t bytes_ = 0;
  size_t chunk_ = 0;
  size_t granularity_ = 0;
  bool is_gone_ = false;
  std::map<unify_address, size_t> chunks_;  // a decommit takes exactly what one commit gave
};

struct Segment {
  unify_address address = 0;
  size_t bytes = 0;       // of memory
  bool is_small = false;  // holds blocks of up to Pool::kSmall
  Block* first = nullptr;
  std::unique_ptr<AddressRange> range;  // of an expandable one
  uint32_t stream = 0;                  // for which an expandable one grows

  [[nodiscard]] bool is_expandable() const noexcept { return range != nullptr; }

  // Addresses of an expandable segment without memory, between two blocks or behind the last.
  struct Gap {
    Block* previous = nullptr;  // the block before it, or null
    unify_address begin = 0;
    size_t least = 0;  // of memory that a block needs here, free neighbours of its stream counted
    size_t most = 0;
  };
  // For a block that is larger than any free one here.
  [[nodiscard]] std::optional<Gap> find_gap(size_t bytes) const;
};

struct Block {
  // In place of a stream's id: of what a graph of another library uses, in no stream's order.
  static constexpr uint32_t kNoStream = UINT32_MAX;
  Segment* segment = nullptr;
  Pool* pool = nullptr;
  unify_address address = 0;
  size_t bytes = 0;
  size_t requested = 0;
  std::atomic<uint32_t> stream{0};  // id of the one whose order it follows; the default one's once that has ended
  uint32_t generation = 0;          // of the device
  bool is_free = true;
  Block* previous = nullptr;  // in the segment, with a gap between where an expandable one has no memory
  Block* next = nullptr;
  std::vector<std::shared_ptr<Stream>> used_on;  // other streams
  std::vector<Mark> waits_for;                   // freed, and these have still to pass
  std::shared_ptr<Pool> keeps;                   // a graph's pool lives as long as its blocks
  Block* next_let_go = nullptr;

  [[nodiscard]] unify_address end() const noexcept { return address + bytes; }
};

}  // namespace unify
