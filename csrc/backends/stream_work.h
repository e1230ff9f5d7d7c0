// What the backends over a vendor's driver know of the work in its streams.
#pragma once

#include <unify/backend.h>

#include <atomic>
#include <cstdint>
#include <memory>

namespace unify {

// Pieces of work that a stream was given: all, and as many as are known to have ended well.
class WorkCount {
 public:
  // Not before the driver has it: who finds the stream dry meanwhile has not seen it.
  void add() noexcept { pieces_.fetch_add(1); }
  [[nodiscard]] uint64_t pieces() const noexcept { return pieces_.load(); }
  // `pieces` of before the stream was asked.
  void prove(uint64_t pieces) noexcept { proven_.store(pieces); }
  [[nodiscard]] bool is_proven() const noexcept { return proven_.load() == pieces_.load(); }

 private:
  std::atomic<uint64_t> pieces_{0};
  std::atomic<uint64_t> proven_{0};
};

// Host functions on their way through the streams of a device. A driver forgets them when a context fails, or comes to
// them later all the same: the ABI runs each of them, once.
class StreamCalls {
 public:
  StreamCalls();
  ~StreamCalls();
  StreamCalls(const StreamCalls&) = delete;
  StreamCalls& operator=(const StreamCalls&) = delete;

  // What the driver gives to `run`. `stream` is the driver's own.
  void* add(const void* stream, unify_host_function function, void* user);
  // After the driver refused the call. False if it runs all the same, as one that was forgotten.
  bool take_back(void* call);
  static void run(void* call);
  // Whether one that went into the stream has not returned.
  [[nodiscard]] bool are_in(const void* stream) const;

  // Runs what the driver forgot, in order, on a thread of its own: it may take locks that the one who found the failure
  // holds.
  void run_forgotten();
  // What a failed context had has ended when none of these is left, nor one that ran already.
  [[nodiscard]] bool are_running() const;
  void wait() const;

 private:
  struct State;
  struct Call;
  std::shared_ptr<State> state_;  // the driver may come to a call when its device is closed
};

}  // namespace unify
