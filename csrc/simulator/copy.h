// Copies and fills, by addresses of any kind.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "driver.h"

namespace unify::simulator {

// Rows of bytes; one row is a plain copy.
struct Copy {
  uint64_t dst = 0;
  uint64_t dst_pitch = 0;
  uint64_t src = 0;
  uint64_t src_pitch = 0;
  uint64_t width = 0;
  uint64_t height = 1;
};

// Checks all addresses, then enqueues the copy. Host memory that the driver does not know is read before this returns,
// and written before this returns; a copy that is captured does both when the graph runs.
Result submit_copy(Call& call, Stream& stream, const Copy& copy);

// Between what memory it is, by its first bytes. With the mutex.
Direction direction_of(const Copy& copy);

// The same at once, on the thread that calls it. Without the mutex.
Result copy_now(const Copy& copy, const Context& context, uint32_t wrong_bits);

// Fills `count` values of `width` bytes from an address that devices can use.
Result submit_fill(Call& call, Stream& stream, uint64_t address, uint32_t value, uint32_t width, uint64_t count);
Result fill_now(uint64_t address, uint32_t value, uint32_t width, uint64_t count);

}  // namespace unify::simulator
