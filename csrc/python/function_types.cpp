// The Python types around functions that others compiled: a loaded image, a Function in it, its launcher for one grid.
#include <Python.h>
// After Python.h, which it needs.
#include <structmember.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>

#include "function.h"

namespace unify::python {
namespace kernel {
namespace {

PyTypeObject* function_type = nullptr;
PyTypeObject* launcher_type = nullptr;

FunctionObject& of(PyObject* object) { return *reinterpret_cast<FunctionObject*>(object); }

[[noreturn]] void throw_unpackable(const Function& function, const std::string& what) {
  throw Error(ErrorKind::kInvalidArgument, "kernel " + function.name + ": " + what);
}

uint32_t size_of(const std::string& type, Kind kind) {
  if (kind == Kind::kBytes) return static_cast<uint32_t>(std::strtoul(type.c_str() + 6, nullptr, 10));  // "bytes[24]@8"
  return static_cast<uint32_t>(bytes_of(kind));
}

// Appends what one unify.compiler.Parameter says.
void declare(Declaration& declaration, const py::handle parameter) {
  std::vector<Parameter>& parameters = declaration.parameters;
  const auto type = parameter.attr("type").cast<std::string>();
  const Kind kind = kind_of(type);
  Field field = {parameters.size(), kind, parameter.attr("is_written").cast<bool>(),
                 parameter.attr("offset").cast<uint32_t>(), 0};
  PyObject* name = py::str(parameter.attr("name")).release().ptr();
  PyUnicode_InternInPlace(&name);
  const auto interned = py::reinterpret_steal<py::str>(name);
  if (kind == Kind::kLow || kind == Kind::kHigh) {  // of an array that was declared before
    field.parameter = 0;
    while (field.parameter < parameters.size() && !parameters[field.parameter].name.is(interned)) ++field.parameter;
    declaration.packing.is_checked = true;
  } else {
    parameters.push_back({interned, py::object(), type, false, false, false});
  }
  if (kind == Kind::kBytes) field.bytes = size_of(type, kind);
  if (kind == Kind::kPointer) {
    field.bytes = element_bytes(type);
    field.is_written = field.is_written && type.compare(0, 2, "*k") != 0;
  }
  declaration.packing.fields.push_back(field);
}

// A field beyond the packed arguments would be memory that is not the launch's.
std::unique_ptr<Declaration> declaration_of(const Function& function, PyObject* parameters) {
  auto declaration = std::make_unique<Declaration>();
  for (const py::handle parameter : py::reinterpret_borrow<py::iterable>(parameters)) declare(*declaration, parameter);
  const size_t count = declaration->parameters.size();
  if (count > kMostParameters || function.args_bytes > kMostBytes) {
    throw_unpackable(function, std::to_string(count) + " parameters of " + std::to_string(function.args_bytes) +
                                   " bytes; at most " + std::to_string(kMostParameters) + " of " +
                                   std::to_string(kMostBytes) + " bytes can be passed.");
  }
  declaration->packing.args_bytes = static_cast<uint32_t>(function.args_bytes);
  for (const Field& field : declaration->packing.fields) {
    const bool is_there = field.parameter < count;
    const size_t bytes = field.kind == Kind::kBytes ? field.bytes : bytes_of(field.kind);
    if (!is_there || field.offset + bytes > function.args_bytes) {
      throw_unpackable(function, "its parameters do not lie in its " + std::to_string(function.args_bytes) + " bytes.");
    }
  }
  return declaration;
}

void function_dealloc(PyObject* object) {
  PyTypeObject* type = Py_TYPE(object);
  FunctionObject& self = of(object);
  using Pointer = std::shared_ptr<Function>;
  using Declared = std::unique_ptr<Declaration>;
  self.declaration.~Declared();
  self.function.~Pointer();
  Py_XDECREF(self.name);
  Py_XDECREF(self.parameters);
  type->tp_free(object);
  Py_DECREF(type);
}

PyObject* function_subscript(PyObject* object, PyObject* key) {
  return guarded([&]() -> PyObject* {
    const auto [grid, block] = subscript_of(key);
    const GridChoice choice = choice_of(grid);
    LaunchShape shape = of(object).function->shape;
    if (block != nullptr) set_block(shape, block);
    auto* launcher = reinterpret_cast<FunctionLauncher*>(require(launcher_type->tp_alloc(launcher_type, 0)));
    launcher->call = launch_function;
    Py_INCREF(object);
    launcher->function = &of(object);
    Py_INCREF(grid);
    launcher->grid = choice;
    launcher->shape = shape;
    return reinterpret_cast<PyObject*>(launcher);
  });
}

PyObject* function_call(PyObject* object, PyObject*, PyObject*) {
  return guarded([&]() -> PyObject* {
    const std::string name = text_of(of(object).name);
    throw Error(ErrorKind::kInvalidArgument,
                "kernel " + name + ": a launch needs a grid, the number of programs: " + name + "[grid](arguments).");
  });
}

PyObject* function_repr(PyObject* object) {
  const Function& function = *of(object).function;
  return PyUnicode_FromFormat("unify.Function(%s, %s)", function.label, function.module->device().name().c_str());
}

PyObject* get_name(PyObject* object, void*) { return Py_NewRef(of(object).name); }
PyObject* get_device(PyObject* object, void*) {
  return guarded([&] { return Py_NewRef(device_object(of(object).function->module->device_ptr())); });
}
PyObject* get_parameters(PyObject* object, void*) {
  PyObject* parameters = of(object).parameters;
  return Py_NewRef(parameters == nullptr ? Py_None : parameters);
}
PyObject* get_threads(PyObject* object, void*) {
  const uint32_t threads = of(object).function->shape.threads;
  return threads == 0 ? Py_NewRef(Py_None) : PyLong_FromUnsignedLong(threads);
}
PyObject* get_shared_bytes(PyObject* object, void*) {
  return PyLong_FromUnsignedLongLong(of(object).function->shape.shared_bytes);
}
PyObject* get_max_threads(PyObject* object, void*) { return PyLong_FromUnsignedLong(of(object).function->max_threads); }
PyObject* get_registers(PyObject* object, void*) { return PyLong_FromUnsignedLong(of(object).function->registers); }
PyObject* get_local_bytes(PyObject* object, void*) {
  return PyLong_FromUnsignedLongLong(of(object).function->local_bytes);
}

PyGetSetDef function_attributes[] = {
    {"name", get_name, nullptr, "Its name in the image.", nullptr},
    {"device", get_device, nullptr, "The device it was loaded on.", nullptr},
    {"parameters", get_parameters, nullptr, "What it takes, unify.compiler.Parameter each; None if nobody said.",
     nullptr},
    {"threads", get_threads, nullptr, "Of a program, unless the launch says otherwise; None if nobody said.", nullptr},
    {"shared_bytes", get_shared_bytes, nullptr, "Scratch memory of a program, unless the launch says otherwise.",
     nullptr},
    {"max_threads", get_max_threads, nullptr, "The most threads a program may have; 0 if unknown.", nullptr},
    {"registers", get_registers, nullptr, "Of each thread; 0 if unknown.", nullptr},
    {"local_bytes", get_local_bytes, nullptr, "Memory of each thread for what its registers do not hold.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr}};

// Not PyCFunction_CAST, which is newer than Python 3.10.
PyMethodDef function_methods[] = {
    {"launch", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(launch_with_everything)),
     METH_FASTCALL | METH_KEYWORDS,
     "launch(grid, args, *, block=None, cluster=None, cooperative=False, overlapping=False, shared_bytes=None, "
     "stream=None)\n\n"
     "Enqueues a launch with everything that can be said of one.\n\n"
     "args: a tuple. block: threads of a program, a number or up to three. cluster: programs that see each other's\n"
     "scratch memory. cooperative: all programs run at once and may wait for each other. overlapping: may begin\n"
     "before the launch ahead of it has ended (CUDA's programmatic dependent launch).\n"
     "Raises InvalidArgument, UnsupportedError for what the device does not have, KernelFault."},
    {nullptr, nullptr, 0, nullptr}};

int launcher_traverse(PyObject* object, visitproc visit, void* arg) {
  auto* self = reinterpret_cast<FunctionLauncher*>(object);
  Py_VISIT(Py_TYPE(object));
  Py_VISIT(reinterpret_cast<PyObject*>(self->function));
  Py_VISIT(self->grid.object);
  return 0;
}

void launcher_dealloc(PyObject* object) {
  auto* self = reinterpret_cast<FunctionLauncher*>(object);
  PyTypeObject* type = Py_TYPE(object);
  PyObject_GC_UnTrack(object);
  Py_XDECREF(reinterpret_cast<PyObject*>(self->function));
  Py_XDECREF(self->grid.object);
  type->tp_free(object);
  Py_DECREF(type);
}

PyMemberDef launcher_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(FunctionLauncher, call), READONLY, nullptr},
    {nullptr, 0, 0, 0, nullptr}};

constexpr const char* kFunctionDoc =
    "A kernel that was compiled elsewhere: `f[grid](arguments, stream=…)`. Made by Module.function().\n\n"
    "f[grid, block] gives the threads of each program too, where one of the two is a tuple: f[(4,), 128]. Numbers\n"
    "alone are a grid, as for unify.jit's kernels: f[4, 128]. Arguments are those of unify.jit's kernels; None is a\n"
    "null pointer. They are checked against the declared types and go by position, or by name where there are names.";

template <typename T>
PyType_Slot slot(int id, T* function) {
  return {id, reinterpret_cast<void*>(function)};
}

void add_types(py::module_& module) {
  PyType_Slot function_slots[] = {slot(Py_tp_dealloc, function_dealloc),
                                  slot(Py_mp_subscript, function_subscript),
                                  slot(Py_tp_call, function_call),
                                  slot(Py_tp_repr, function_repr),
                                  slot(Py_tp_getset, function_attributes),
                                  slot(Py_tp_methods, function_methods),
                                  {Py_tp_doc, const_cast<char*>(kFunctionDoc)},
                                  {0, nullptr}};
  PyType_Spec function_spec = {"unify._core.Function", sizeof(FunctionObject), 0, Py_TPFLAGS_DEFAULT, function_slots};
  function_type = reinterpret_cast<PyTypeObject*>(require(PyType_FromSpec(&function_spec)));
  function_type->tp_new = nullptr;  // by Module.function() only
  module.add_object("Function", py::reinterpret_borrow<py::object>(reinterpret_cast<PyObject*>(function_type)));

  PyType_Slot launcher_slots[] = {slot(Py_tp_dealloc, launcher_dealloc),
                                  slot(Py_tp_traverse, launcher_traverse),
                                  slot(Py_tp_call, PyVectorcall_Call),
                                  slot(Py_tp_members, launcher_members),
                                  {0, nullptr}};
  PyType_Spec launcher_spec = {"unify._core.FunctionLauncher", sizeof(FunctionLauncher), 0,
                               Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL, launcher_slots};
  launcher_type = reinterpret_cast<PyTypeObject*>(require(PyType_FromSpec(&launcher_spec)));
}

std::shared_ptr<Module> load_module(const py::object& device, const py::bytes& image, const std::string& name) {
  const std::shared_ptr<Device> opened = device_from_object(device.ptr());
  char* data = nullptr;
  Py_ssize_t size = 0;
  if (PyBytes_AsStringAndSize(image.ptr(), &data, &size) != 0) throw_python();
  return without_gil([&] { return Module::load(opened, data, static_cast<size_t>(size), name); });
}

py::object find_function(const std::shared_ptr<Module>& module, const std::string& name, const py::object& parameters,
                         size_t args_bytes, uint32_t threads, uint64_t shared_bytes, const std::string& location,
                         uint32_t cluster, uint32_t flags, uint64_t scratch_bytes, uint32_t scratch_offset,
                         uint32_t scratch_programs) {
  const bool is_declared = !parameters.is_none();
  if (scratch_offset != 0 && (!is_declared || scratch_offset + sizeof(uint64_t) > args_bytes)) {
    throw Error(ErrorKind::kInvalidArgument,
                "function " + name + ": the address of its scratch memory lies outside of its arguments.");
  }
  std::shared_ptr<Function> function = without_gil([&] {
    LaunchShape shape;
    shape.shared_bytes = shared_bytes;
    shape.threads = threads != 0 ? threads : module->device().info().max_threads == 1 ? 1 : 0;
    shape.flags = flags;
    if (cluster != 0) shape.cluster = {cluster, 1, 1};
    return Function::get(module, name, shape, is_declared || args_bytes != 0 ? args_bytes : Function::kAnyBytes,
                         location);
  });
  // Of a block, since that is what launches of functions count in the end.
  if (cluster != 0) scratch_bytes = (scratch_bytes + cluster - 1) / cluster;
  function->scratch = {scratch_bytes, scratch_offset, scratch_programs};
  return function_object(std::move(function), is_declared ? parameters.ptr() : nullptr);
}

}  // namespace

py::object function_object(std::shared_ptr<Function> function, PyObject* parameters) {
  std::unique_ptr<Declaration> declaration = parameters == nullptr ? nullptr : declaration_of(*function, parameters);
  const py::str name(function->name);
  auto* object = reinterpret_cast<FunctionObject*>(require(function_type->tp_alloc(function_type, 0)));
  new (&object->function) std::shared_ptr<Function>(std::move(function));
  new (&object->declaration) std::unique_ptr<Declaration>(std::move(declaration));
  object->name = Py_NewRef(name.ptr());
  object->parameters = Py_XNewRef(parameters);
  return py::reinterpret_steal<py::object>(reinterpret_cast<PyObject*>(object));
}

}  // namespace kernel

void bind_function(py::module_& module) {
  kernel::add_types(module);
  py::class_<Module, std::shared_ptr<Module>>(module, "LoadedModule", "A compiled image on a device.",
                                              py::release_gil_before_calling_cpp_dtor())
      .def("function", kernel::find_function, py::arg("name"), py::arg("parameters"), py::arg("args_bytes"),
           py::arg("threads"), py::arg("shared_bytes"), py::arg("location"), py::arg("cluster") = 0,
           py::arg("flags") = 0, py::arg("scratch_bytes") = 0, py::arg("scratch_offset") = 0,
           py::arg("scratch_programs") = 0, "Finds an entry point of the image.");
  module.def("load_module", kernel::load_module, py::arg("device"), py::arg("image"), py::arg("name"),
             "Loads a compiled image onto a device.");
}

}  // namespace unify::python
