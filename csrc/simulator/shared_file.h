// What an interprocess handle holds: a memory file of another process, and which part of it is meant.
#pragma once

#include <cstddef>
#include <cstdint>

namespace unify::simulator {

constexpr size_t kHandleBytes = 64;

struct SharedFile {
  int64_t process = 0;
  int32_t file = 0;  // its descriptor there
  int32_t device = 0;
  uint64_t offset = 0;
  uint64_t bytes = 0;
  uint64_t volume = 0;  // which file it was, should the descriptor be another one's by now
  uint64_t number = 0;
};

// Notes which file it is. `file` is a descriptor of this process for it.
void identify(SharedFile& shared, int file);
void write_handle(char (&handle)[kHandleBytes], const char (&magic)[8], SharedFile shared, int file);
// False if it is no handle of this kind.
bool read_handle(const char (&handle)[kHandleBytes], const char (&magic)[8], SharedFile& out);

// What another process has open under a descriptor, whatever it is; or -1.
int open_descriptor(int64_t process, int32_t file, int flags);
// A descriptor of this process for the file, or -1: it is gone, or another user's.
int open_shared(const SharedFile& shared, uint64_t least_bytes);

}  // namespace unify::simulator
