// What the files of the CPU backend share: its handles, and how work gets onto a stream.
#pragma once

#include <unify/backend.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_set>
#include <utility>

#include "answer.h"
#include "thread_pool.h"

namespace unify::host {

struct Failure {
  unify_status status = UNIFY_OK;
  std::string message;
  uint64_t operation = 0;
};

struct Device {
  explicit Device(uint32_t threads, bool is_pinned) : pool(threads, is_pinned) {}
  ThreadPool pool;
  std::mutex mutex;  // of `streams`
  std::condition_variable left;
  std::unordered_set<std::shared_ptr<struct Stream>> streams;  // each until it is destroyed and has run dry
};

struct Stream : std::enable_shared_from_this<Stream> {
  Device* device = nullptr;
  bool is_default = false;
  std::mutex mutex;  // of what follows
  std::condition_variable changed;
  std::deque<std::function<void(Stream&)>> queue;
  std::atomic<uint64_t> pending{0};  // queued or running; changes with the mutex only
  bool is_closing = false;
  bool has_thread = false;
  std::shared_ptr<const Failure> failure;  // the first one that no synchronize returned
  std::atomic<bool> has_failed{false};     // whether there is one
};

struct Event;   // host_event.cpp
struct Module;  // host.cpp

inline Device* of(unify_device device) { return reinterpret_cast<Device*>(device); }
inline Stream* of(unify_stream stream) { return reinterpret_cast<Stream*>(stream); }
inline Event* of(unify_event event) { return reinterpret_cast<Event*>(event); }
inline Module* of(unify_module module) { return reinterpret_cast<Module*>(module); }

// ---- errors: host.cpp ----

// Keeps what last_error says of the calling thread, and returns `status`.
unify_status fail(unify_status status, std::string message, const char* advice = nullptr, uint64_t operation = 0);
unify_status fail(const Failure& failure);
unify_status fail_by_exception() noexcept;  // inside of a catch

// A function of the table that lets no exception out: its callers are C.
template <auto Function>
struct Guarded;
template <typename... Arguments, unify_status (*Function)(Arguments...)>
struct Guarded<Function> {
  static unify_status call(Arguments... arguments) noexcept {
    try {
      return Function(arguments...);
    } catch (...) {
      return fail_by_exception();
    }
  }
};

// ---- streams and events ----

void note_failure(Stream& stream, Failure failure);
std::shared_ptr<const Failure> failure_of(Stream& stream);  // which stays; null: none
unify_status take_failure(Stream& stream);                  // which ends
void enqueue(Stream& stream, std::function<void(Stream&)> item);
void wait_until_dry(Stream& stream);

// Whether work on the stream may run in the thread that enqueues it.
inline bool runs_at_once(const Stream& stream) {
  return stream.is_default && stream.pending.load(std::memory_order_acquire) == 0;
}

// Runs the work now or later. `Work` is called with the stream.
template <typename Work>
void run_or_enqueue(Stream& stream, Work&& work) {
  if (runs_at_once(stream)) {
    work(stream);
  } else {
    enqueue(stream, std::forward<Work>(work));
  }
}

// Each file's part of the backend's table.
void add_streams(unify_backend& table);
void add_events(unify_backend& table);

// ---- forks: host_fork.cpp ----

// Threads do not survive a fork, nor does what they were at. In the child the streams of these devices are empty, and
// what was recorded before counts as never recorded.
void watch_forks(Device& device);
void forget_device(Device& device);
uint32_t fork_generation() noexcept;  // how many forks lie between this process and the first one

}  // namespace unify::host
