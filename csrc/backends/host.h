// What the files of the CPU backend share: its handles, and how work gets onto a stream.
#pragma once

#include <unify/backend.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_set>
#include <utility>

#include "thread_pool.h"

namespace unify::host {

// Keeps what last_error says of the calling thread, and returns `status`.
unify_status fail(unify_status status, std::string message, const char* advice = nullptr, uint64_t operation = 0);

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
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::function<void(Stream&)>> queue;
  std::atomic<uint64_t> pending{0};  // queued or running
  bool is_closing = false;
  bool has_thread = false;
  Failure failure;  // the first one that nobody was told of
  std::atomic<bool> has_failed{false};
};

struct Event;   // host_event.cpp
struct Module;  // host.cpp

inline Device* of(unify_device device) { return reinterpret_cast<Device*>(device); }
inline Stream* of(unify_stream stream) { return reinterpret_cast<Stream*>(stream); }
inline Event* of(unify_event event) { return reinterpret_cast<Event*>(event); }
inline Module* of(unify_module module) { return reinterpret_cast<Module*>(module); }

void note_failure(Stream& stream, Failure failure);
unify_status take_failure(Stream& stream);
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

}  // namespace unify::host
