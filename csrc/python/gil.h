// The GIL, and threads that the interpreter does not wait for.
//
// The GIL is the outermost lock. Whatever may block (synchronize, allocate, copy, launch of a full queue) runs
// without it, and nothing in here asks for it while it holds a lock of the core.
//
// Before 3.14, CPython ends a thread that asks for the GIL when the interpreter is over: by pthread_exit, which
// unwinds. A noexcept function on its way aborts the process, and destructors would drop references without the GIL.
#pragma once

#include <Python.h>

#include <chrono>
#include <exception>
#include <thread>
#include <utility>

namespace unify::python {

// Whether nothing may be asked of the interpreter but by the thread that ends it.
inline bool is_interpreter_over() noexcept { return Py_IsInitialized() == 0; }

// Runs `work`, which asks for the GIL or runs Python code. A thread that CPython would end there waits for the
// process to end instead, as CPython's own do since 3.14. `work` itself owns nothing that needs the GIL.
template <typename Work>
auto in_python(Work&& work) {
  try {
    return std::forward<Work>(work)();
  } catch (...) {
    if (std::current_exception() != nullptr) throw;  // an unwinding that is no exception has none
    for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
  }
}

class ReleaseGil {
 public:
  ReleaseGil() : state_(PyEval_SaveThread()) {}
  ~ReleaseGil() {
    in_python([this] { PyEval_RestoreThread(state_); });
  }
  ReleaseGil(const ReleaseGil&) = delete;
  ReleaseGil& operator=(const ReleaseGil&) = delete;

 private:
  PyThreadState* state_;
};

// For any thread, whether it holds the GIL or not. Not once the interpreter is over.
class AcquireGil {
 public:
  AcquireGil() : state_(in_python(PyGILState_Ensure)) {}
  ~AcquireGil() { PyGILState_Release(state_); }
  AcquireGil(const AcquireGil&) = delete;
  AcquireGil& operator=(const AcquireGil&) = delete;

 private:
  PyGILState_STATE state_;
};

// Runs `work` without the GIL.
template <typename Work>
auto without_gil(Work&& work) {
  const ReleaseGil released;
  return std::forward<Work>(work)();
}

}  // namespace unify::python
