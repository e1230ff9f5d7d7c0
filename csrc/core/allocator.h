// The caching, stream-ordered allocator of one device.
//
// A block freed on stream S is reused at once for S, since work there is ordered; for another stream only after
// S has passed the free. A block that was also used on stream T (the launch path says so by Storage::used_on)
// comes back only after T has passed its last use. Nobody calls record_stream.
#pragma once

#include <unify/backend.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace unify {

class Device;
class Stream;
struct Block;  // of an Allocator

// A range of a device's memory.
struct MemoryRange {
  unify_address address;
  size_t bytes;
};

// Memory that somebody owns: a block of the allocator, or foreign memory with the owner's own release.
class Storage : public std::enable_shared_from_this<Storage> {
 public:
  // Foreign memory: `owner` is dropped with the storage (a DLPack capsule, a NumPy array, a mapped file). With a
  // `generation` it is gone after a reset of the device.
  Storage(std::shared_ptr<Device> device, unify_address address, size_t bytes, std::shared_ptr<void> owner,
          std::optional<uint32_t> generation = std::nullopt);
  Storage(std::shared_ptr<Device> device, Block* block);
  ~Storage();  // gives the block back, whatever its thread holds: no lock, no call of the backend
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  [[nodiscard]] Device& device() const noexcept { return *device_; }
  [[nodiscard]] const std::shared_ptr<Device>& device_ptr() const noexcept { return device_; }
  [[nodiscard]] unify_address address() const noexcept { return address_; }
  [[nodiscard]] size_t bytes() const noexcept { return bytes_; }
  [[nodiscard]] bool is_foreign() const noexcept { return block_ == nullptr; }
  [[nodiscard]] const std::shared_ptr<void>& owner() const noexcept { return owner_; }
  // What the allocator took from the device in one piece, with this in it. Nothing for foreign memory. The caller holds
  // the device's call() and has asked require_current().
  [[nodiscard]] std::optional<MemoryRange> segment() const;

  // In a segment that grows and shrinks: it cannot be exported to other processes.
  [[nodiscard]] bool is_expandable() const;
  // Of a graph's own pool, by its address, or null.
  [[nodiscard]] const void* pool() const noexcept;
  [[nodiscard]] bool is_of(const Stream& stream) const noexcept;  // allocated there, so free in its order

  // Throws DeviceLost after a reset, which took the memory away: to be asked before work that uses it is enqueued.
  void require_current() const;
  // Notes that work using this memory was enqueued on `stream`: it lives until that has run, or as long as the graph
  // that the stream records. Free for the stream it was allocated on.
  void used_on(Stream& stream);

 private:
  std::shared_ptr<Device> device_;
  unify_address address_ = 0;
  size_t bytes_ = 0;
  Block* block_ = nullptr;
  std::shared_ptr<void> owner_;
  std::optional<uint32_t> generation_;  // of the device, that it is gone after
};

struct MemoryStatistics {
  uint64_t allocated_bytes = 0, allocated_bytes_peak = 0;  // asked for and not given back yet
  uint64_t reserved_bytes = 0, reserved_bytes_peak = 0;    // taken from the device
  uint64_t allocations = 0, segments = 0, cache_hits = 0, trims = 0, out_of_memory = 0;
  uint64_t waiting_bytes = 0;  // freed, still used by some stream
};

struct BlockSnapshot {
  uint64_t address, bytes, requested_bytes;
  std::string state;  // "allocated", "free", "waiting"
  uint32_t stream;
};
struct SegmentSnapshot {
  uint64_t address, bytes;
  std::vector<BlockSnapshot> blocks;
};

class Allocator {
 public:
  explicit Allocator(Device& device);
  ~Allocator();

  // At least `bytes`, aligned to the device's alignment, for use on `stream`. 0 bytes gives address 0.
  // On out of memory: collects what streams have passed, returns unused segments to the device, takes over what streams
  // that ran dry left free, then waits for blocks still in use by streams, and only then throws OutOfMemory with the
  // figures.
  std::shared_ptr<Storage> allocate(size_t bytes, Stream& stream);

  void trim();  // returns unused segments, and unused chunks of expandable ones, to the device
  [[nodiscard]] MemoryStatistics statistics() const;
  void reset_peaks();
  [[nodiscard]] std::vector<SegmentSnapshot> snapshot() const;
  void set_limit(uint64_t bytes);  // 0: none. What unify may reserve on this device
  // Whether segments to come are expandable: a range of addresses for each stream that grows at its end, and gives back
  // idle memory from its middle. Changes nothing where the device has no virtual memory.
  void set_expandable(bool is_expandable);

  // While a graph is recorded on `stream`, its blocks come from a pool of the graph's own, which lives as long
  // as the token.
  std::shared_ptr<void> begin_private_pool(Stream& stream);
  void end_private_pool(Stream& stream);

  // Whether memory was ever allocated for the stream.
  [[nodiscard]] bool serves(const Stream& stream) const noexcept;
  // A stream that has run dry and ends: its blocks then serve any stream.
  void retire(const Stream& stream) noexcept;

  // For a reset: nothing is allocated while the lock is held. forget() is called under it, once the device has another
  // generation: the memory is as good as gone.
  [[nodiscard]] std::unique_lock<std::mutex> lock();
  void forget() noexcept;

 private:
  friend class Storage;
  void catch_up() const;
  void give_back(Block* block) noexcept;
  void note_use(Block* block, Stream& stream);
  bool is_expandable(const Block* block) const;
  [[nodiscard]] MemoryRange segment_of(const Block* block) const;
  static uint32_t generation_of(const Block* block) noexcept;
  static const void* pool_of(const Block* block) noexcept;
  static uint32_t stream_of(const Block* block) noexcept;
  static unify_address address_of(const Block* block) noexcept;
  static size_t bytes_of(const Block* block) noexcept;
  struct State;
  struct GraphPool;
  std::unique_ptr<State> state_;
};

}  // namespace unify
