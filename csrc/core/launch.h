// The launch: orders, keeps memory alive, remembers what it did, and calls the backend.
#pragma once

#include <unify/backend.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace unify {

struct Function;
struct LaunchShape;
class Storage;
class Stream;

using Grid = std::array<uint32_t, 3>;

// Enqueues `function` on `stream`, in the shape given or, if null, its own. `args` is the packed struct; `touched` are
// the storages that its pointers point into: each is noted as used on the stream. `foreign` keeps memory alive that no
// allocator owns; it is dropped at once where the stream is already idle again. A graph that another library records
// keeps all of it, and the function. Recorded if the stream records. A grid
// with a 0 launches nothing. Throws InvalidArgument for sizes beyond the device's, naming both; Unsupported for a shape
// that the backend is too old for. may_record: false when the caller knows of more owners; then false is returned, and
// nothing done, if it records.
bool launch(Stream& stream, const std::shared_ptr<Function>& function, const Grid& grid, const void* args,
            size_t args_bytes, Storage* const* touched, size_t touched_count, std::shared_ptr<void>* foreign = nullptr,
            size_t foreign_count = 0, bool may_record = true, const LaunchShape* shape = nullptr);

// What was enqueued, for errors and traces.
struct Operation {
  enum class Kind : uint8_t { kLaunch, kCopy, kFill, kRecord, kWait, kHostCall, kGraph };
  uint64_t number = 0;  // unify_launch_args.operation; from 1
  Kind kind = Kind::kLaunch;
  uint32_t stream = 0;
  const char* label = nullptr;  // the kernel, or what a graph is of: a string that is never freed
  Grid grid{};                  // launches
  uint64_t bytes = 0;           // copies and fills
  bool is_refused = false;      // by the backend
};

// The last operations of a device: what an error prints. Writing takes a few ns, no lock and no memory.
class OperationRing {
 public:
  static constexpr size_t kSize = 4096;  // more than a step of a model enqueues before anybody waits
  uint64_t next_number() noexcept { return counter_.fetch_add(1, std::memory_order_relaxed) + 1; }
  void push(const Operation& operation) noexcept;
  void note_refusal(uint64_t number) noexcept;
  [[nodiscard]] uint64_t last_number() const noexcept { return counter_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::string describe(uint64_t number) const;  // "kernel rms_norm (norm.py:12), grid 4×1×1", or ""
  // What may have failed among first … last: the launches beyond what its stream, by number, is `proven` up to; copies
  // and fills if there is none. The one, or "one of 3 launches …", each kernel once.
  struct Cause {
    uint64_t operation = 0;  // the first
    std::string text;
  };
  [[nodiscard]] Cause cause_among(uint64_t first, uint64_t last, const std::map<uint32_t, uint64_t>& proven) const;
  [[nodiscard]] std::vector<std::string> recent(size_t count = 8) const;

 private:
  // Fields of one operation; `number` is written last and cleared first, so that a reader sees a whole one or none.
  struct Entry {
    std::atomic<uint64_t> number{0};
    std::atomic<uint64_t> place{0};  // kind and stream
    std::atomic<const char*> label{nullptr};
    std::atomic<uint64_t> columns_and_rows{0};
    std::atomic<uint64_t> layers{0};
    std::atomic<uint64_t> bytes{0};
  };
  bool read(uint64_t number, Operation& out) const noexcept;

  std::atomic<uint64_t> counter_{0};
  std::array<Entry, kSize> ring_{};
};

// Gives an operation its number and remembers it. Once the backend was asked, its stream knows that it is enqueued.
// Under the stream's mutex.
class Enqueued {
 public:
  Enqueued(Stream& stream, Operation operation);
  ~Enqueued();
  Enqueued(const Enqueued&) = delete;
  Enqueued& operator=(const Enqueued&) = delete;
  [[nodiscard]] uint64_t number() const noexcept { return number_; }
  // Takes the backend's answer and gives it on. What was refused cannot be what fails later.
  unify_status take(unify_status status) const noexcept;

 private:
  Stream& stream_;
  uint64_t number_;
};

// A copy of `text` that is never freed: the same pointer for the same text.
const char* intern(const std::string& text);
// What a graph of these kernels is called: "graph of rms_norm (norm.py:12) and rope (rope.py:8)".
const char* graph_label(const std::vector<const char*>& kernels);

}  // namespace unify
