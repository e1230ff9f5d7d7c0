// The launch path of unify.jit: arguments → key → compiled kernel → launch. Only a key that was never seen reaches
// Python.
#include "kernel.h"

namespace unify::python::kernel {
namespace {

// What to launch; null when the call is the fallback's.
const Variant* prepare(Call& call, PyObject* const* args, size_t nargs, PyObject* keywords) {
  const bool has_fallback = call.dispatcher->fallback != nullptr;
  try {
    bind(call, args, nargs, keywords);
    classify(call);
    const bool has_array = call.device_argument != nullptr;  // else unify's default device would have been taken
    if (has_fallback && (call.stream != nullptr || !has_array)) return nullptr;
    return &variant_of(call);
  } catch (const Error&) {
    if (has_fallback) return nullptr;
    throw;
  }
}

}  // namespace

PyObject* launch_kernel(PyObject* self, PyObject* const* args, size_t nargsf, PyObject* keywords) {
  return guarded([&]() -> PyObject* {
    const Launcher& launcher = *reinterpret_cast<Launcher*>(self);
    Call call(*launcher.dispatcher);
    const Variant* variant = prepare(call, args, static_cast<size_t>(PyVectorcall_NARGS(nargsf)), keywords);
    if (variant == nullptr) {
      PyObject* function =
          in_python([&] { return PyObject_CallOneArg(launcher.dispatcher->fallback, launcher.grid.object); });
      const py::object other = py::reinterpret_steal<py::object>(require(function));
      return in_python(
          [&] { return PyObject_Vectorcall(other.ptr(), args, nargsf & ~PY_VECTORCALL_ARGUMENTS_OFFSET, keywords); });
    }
    const std::shared_ptr<Function> function = variant->function;
    const bool waits = call.dispatcher->fallback != nullptr;
    enqueue(call, function, variant->packing, grid_of(launcher.grid, call), nullptr, waits);
    return py::object(variant->result ? variant->result : py::none()).release().ptr();
  });
}

}  // namespace unify::python::kernel
