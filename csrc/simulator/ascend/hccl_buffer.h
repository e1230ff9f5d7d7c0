// The buffers of collective operations: memory of the rank's own device, which it writes at its alias, and memory of
// other ranks' devices, which it reads where it maps their memory files.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "hccl_meeting.h"
#include "simulator/driver.h"

namespace unify::simulator {

// Bytes in several places of this process's.
class Spans {
 public:
  void add(char* at, uint64_t bytes);
  [[nodiscard]] uint64_t bytes() const noexcept { return bytes_; }
  // The bytes from an offset on that lie together: at least one if there is one, no more than `most`.
  struct Part {
    char* at;
    uint64_t bytes;
  };
  [[nodiscard]] Part part(uint64_t offset, uint64_t most) const;

 private:
  std::vector<Part> parts_;
  std::vector<uint64_t> ends_;
  uint64_t bytes_ = 0;
};

void copy(const Spans& to, uint64_t to_offset, const Spans& from, uint64_t from_offset, uint64_t bytes);

// Memory of a device that a rank gives or takes. Holds it. With the driver's mutex, like what it holds.
class Buffer {
 public:
  // False with `why` if it is not the device's own memory, or in too many pieces.
  bool find(const Device& device, uint64_t address, uint64_t bytes, std::string& why);
  [[nodiscard]] Spans spans() const;
  void show(SharedBuffer& out) const;

 private:
  std::vector<Piece> pieces_;
  std::vector<Segment> segments_;  // in the device's memory file
  int file_ = -1;
};

// Files of other ranks' devices, as they are mapped here.
class Files {
 public:
  // False if the file cannot be opened, or is shorter.
  bool find(const SharedBuffer& buffer, Spans& out);

  struct Mapped;

 private:
  std::shared_ptr<Mapped> open(const SharedFile& file);
  std::mutex mutex_;
  std::vector<std::shared_ptr<Mapped>> mapped_;
};

}  // namespace unify::simulator
