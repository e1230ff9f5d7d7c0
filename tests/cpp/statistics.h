// What an allocator says of itself adds up, block by block.
#pragma once

#include "check.h"
#include "core/allocator.h"

namespace unify {

// `has_gaps`: blocks may lie apart, as those of an expandable segment.
inline void check_statistics(const Allocator& allocator, bool has_gaps = false) {
  const MemoryStatistics statistics = allocator.statistics();
  uint64_t reserved = 0;
  uint64_t allocated = 0;
  uint64_t waiting = 0;
  for (const SegmentSnapshot& segment : allocator.snapshot()) {
    uint64_t next = segment.address;
    uint64_t bytes = 0;
    for (const BlockSnapshot& block : segment.blocks) {
      CHECK(block.address == next || (has_gaps && block.address > next));
      next = block.address + block.bytes;
      bytes += block.bytes;
      if (block.state == "allocated") allocated += block.bytes;
      if (block.state == "waiting") waiting += block.bytes;
    }
    CHECK(bytes == segment.bytes);
    reserved += segment.bytes;
  }
  CHECK(statistics.reserved_bytes == reserved);
  CHECK(statistics.allocated_bytes == allocated);
  // Work may pass between two questions; what waits becomes less then.
  CHECK(statistics.waiting_bytes >= waiting && waiting >= allocator.statistics().waiting_bytes);
  CHECK(statistics.reserved_bytes_peak >= reserved && statistics.allocated_bytes_peak >= allocated);
}

}  // namespace unify
