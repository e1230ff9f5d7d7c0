#include "shared_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

namespace unify::simulator {

static_assert(sizeof(SharedFile) + 8 <= kHandleBytes, "fits into a handle");

void identify(SharedFile& shared, int file) {
  struct stat status {};
  if (fstat(file, &status) != 0) return;
  shared.volume = status.st_dev;
  shared.number = status.st_ino;
}

void write_handle(char (&handle)[kHandleBytes], const char (&magic)[8], SharedFile shared, int file) {
  identify(shared, file);
  std::memset(handle, 0, sizeof handle);
  std::memcpy(handle, magic, sizeof magic);
  std::memcpy(handle + sizeof magic, &shared, sizeof shared);
}

bool read_handle(const char (&handle)[kHandleBytes], const char (&magic)[8], SharedFile& out) {
  if (std::memcmp(handle, magic, sizeof magic) != 0) return false;
  std::memcpy(&out, handle + sizeof magic, sizeof out);
  return out.process > 0 && out.file >= 0;
}

int open_descriptor(int64_t process, int32_t file, int flags) {
  char path[64];
  std::snprintf(path, sizeof path, "/proc/%lld/fd/%d", static_cast<long long>(process), file);
  return open(path, flags | O_CLOEXEC);
}

int open_shared(const SharedFile& shared, uint64_t least_bytes) {
  const int file = open_descriptor(shared.process, shared.file, O_RDWR);
  struct stat status {};
  if (file < 0) return -1;
  const bool is_same = fstat(file, &status) == 0 && status.st_dev == shared.volume && status.st_ino == shared.number;
  if (is_same && status.st_size >= 0 && static_cast<uint64_t>(status.st_size) >= least_bytes) return file;
  close(file);
  return -1;
}

}  // namespace unify::simulator
