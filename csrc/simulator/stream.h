// Streams, each with a thread of its own, and the events that order them. Everything is used with the driver's mutex,
// except the work itself, which runs without it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "faults.h"
#include "result.h"

namespace unify::simulator {

struct Context;
struct Capture;
struct SharedEvent;
struct Stream;
using Lock = std::unique_lock<std::mutex>;

// The end of one piece of work. Everybody who waits for that work holds one.
struct Mark {
  bool is_done = false;
  std::chrono::steady_clock::time_point when;
};
using MarkPtr = std::shared_ptr<Mark>;

enum class OperationKind { kEmpty, kKernel, kCopy, kFill, kHostCall, kGraph };

// Of a copy.
enum class Direction { kHostToHost, kHostToDevice, kDeviceToHost, kWithinDevice, kBetweenDevices };

// Work itself: runs without the driver's mutex, on the stream given, as often as a graph is launched.
using Run = std::function<Result(Stream& stream)>;

// Work as a stream runs it and as a graph keeps it.
struct Operation {
  OperationKind kind = OperationKind::kEmpty;
  std::shared_ptr<Context> context;
  Run run;
  bool is_cooperative = false;
  std::string name;    // of the kernel
  uint64_t bytes = 0;  // of a copy or a fill; of a kernel what it reads and writes, where that is known
  Direction direction = Direction::kHostToHost;
};

struct Work {
  Operation operation;
  std::vector<MarkPtr> after;
  MarkPtr done;
};

struct Stream {
  std::shared_ptr<Context> context;
  uintptr_t handle = 0;      // 0: a default stream
  bool is_blocking = false;  // CUDA: orders itself with the legacy default stream
  bool is_legacy = false;    // CUDA: it is that
  int priority = 0;
  std::deque<Work> queue;
  OperationKind running = OperationKind::kEmpty;
  MarkPtr tail = std::make_shared<Mark>(Mark{true, {}});  // of the last work
  bool has_thread = false;
  bool is_closing = false;  // destroyed: its thread ends when the queue is empty
  std::condition_variable arrived;
  std::shared_ptr<Capture> capture;
  std::vector<size_t> frontier;  // while it captures: the nodes that the next one follows
};

struct Event {
  std::shared_ptr<Context> context;
  unsigned flags = 0;
  MarkPtr mark;                         // of the last record; null: never recorded
  std::shared_ptr<Capture> capture;     // the last record was captured there ...
  std::vector<size_t> frontier;         // ... behind these nodes
  std::shared_ptr<SharedEvent> shared;  // of several processes
};

// Appends work to a stream.
Result enqueue(Stream& stream, Operation operation, std::vector<MarkPtr> after = {});

// Runs an operation on a stream, if the front's rules let it run. Called without the mutex.
void run_operation(Stream& stream, const Operation& operation);

using Deadline = std::chrono::steady_clock::time_point;
constexpr Deadline kForever = Deadline::max();

// Waits until the mark is done, its context is over, or the time is. Returns what the context then answers to calls.
Result wait_for(Lock& lock, const MarkPtr& mark, const Context& context, Deadline until = kForever);

// Waits for the stream's work so far.
Result wait_for_stream(Lock& lock, Stream& stream);
// Waits for the work so far of every stream of the context.
Result wait_for_context(Lock& lock, Context& context);

[[nodiscard]] bool is_idle(const Stream& stream);

// Lets the thread of a stream go, and forgets the stream.
void close_stream(Stream& stream);

// Drops what has not begun on streams of a context that is over, and waits for what runs on the chip. No host function
// is waited for: it may wait for the caller. False if the time is over before.
bool drain(Lock& lock, const std::vector<std::shared_ptr<Stream>>& streams, Deadline until = kForever);

// Whether this thread runs a function of the user's, as work of a stream.
bool is_in_host_call() noexcept;
// Calls such a function here, and work that does.
void run_on_host(void (*function)(void*), void* data);
Run call_host(void (*function)(void*), void* data);

}  // namespace unify::simulator
