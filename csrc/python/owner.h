// Python objects that the core keeps alive: a NumPy array behind a tensor, a DLPack tensor, a callback.
//
// The core may let go of an owner on any thread and while it holds a lock. Dropping a Python reference needs the
// GIL and may run any Python code, so neither can happen there: what is let go goes on a list, which is emptied
// where the GIL is held and no lock of the core is.
#pragma once

#include <Python.h>

#include <memory>

namespace unify::python {

// Keeps a new reference to `object`. Needs the GIL; the result may be dropped anywhere.
std::shared_ptr<void> python_owner(PyObject* object);

// Calls `release(resource)` with the GIL held once the result was dropped.
std::shared_ptr<void> deferred_owner(void* resource, void (*release)(void*));

// What the core has to end is ended soon, also when nobody calls unify again: once, when the module is made.
void watch_reclaim();

// Drops what was let go since the last call. Needs the GIL. A few ns when there is nothing.
void release_owners();

}  // namespace unify::python
