// The Python types of unify.jit's launch path: a kernel's Dispatcher and a Launcher for one grid.
#include <Python.h>
// After Python.h, which it needs.
#include <structmember.h>

#include <cstddef>

#include "function.h"
#include "kernel.h"

namespace unify::python {
namespace kernel {
namespace {

PyTypeObject* launcher_type = nullptr;

PyObject* dispatcher_new(PyTypeObject* type, PyObject* args, PyObject*) {
  return guarded([&]() -> PyObject* {
    PyObject* name = nullptr;
    PyObject* parameters = nullptr;
    PyObject* miss = nullptr;
    PyObject* fallback = nullptr;
    if (PyArg_ParseTuple(args, "UOO|O", &name, &parameters, &miss, &fallback) == 0) throw_python();
    auto* self = reinterpret_cast<Dispatcher*>(require(type->tp_alloc(type, 0)));
    const py::object owner = py::reinterpret_steal<py::object>(reinterpret_cast<PyObject*>(self));
    Py_INCREF(name);
    Py_INCREF(miss);
    Py_XINCREF(fallback);
    self->kernel_name = name;
    self->miss = miss;
    self->fallback = fallback;
    self->parameters = new std::vector<Parameter>;
    self->variants = new std::vector<std::unique_ptr<Variant>>(8);
    // (name, has_default, default, forced_type, is_constexpr, is_specialized, is_aligned)
    for (const py::handle item : py::reinterpret_borrow<py::iterable>(parameters)) {
      const py::tuple parts = py::reinterpret_borrow<py::tuple>(item);
      PyObject* interned = py::object(parts[0]).release().ptr();
      PyUnicode_InternInPlace(&interned);
      const auto default_value = parts[1].cast<bool>() ? py::object(parts[2]) : py::object();
      self->parameters->push_back({py::reinterpret_steal<py::str>(interned), default_value,
                                   parts[3].cast<std::string>(), parts[4].cast<bool>(), parts[5].cast<bool>(),
                                   parts[6].cast<bool>()});
    }
    if (self->parameters->size() > kMostParameters) {
      throw Error(ErrorKind::kInvalidArgument, "kernel " + text_of(self->kernel_name) + " has " +
                                                   std::to_string(self->parameters->size()) + " parameters, at most " +
                                                   std::to_string(kMostParameters) + " are possible.");
    }
    return owner.inc_ref().ptr();
  });
}

int dispatcher_traverse(PyObject* object, visitproc visit, void* arg) {
  auto* self = reinterpret_cast<Dispatcher*>(object);
  Py_VISIT(Py_TYPE(object));
  Py_VISIT(self->kernel_name);
  Py_VISIT(self->miss);
  Py_VISIT(self->fallback);
  for (const Parameter& parameter : *self->parameters) Py_VISIT(parameter.default_value.ptr());
  for (const auto& variant : *self->variants) {
    if (variant == nullptr) continue;
    Py_VISIT(variant->result.ptr());
    for (const py::object& constant : variant->constants) Py_VISIT(constant.ptr());
    for (const Global& global : variant->globals) {  // the module that the kernel stands in, too
      Py_VISIT(global.dict.ptr());
      Py_VISIT(global.value.ptr());
    }
  }
  return 0;
}

int dispatcher_clear(PyObject* object) {
  auto* self = reinterpret_cast<Dispatcher*>(object);
  Py_CLEAR(self->miss);
  Py_CLEAR(self->fallback);
  for (Parameter& parameter : *self->parameters) parameter.default_value = py::object();
  // Taken out first: what ends with a variant may come back here.
  std::vector<std::unique_ptr<Variant>> variants(self->variants->size());
  variants.swap(*self->variants);
  return 0;
}

void dispatcher_dealloc(PyObject* object) {
  auto* self = reinterpret_cast<Dispatcher*>(object);
  PyTypeObject* type = Py_TYPE(object);
  PyObject_GC_UnTrack(object);
  dispatcher_clear(object);
  Py_CLEAR(self->kernel_name);
  delete self->variants;
  delete self->parameters;
  type->tp_free(object);
  Py_DECREF(type);
}

PyObject* dispatcher_launcher(PyObject* object, PyObject* grid) {
  return guarded([&]() -> PyObject* {
    const bool is_function = PyCallable_Check(grid) != 0;
    const Grid fixed = is_function ? Grid{0, 0, 0} : grid_from_object(grid);
    auto* launcher = reinterpret_cast<Launcher*>(require(launcher_type->tp_alloc(launcher_type, 0)));
    launcher->call = launch_kernel;
    Py_INCREF(object);
    launcher->dispatcher = reinterpret_cast<Dispatcher*>(object);
    Py_INCREF(grid);
    launcher->grid = {grid, is_function, fixed};
    return reinterpret_cast<PyObject*>(launcher);
  });
}

PyObject* dispatcher_size(PyObject* object, PyObject*) {
  return PyLong_FromSize_t(reinterpret_cast<Dispatcher*>(object)->count);
}

int launcher_traverse(PyObject* object, visitproc visit, void* arg) {
  auto* self = reinterpret_cast<Launcher*>(object);
  Py_VISIT(Py_TYPE(object));
  Py_VISIT(reinterpret_cast<PyObject*>(self->dispatcher));
  Py_VISIT(self->grid.object);
  return 0;
}

void launcher_dealloc(PyObject* object) {
  auto* self = reinterpret_cast<Launcher*>(object);
  PyTypeObject* type = Py_TYPE(object);
  PyObject_GC_UnTrack(object);
  Py_XDECREF(reinterpret_cast<PyObject*>(self->dispatcher));
  Py_XDECREF(self->grid.object);
  type->tp_free(object);
  Py_DECREF(type);
}

PyMethodDef dispatcher_methods[] = {
    {"launcher", dispatcher_launcher, METH_O, "launcher(grid)\n\nA callable that launches the kernel on this grid."},
    {"size", dispatcher_size, METH_NOARGS, "size() -> int\n\nCompiled variants that are loaded."},
    {nullptr, nullptr, 0, nullptr}};

PyMemberDef launcher_members[] = {{"__vectorcalloffset__", T_PYSSIZET, offsetof(Launcher, call), READONLY, nullptr},
                                  {nullptr, 0, 0, 0, nullptr}};

template <typename T>
PyType_Slot slot(int id, T* function) {
  return {id, reinterpret_cast<void*>(function)};
}

void add_types(py::module_& module) {
  PyType_Slot dispatcher_slots[] = {slot(Py_tp_new, dispatcher_new),           slot(Py_tp_dealloc, dispatcher_dealloc),
                                    slot(Py_tp_traverse, dispatcher_traverse), slot(Py_tp_clear, dispatcher_clear),
                                    slot(Py_tp_methods, dispatcher_methods),   {0, nullptr}};
  PyType_Spec dispatcher_spec = {"unify._core.Dispatcher", sizeof(Dispatcher), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, dispatcher_slots};
  module.add_object("Dispatcher", py::reinterpret_steal<py::object>(require(PyType_FromSpec(&dispatcher_spec))));

  PyType_Slot launcher_slots[] = {slot(Py_tp_dealloc, launcher_dealloc),
                                  slot(Py_tp_traverse, launcher_traverse),
                                  slot(Py_tp_call, PyVectorcall_Call),
                                  slot(Py_tp_members, launcher_members),
                                  {0, nullptr}};
  PyType_Spec launcher_spec = {"unify._core.Launcher", sizeof(Launcher), 0,
                               Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL, launcher_slots};
  launcher_type = reinterpret_cast<PyTypeObject*>(require(PyType_FromSpec(&launcher_spec)));
}

py::object load_function(const std::shared_ptr<Device>& device, const py::bytes& image, const std::string& name,
                         uint64_t shared_bytes, uint32_t threads, size_t args_bytes, const std::string& location,
                         uint32_t cluster, uint32_t flags, uint64_t scratch_bytes, uint32_t scratch_offset,
                         uint32_t scratch_programs) {
  char* data = nullptr;
  Py_ssize_t size = 0;
  if (PyBytes_AsStringAndSize(image.ptr(), &data, &size) != 0) throw_python();
  std::shared_ptr<Function> function = without_gil([&] {
    LaunchShape shape;
    shape.shared_bytes = shared_bytes;
    shape.threads = threads;
    shape.flags = flags;
    if (cluster != 0) shape.cluster = {cluster, 1, 1};
    return Function::get(Module::load(device, data, static_cast<size_t>(size), name), name, shape, args_bytes,
                         location);
  });
  function->scratch = {scratch_bytes, scratch_offset, scratch_programs};
  return function_object(std::move(function), nullptr);
}

}  // namespace
}  // namespace kernel

void bind_kernel(py::module_& module) {
  kernel::add_types(module);
  module.def("load_function", kernel::load_function, py::arg("device"), py::arg("image"), py::arg("name"),
             py::arg("shared_bytes"), py::arg("threads"), py::arg("args_bytes"), py::arg("location") = "",
             py::arg("cluster") = 0, py::arg("flags") = 0, py::arg("scratch_bytes") = 0, py::arg("scratch_offset") = 0,
             py::arg("scratch_programs") = 0, "Loads a compiled image onto a device and finds its kernel.");
}

}  // namespace unify::python
