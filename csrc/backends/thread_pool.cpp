#include "thread_pool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <exception>
#include <new>

namespace unify::host {
namespace {

// How long a worker looks for the next loop before it sleeps. A wake-up costs some 5 to 50 µs, the pause between the
// kernels of a model less.
constexpr auto kSpin = std::chrono::microseconds(100);

// Chunks a thread, so that a slow core does not hold the others up.
constexpr uint64_t kChunksPerThread = 4;

void pause_core() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

void futex_wait(std::atomic<uint32_t>& word, uint32_t seen) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
}

void futex_wake_all(std::atomic<uint32_t>& word) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace

ThreadPool::ThreadPool(uint32_t threads, bool is_pinned) : threads_(std::max(1U, threads)), is_pinned_(is_pinned) {}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::resize(uint32_t threads) {
  const std::lock_guard<std::mutex> lock(mutex_);
  stop();
  threads_ = std::max(1U, threads);
}

void ThreadPool::start() {
  is_stopping_ = false;
  try {
    for (uint32_t index = 1; index < threads_; ++index) {
      workers_.emplace_back([this, index] { work(index); });
    }
  } catch (const std::exception&) {  // the system gives no more threads: these do
  }
}

void ThreadPool::stop() {
  is_stopping_ = true;
  signal_.fetch_add(1);
  futex_wake_all(signal_);
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
}

// The mutex may be another thread's, and a std::thread cannot be destroyed without its thread: both are leaked.
void ThreadPool::forget_threads() {
  new (&mutex_) std::mutex;
  new (&workers_) std::vector<std::thread>;
  state_ = 0;
  running_ = 0;
  sleeping_ = 0;
}

void ThreadPool::run(Body body, void* context, uint64_t total) {
  const uint32_t threads = this->threads();
  if (total <= 1 || threads == 1) {
    if (total > 0) body(context, 0, total);
    return;
  }
  struct Counted {
    explicit Counted(std::atomic<uint32_t>& count) : count(count) { count.fetch_add(1, std::memory_order_relaxed); }
    ~Counted() { count.fetch_sub(1, std::memory_order_relaxed); }
    std::atomic<uint32_t>& count;
  };
  const Counted counted(running_);
  const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
  if (!lock.owns_lock()) {
    body(context, 0, total);
    return;
  }
  if (workers_.empty()) start();
  body_ = body;
  context_ = context;
  total_ = total;
  chunk_ = std::max<uint64_t>(1, total / (threads * kChunksPerThread));
  next_.store(0, std::memory_order_relaxed);
  const uint64_t epoch = (state_.load(std::memory_order_relaxed) >> kEpochShift) + 1;
  state_.store(epoch << kEpochShift | kOpen, std::memory_order_seq_cst);
  if (sleeping_.load(std::memory_order_seq_cst) > 0) {
    signal_.fetch_add(1, std::memory_order_seq_cst);
    futex_wake_all(signal_);
  }
  take_chunks();
  state_.fetch_and(~kOpen, std::memory_order_acq_rel);  // nobody enters any more
  for (uint32_t spins = 0; (state_.load(std::memory_order_acquire) & kInside) != 0; ++spins) {
    if (spins < 1000) {
      pause_core();
    } else {
      std::this_thread::yield();  // a worker lost its core in the middle of a chunk
    }
  }
}

void ThreadPool::take_chunks() {
  for (;;) {
    const uint64_t begin = next_.fetch_add(chunk_, std::memory_order_relaxed);
    if (begin >= total_) return;
    body_(context_, begin, std::min(begin + chunk_, total_));
  }
}

// A worker's part of a loop.
void ThreadPool::help() {
  running_.fetch_add(1, std::memory_order_relaxed);
  while (!leaves_early()) {
    const uint64_t begin = next_.fetch_add(chunk_, std::memory_order_relaxed);
    if (begin >= total_) {
      running_.fetch_sub(1, std::memory_order_relaxed);
      return;
    }
    body_(context_, begin, std::min(begin + chunk_, total_));
  }
}

// Whether more threads run than there are cores for: then one worker after the other goes, until it fits.
bool ThreadPool::leaves_early() {
  uint32_t running = running_.load(std::memory_order_relaxed);
  while (running > threads()) {
    if (running_.compare_exchange_weak(running, running - 1, std::memory_order_relaxed)) return true;
  }
  return false;
}

// True when a loop after `last_epoch` is open, false when the pool stops.
bool ThreadPool::wait_for_loop(uint64_t last_epoch) {
  const auto is_new = [&](uint64_t state) { return (state & kOpen) != 0 && state >> kEpochShift != last_epoch; };
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  for (uint32_t spins = 1;; ++spins) {
    if (is_stopping_.load(std::memory_order_relaxed)) return false;
    if (is_new(state_.load(std::memory_order_acquire))) return true;
    pause_core();
    if (spins % 64 != 0) continue;
    std::this_thread::yield();  // the core may be wanted by another library's threads
    if (std::chrono::steady_clock::now() < deadline) continue;
    const uint32_t seen = signal_.load(std::memory_order_seq_cst);
    sleeping_.fetch_add(1, std::memory_order_seq_cst);
    if (!is_new(state_.load(std::memory_order_seq_cst)) && !is_stopping_.load(std::memory_order_seq_cst)) {
      futex_wait(signal_, seen);
    }
    sleeping_.fetch_sub(1, std::memory_order_seq_cst);
  }
}

void ThreadPool::work(uint32_t index) {
  if (is_pinned_) {
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    sched_getaffinity(0, sizeof allowed, &allowed);
    uint32_t nth = 0;
    for (int core = 0; core < CPU_SETSIZE; ++core) {
      if (!CPU_ISSET(core, &allowed) || nth++ != index) continue;
      cpu_set_t one;
      CPU_ZERO(&one);
      CPU_SET(core, &one);
      sched_setaffinity(0, sizeof one, &one);
    }
  }
  uint64_t last_epoch = 0;
  while (wait_for_loop(last_epoch)) {
    uint64_t state = state_.load(std::memory_order_acquire);
    if ((state & kOpen) == 0) continue;
    if (!state_.compare_exchange_weak(state, state + kOneInside, std::memory_order_acq_rel)) continue;
    last_epoch = state >> kEpochShift;
    help();
    state_.fetch_sub(kOneInside, std::memory_order_release);
  }
}

}  // namespace unify::host
