// The workers of the CPU device: one loop of independent programs at a time, spread over the cores.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace unify::host {

class ThreadPool {
 public:
  // Runs [begin, end) of a loop. Called from several threads at a time with disjoint ranges.
  using Body = void (*)(void* context, uint64_t begin, uint64_t end);

  // `threads` counts the caller, so that threads - 1 are made, at the first loop that can use them.
  explicit ThreadPool(uint32_t threads, bool is_pinned);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;  // it owns threads
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Runs body over [0, total) and returns when all of it is done. The caller takes part. While another thread
  // runs a loop, the caller runs its own alone, and a worker of that loop leaves it: no more than threads() run, unless
  // there are more callers than that.
  void run(Body body, void* context, uint64_t total);

  void resize(uint32_t threads);
  [[nodiscard]] uint32_t threads() const noexcept { return threads_.load(std::memory_order_relaxed); }
  [[nodiscard]] uint32_t running() const noexcept { return running_.load(std::memory_order_relaxed); }

  // In the child of a fork, where the threads are not: the next loop starts its own.
  void forget_threads();

 private:
  void start();
  void stop();
  void work(uint32_t index);
  void take_chunks();
  void help();
  bool leaves_early();
  bool wait_for_loop(uint64_t last_epoch);

  // One word says what is going on: bit 0: the loop is open; bits 1 to 15: workers inside; above: its number.
  static constexpr uint64_t kOpen = 1;
  static constexpr uint64_t kOneInside = 2;
  static constexpr uint64_t kInside = 0xfffe;
  static constexpr int kEpochShift = 16;

  std::mutex mutex_;  // held by the thread whose loop it is
  std::vector<std::thread> workers_;
  std::atomic<uint32_t> threads_;  // changes with the mutex only
  bool is_pinned_;                 // workers only: a caller's thread is not ours

  Body body_ = nullptr;
  void* context_ = nullptr;
  uint64_t total_ = 0;
  uint64_t chunk_ = 1;
  alignas(64) std::atomic<uint64_t> state_{0};
  alignas(64) std::atomic<uint64_t> next_{0};
  alignas(64) std::atomic<uint32_t> running_{0};  // callers and workers inside of a loop
  alignas(64) std::atomic<uint32_t> signal_{0};   // what sleeping workers wait on (futex)
  std::atomic<uint32_t> sleeping_{0};
  std::atomic<bool> is_stopping_{false};
};

}  // namespace unify::host
