#include "owner.h"

#include <atomic>
#include <mutex>
#include <utility>
#include <vector>

#include "../core/reclaim.h"
#include "convert.h"

namespace unify::python {
namespace {

struct Released {
  void* resource;
  void (*release)(void*);
};

// Never destroyed: streams may let go of owners while static objects are torn down.
struct ReleasedList {
  std::mutex mutex;
  std::vector<Released> entries;
  std::atomic<bool> is_empty{true};
};

ReleasedList& released() {
  static auto* list = new ReleasedList;
  return *list;
}

std::atomic<bool> is_interpreter_told{false};

int release_from_interpreter(void*) {
  is_interpreter_told.store(false);
  without_gil(reclaim);
  release_owners();
  return 0;
}

// The interpreter's main thread empties the lists soon, also when nobody calls unify again. False where it takes no
// more calls now: the next thing that is let go of asks again.
bool call_interpreter() {
  if (is_interpreter_over() || is_interpreter_told.exchange(true)) return true;
  if (Py_AddPendingCall(release_from_interpreter, nullptr) == 0) return true;
  is_interpreter_told.store(false);
  return false;
}

void let_go(Released entry) noexcept {
  ReleasedList& list = released();
  try {
    const std::lock_guard<std::mutex> lock(list.mutex);
    list.entries.push_back(entry);
    list.is_empty.store(false, std::memory_order_release);
  } catch (...) {
    return;  // no memory for the list: leaking one object is the lesser evil
  }
  call_interpreter();
}

}  // namespace

std::shared_ptr<void> deferred_owner(void* resource, void (*release)(void*)) {
  return {resource, [release](void* held) { let_go({held, release}); }};
}

void watch_reclaim() { set_reclaim_hook(call_interpreter); }

std::shared_ptr<void> python_owner(PyObject* object) {
  Py_INCREF(object);
  return deferred_owner(object, [](void* held) { Py_DECREF(static_cast<PyObject*>(held)); });
}

void release_owners() {
  ReleasedList& list = released();
  if (list.is_empty.load(std::memory_order_acquire)) return;
  std::vector<Released> entries;
  {
    const std::lock_guard<std::mutex> lock(list.mutex);
    entries.swap(list.entries);
    list.is_empty.store(true, std::memory_order_release);
  }
  // Outside the lock: a finaliser may drop further tensors.
  in_python([&] {
    for (const Released& entry : entries) entry.release(entry.resource);
  });
}

}  // namespace unify::python
