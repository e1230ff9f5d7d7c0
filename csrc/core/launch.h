// The launch: orders, keeps memory alive, remembers what it did, and calls the backend.
#pragma once

#include <unify/backend.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace unify {

struct Function;
class Storage;
class Stream;

using Grid = std::array<uint32_t, 3>;

// Enqueues `function` on `stream`. `args` is the packed struct; `touched` are the storages that its pointers
// point into: each is noted as used on the stream. `foreign` keeps memory alive that no allocator owns; it is
// dropped at once where the stream is already idle again. Recorded if the stream records.
// A grid with a 0 launches nothing. Throws InvalidArgument for sizes beyond the device's, naming both.
void launch(Stream& stream, const std::shared_ptr<Function>& function, const Grid& grid, const void* args,
            size_t args_bytes, Storage* const* touched, size_t touched_count,
            std::shared_ptr<void>* foreign = nullptr, size_t foreign_count = 0);

// The last operations of a device: what an error prints. Writing costs a few ns and never allocates.
struct Operation {
  uint64_t number;                 // unify_launch_args.operation; from 1
  uint32_t stream;
  enum class Kind : uint8_t { kLaunch, kCopy, kFill, kRecord, kWait, kHostCall, kGraph } kind;
  Grid grid;                       // launches
  uint64_t bytes;                  // copies and fills
  std::weak_ptr<Function> function;
};

class OperationRing {
 public:
  static constexpr size_t kSize = 64;
  uint64_t next_number() noexcept { return counter_.fetch_add(1, std::memory_order_relaxed) + 1; }
  void push(Operation operation) noexcept;
  [[nodiscard]] std::string describe(uint64_t number) const;  // "kernel rms_norm (norm.py:12), grid 4×1×1", or ""
  [[nodiscard]] std::vector<std::string> recent(size_t count = 8) const;

 private:
  std::atomic<uint64_t> counter_{0};
  mutable std::mutex mutex_;
  std::array<Operation, kSize> ring_{};
  size_t head_ = 0;
};

}  // namespace unify
