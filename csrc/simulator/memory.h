// Device memory that the host cannot touch: pages of a memory file, seen without access at the device's address and
// with access at an alias that only the simulator's copies use. Everything here is used with the driver's mutex.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

namespace unify::simulator {

constexpr size_t kPage = 4096;
constexpr size_t kGranularity = size_t{2} << 20;  // of the virtual memory functions
constexpr int kMaxDevices = 16;

constexpr uint64_t round_up(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

// The memory of one device: addresses from a range of its own, several times as large as the memory, so that free
// memory is never in too many pieces. Pages exist from their first use on.
class Arena {
 public:
  Arena(int device, uint64_t memory_bytes) : device_(device), total_(memory_bytes) {}

  // 0 if the memory is used up, or if the process has no address space left.
  uint64_t take(uint64_t bytes, uint64_t alignment);
  void give_back(uint64_t address, uint64_t bytes);

  // Shows pages of this memory, still without access, at other addresses too.
  bool show(uint64_t address, uint64_t where, uint64_t bytes) const;

  [[nodiscard]] bool contains(uint64_t address) const noexcept { return address - base_ < range_; }
  [[nodiscard]] char* alias(uint64_t address) const noexcept { return alias_ + (address - base_); }
  [[nodiscard]] uint64_t offset(uint64_t address) const noexcept { return address - base_; }
  [[nodiscard]] int file() const noexcept { return file_; }
  [[nodiscard]] int device() const noexcept { return device_; }
  [[nodiscard]] uint64_t total() const noexcept { return total_; }
  [[nodiscard]] uint64_t used() const noexcept { return used_; }
  [[nodiscard]] uint64_t peak() const noexcept { return peak_; }  // the most that was in use at a time

 private:
  bool reserve();
  int device_;
  uint64_t total_;
  uint64_t used_ = 0;
  uint64_t peak_ = 0;
  int file_ = -1;
  uint64_t base_ = 0;
  uint64_t range_ = 0;
  char* alias_ = nullptr;
  std::map<uint64_t, uint64_t> free_;  // begin → end
};

// Pages of an arena. Freed with the last reference: a copy that runs holds one.
struct Block {
  Block(Arena& arena, uint64_t address, uint64_t bytes) : arena(arena), address(address), bytes(bytes) {}
  ~Block() { arena.give_back(address, bytes); }
  Block(const Block&) = delete;  // it owns the pages
  Block& operator=(const Block&) = delete;
  Arena& arena;
  uint64_t address;
  uint64_t bytes;
};

enum class RangeKind { kDevice, kMapped, kPinned, kManaged, kImported };

// Addresses that calls and kernels may name.
struct Range {
  ~Range();
  RangeKind kind = RangeKind::kDevice;
  uint64_t address = 0;
  uint64_t bytes = 0;
  uint64_t asked_bytes = 0;  // without what rounding added
  char* alias = nullptr;
  int device = -1;              // whose memory it is; -1: the host's
  const void* owner = nullptr;  // the context that frees it when it is reset, or null
  int made_on = -1;             // pinned, managed: the device in whose context it was made
  uint32_t access = 0;          // a bit for each device whose kernels may use it, besides peers
  bool is_open = false;         // while such kernels run
  bool is_borrowed = false;     // the program's own pages, which it registered
  bool owns_alias = false;      // mapped: of another process's memory
  std::shared_ptr<Block> block;
  uint32_t opened = 1;              // imported: how often
  std::vector<char> import_handle;  // imported: by which handle
};

// A part of a copy: bytes in one range, or in host memory that the driver does not know.
struct Piece {
  std::shared_ptr<Range> range;
  char* alias = nullptr;
  uint64_t bytes = 0;
};

// Pages of a memory file of another process: without access at a device's address, with access at an alias. Null
// without addresses.
std::shared_ptr<Range> show_file(int file, uint64_t offset, uint64_t bytes);

class Memory {
 public:
  void add(const std::shared_ptr<Range>& range);
  void remove(const std::shared_ptr<Range>& range);  // its addresses are without access from now on
  void remove_of(const void* owner);
  [[nodiscard]] std::shared_ptr<Range> find(uint64_t address) const;
  [[nodiscard]] const std::map<uint64_t, std::shared_ptr<Range>>& ranges() const noexcept { return ranges_; }

  // Cuts [address, address + bytes) into pieces. False if a part of it belongs to the driver and is not in use.
  bool resolve(uint64_t address, uint64_t bytes, std::vector<Piece>& out) const;

  // Addresses for mappings to come.
  uint64_t reserve(uint64_t bytes, uint64_t alignment);
  bool unreserve(uint64_t address, uint64_t bytes);  // false: not reserved so, or mapped
  [[nodiscard]] bool is_reserved(uint64_t address, uint64_t bytes) const;
  [[nodiscard]] uint64_t reserved_bytes(uint64_t address) const;  // of what begins there; 0: nothing
  [[nodiscard]] size_t reservations() const noexcept { return reserved_.size(); }
  [[nodiscard]] bool is_mapped(uint64_t address, uint64_t bytes) const;

  // A kernel of the device begins or ends: what it may use is open to this process from then on, until a stream of the
  // device has run dry and no kernel runs. To change the access of large ranges for each kernel costs more than it
  // does.
  void begin_kernel(int device);
  void end_kernel(int device);
  void close(int device);
  // Device `from` may use what is allocated on `to`, or no longer.
  void set_peer(int from, int to, bool is_enabled);
  [[nodiscard]] bool is_peer(int from, int to) const { return (peers_[to] >> from & 1U) != 0; }
  // Whether kernels of the device may use an address.
  [[nodiscard]] bool may_use(int device, uint64_t address) const;
  void set_access(Range& range, uint32_t access);
  void add_arena(const Arena* arena) { arenas_.push_back(arena); }
  void forget_arenas() { arenas_.clear(); }

 private:
  [[nodiscard]] uint32_t access(const Range& range) const;
  void refresh(Range& range);

  std::vector<const Arena*> arenas_;
  std::map<uint64_t, std::shared_ptr<Range>> ranges_;
  std::map<uint64_t, uint64_t> reserved_;  // begin → bytes
  uint32_t running_[kMaxDevices] = {};     // kernels
  bool is_opened_[kMaxDevices] = {};       // for them
  uint32_t peers_[kMaxDevices] = {};       // of each device: the devices that may use its memory
};

}  // namespace unify::simulator
