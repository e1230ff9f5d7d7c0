// The end of what nobody holds any more.
//
// Ending a stream, a graph, a module or memory takes locks and calls the backend, which may wait. Whoever lets go of
// one may do neither: it may hold a lock or Python's GIL, or be a stream's own thread, where the backend must not be
// called. So letting go only puts the thing on a list, and reclaim() ends what is on it.
#pragma once

#include <atomic>
#include <memory>

#include "leaks.h"

namespace unify {

// A list that any thread adds to without a lock. `T` has a member `T* next_let_go`.
template <typename T>
class LetGoList {
 public:
  void add(T* thing) noexcept {
    thing->next_let_go = first_.load(std::memory_order_relaxed);
    while (!first_.compare_exchange_weak(thing->next_let_go, thing, std::memory_order_release,
                                         std::memory_order_relaxed)) {
    }
  }
  [[nodiscard]] bool is_empty() const noexcept { return first_.load(std::memory_order_acquire) == nullptr; }
  // All of it, the last one first, linked by next_let_go.
  [[nodiscard]] T* take() noexcept {
    return is_empty() ? nullptr : first_.exchange(nullptr, std::memory_order_acquire);
  }

 private:
  std::atomic<T*> first_{nullptr};
};

class Reclaimable {
 public:
  virtual ~Reclaimable() = default;
  // Ends without waiting, and is deleted then; false when work still uses it, to be asked again.
  virtual bool end() noexcept = 0;

  Reclaimable* next_let_go = nullptr;
};

// Puts it on the list, from any thread, whatever that holds.
void reclaim_later(Reclaimable* thing) noexcept;

// A pointer whose last copy may be dropped anywhere.
template <typename T>
std::shared_ptr<T> reclaimed(T* thing) {
  return std::shared_ptr<T>(thing, [](T* last) {
    leaks::let_go(last);
    reclaim_later(last);
  });
}

// Ends what can end by now. The caller holds no lock, nor the GIL. Called where the core allocates, waits, or enqueues
// a host call or a graph; does nothing in a host call.
void reclaim() noexcept;

// Is told when the list has something on it, on any thread: for a caller of reclaim() when nobody uses the core again.
// False: it sees to no such call now, and is to be told again.
void set_reclaim_hook(bool (*hook)()) noexcept;

// While one lives, the calling thread is a stream's own: reclaim() does nothing.
class InHostCall {
 public:
  InHostCall() noexcept;
  ~InHostCall();
  InHostCall(const InHostCall&) = delete;
  InHostCall& operator=(const InHostCall&) = delete;
};

}  // namespace unify
