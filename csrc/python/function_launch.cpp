// The launch path of functions that others compiled: declared types → packed arguments → launch.
#include <unordered_map>

#include "arguments.h"
#include "dtype.h"
#include "function.h"

namespace unify::python::kernel {
namespace {

// Structs are read where they lie, so that whoever owns one must not move it before it was packed.
class Buffers {
 public:
  Buffers() = default;
  ~Buffers() {
    for (Py_buffer& view : views_) PyBuffer_Release(&view);
  }
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;

  // False for what has no buffer in one piece.
  bool take(PyObject* object, const void** out_data, size_t* out_bytes) {
    if (PyBytes_CheckExact(object)) {
      *out_data = PyBytes_AS_STRING(object);
      *out_bytes = static_cast<size_t>(PyBytes_GET_SIZE(object));
      return true;
    }
    Py_buffer view;
    if (PyObject_GetBuffer(object, &view, PyBUF_SIMPLE) != 0) {
      PyErr_Clear();
      return false;
    }
    views_.push_back(view);
    *out_data = view.buf;
    *out_bytes = static_cast<size_t>(view.len);
    return true;
  }

 private:
  std::vector<Py_buffer> views_;
};

void classify_bytes(Call& call, const Field& field, Buffers& buffers) {
  const size_t index = field.parameter;
  Argument& argument = call.arguments[index];
  const void* data = nullptr;
  size_t bytes = 0;
  if (!buffers.take(argument.value, &data, &bytes)) {
    throw_argument(call, index,
                   "is annotated as " + call.parameters[index].forced_type + " and is " + described(argument.value) +
                       "; pass bytes, a ctypes.Structure or another object with a buffer.",
                   ErrorKind::kDType);
  }
  if (bytes != field.bytes) {
    throw_argument(
        call, index,
        "is annotated as " + call.parameters[index].forced_type + " and has " + std::to_string(bytes) + " bytes.",
        ErrorKind::kDType);
  }
  argument.bits = reinterpret_cast<uint64_t>(data);
}

bool is_accepted(const Argument& argument, const Field& field) {
  const bool is_address = field.kind == Kind::kPointer || field.kind == Kind::kAddress;
  switch (argument.tag) {
    case Tag::kConstant:  // None
      return is_address;
    case Tag::kPointer:
      return is_address && (field.bytes == 0 || field.bytes == argument.element_bytes) &&
             !(argument.is_readonly && field.is_written);
    case Tag::kBool:
    case Tag::kInt:
      return field.kind != Kind::kPointer;
    case Tag::kFloat:
      return field.kind >= Kind::kFloat16;
  }
  return false;
}

[[noreturn]] void throw_refused(const Call& call, const Field& field) {
  const size_t index = field.parameter;
  const std::string& type = call.parameters[index].forced_type;
  if (call.arguments[index].tag == Tag::kConstant) {
    throw_argument(call, index, "is annotated as " + type + " and is None; pass a number.", ErrorKind::kDType);
  }
  if (field.kind != Kind::kAddress || call.arguments[index].tag != Tag::kPointer) check_annotation(call, index);
  const std::string constant = type[0] == '*' ? "*k" + type.substr(1) : "a const pointer, *kfp32 say";
  throw_argument(call, index,
                 "is read-only, and the kernel may write to it. Pass a copy, or declare the parameter as " + constant +
                     " if it does not.");
}

void classify_declared(Call& call, const Field& field, Buffers& buffers) {
  if (field.kind == Kind::kLow || field.kind == Kind::kHigh) {
    if (call.arguments[field.parameter].tag != Tag::kPointer) {
      throw_argument(call, field.parameter, "must be an array: this kernel was compiled with bounds checks.");
    }
  } else if (field.kind == Kind::kBytes) {
    classify_bytes(call, field, buffers);
  } else {
    classify_value(call, field.parameter);
    if (!is_accepted(call.arguments[field.parameter], field)) throw_refused(call, field);
  }
}

// ---- without a declaration ----

const std::vector<Parameter>& numbered_parameters() {
  static const auto* parameters = [] {
    auto* made = new std::vector<Parameter>;
    for (size_t i = 0; i < kMostParameters; ++i) {
      made->push_back({py::str("arg" + std::to_string(i)), py::object(), {}, false, false, false});
    }
    return made;
  }();
  return *parameters;
}

[[noreturn]] void throw_no_width(const Call& call, size_t index) {
  throw_argument(call, index,
                 "is " + described(call.arguments[index].value) +
                     ", which does not say its width, and the function was found without types. Give them, as in "
                     "module.function(name, \"*fp32, i32\"), or pass a NumPy scalar such as numpy.int32(1).",
                 ErrorKind::kDType);
}

// Of a type of NumPy's scalars: by what its dtype is called, which is slow, once. Needs the GIL.
Kind kind_of_scalar(PyObject* value) {
  static auto* known = new std::unordered_map<PyTypeObject*, Kind>;
  const auto found = known->find(Py_TYPE(value));
  if (found != known->end()) return found->second;
  const Kind kind = kind_of(triton_name(dtype_from_object(py::object(py::handle(value).attr("dtype")).ptr())));
  Py_INCREF(Py_TYPE(value));  // for ever, so that no other type gets its address
  known->emplace(Py_TYPE(value), kind);
  return kind;
}

Kind classify_undeclared(Call& call, size_t index) {
  PyObject* value = call.arguments[index].value;
  if (PyBool_Check(value)) {
    classify_value(call, index);
    return Kind::kBool;
  }
  if (PyLong_Check(value) || (PyFloat_Check(value) && !is_numpy_scalar(value)) || PyBytes_Check(value)) {
    throw_no_width(call, index);
  }
  if (is_numpy_scalar(value)) {
    const Kind kind = kind_of_scalar(value);
    classify_value(call, index);
    return kind;
  }
  classify_value(call, index);
  if (call.arguments[index].is_readonly) {
    throw_argument(call, index, "is read-only, and the kernel may write to it. Pass a copy, or declare *k types.");
  }
  return Kind::kPointer;
}

Packing undeclared_packing(Call& call) {
  Packing packing;
  for (size_t i = 0; i < call.size; ++i) {
    const Kind kind = classify_undeclared(call, i);
    const auto bytes = static_cast<uint32_t>(bytes_of(kind));
    const uint32_t offset = (packing.args_bytes + bytes - 1) / bytes * bytes;
    packing.fields.push_back({i, kind, true, offset, 0});
    packing.args_bytes = offset + bytes;
  }
  return packing;
}

// ---- the launch ----

void require_threads(const FunctionObject& function, const LaunchShape& shape) {
  if (shape.threads != 0) return;
  throw Error(ErrorKind::kInvalidArgument,
              "kernel " + text_of(function.name) +
                  ": how many threads a program has is not known. Give threads= to module.function(), or a block at "
                  "the launch, one of the two in a tuple: f[(4,), 128] is 4 programs of 128 threads, f[4, 128] is a "
                  "grid of 4 × 128 programs.");
}

struct Arguments {
  PyObject* const* values;
  size_t count;
  PyObject* keywords;  // or null
  PyObject* stream;    // or null
};

// A program of Triton's is a cluster of blocks; who names a cluster counts blocks.
Grid blocks_of(Grid grid, const LaunchShape& shape, bool names_cluster) {
  const bool is_several = !names_cluster && shape.cluster[0] != 0;
  if (is_several && __builtin_mul_overflow(grid[0], shape.cluster[0], &grid[0])) grid[0] = UINT32_MAX;  // is refused
  return grid;
}

void launch(const FunctionObject& owner, const GridChoice& grid, const LaunchShape& shape, bool names_cluster,
            const Arguments& given) {
  require_threads(owner, shape);
  const std::shared_ptr<Function> function = owner.function;
  const Declaration* declaration = owner.declaration.get();
  if (declaration == nullptr && given.count > kMostParameters) {
    throw Error(ErrorKind::kInvalidArgument, "kernel " + text_of(owner.name) + ": " + std::to_string(given.count) +
                                                 " arguments were given, at most " + std::to_string(kMostParameters) +
                                                 " are possible.");
  }
  const std::vector<Parameter>& parameters = declaration == nullptr ? numbered_parameters() : declaration->parameters;
  Call call(owner.name, parameters.data(), declaration == nullptr ? given.count : parameters.size());
  call.device = &function->module->device();
  bind(call, given.values, given.count, given.keywords);
  if (given.stream != nullptr) call.stream = given.stream;
  Buffers buffers;
  if (declaration == nullptr) {
    const Packing packing = undeclared_packing(call);
    enqueue(call, function, packing, blocks_of(grid_of(grid, call), shape, names_cluster), &shape, false);
    return;
  }
  for (const Field& field : declaration->packing.fields) classify_declared(call, field, buffers);
  const Grid blocks = blocks_of(grid_of(grid, call), shape, names_cluster);
  enqueue(call, function, declaration->packing, blocks, &shape, false);
}

// ---- shapes ----

[[noreturn]] void throw_no_extents(const char* what, PyObject* object) {
  throw Error(ErrorKind::kInvalidArgument, std::string("a ") + what +
                                               " is a number or a tuple of one to three, each at least 1; it is " +
                                               described(object) + ".");
}

uint32_t extent_of(const char* what, PyObject* value, PyObject* object) {
  if (!PyIndex_Check(value)) throw_no_extents(what, object);
  const Py_ssize_t extent = PyNumber_AsSsize_t(value, nullptr);  // clipped
  if (extent == -1 && PyErr_Occurred() != nullptr) throw_python();
  if (extent < 1 || extent > static_cast<Py_ssize_t>(UINT16_MAX)) throw_no_extents(what, object);
  return static_cast<uint32_t>(extent);
}

std::array<uint32_t, 3> extents_of(const char* what, PyObject* object) {
  std::array<uint32_t, 3> extents = {1, 1, 1};
  if (!PyTuple_Check(object) && !PyList_Check(object)) {
    extents[0] = extent_of(what, object, object);
    return extents;
  }
  const Py_ssize_t size = PySequence_Fast_GET_SIZE(object);
  if (size < 1 || size > 3) throw_no_extents(what, object);
  for (Py_ssize_t i = 0; i < size; ++i) {
    extents[static_cast<size_t>(i)] = extent_of(what, PySequence_Fast_GET_ITEM(object, i), object);
  }
  return extents;
}

uint64_t bytes_from(PyObject* object) {
  const unsigned long long bytes = PyLong_AsUnsignedLongLong(object);
  if (bytes == static_cast<unsigned long long>(-1) && PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    throw Error(ErrorKind::kInvalidArgument, "shared_bytes is a whole number from 0; it is " + described(object) + ".");
  }
  return bytes;
}

// Some chips have to be told before the launch how much a program may have.
void allow_shared(FunctionObject& owner, uint64_t bytes) {
  const std::shared_ptr<Function> old = owner.function;
  if (bytes <= old->shared_limit) return;
  LaunchShape shape = old->shape;
  shape.shared_bytes = bytes;
  std::shared_ptr<Function> larger =
      without_gil([&] { return Function::get(old->module, old->name, shape, old->args_bytes); });
  larger->label = old->label;
  larger->shape = old->shape;
  larger->scratch = old->scratch;
  if (owner.function->shared_limit < larger->shared_limit) owner.function = std::move(larger);
}

}  // namespace

Subscript subscript_of(PyObject* key) {
  if (PyTuple_Check(key) && PyTuple_GET_SIZE(key) == 2) {
    PyObject* grid = PyTuple_GET_ITEM(key, 0);
    PyObject* block = PyTuple_GET_ITEM(key, 1);
    const auto is_several = [](PyObject* one) { return PyTuple_Check(one) || PyList_Check(one); };
    if (is_several(grid) || is_several(block) || PyCallable_Check(grid) != 0) return {grid, block};
  }
  return {key, nullptr};
}

GridChoice choice_of(PyObject* grid) {
  const bool is_function = PyCallable_Check(grid) != 0;
  return {grid, is_function, is_function ? Grid{0, 0, 0} : grid_from_object(grid)};
}

void set_block(LaunchShape& shape, PyObject* block) {
  const std::array<uint32_t, 3> extents = extents_of("block", block);
  const uint64_t threads = uint64_t{extents[0]} * extents[1] * extents[2];
  if (threads > UINT32_MAX) throw_no_extents("block", block);
  shape.threads = static_cast<uint32_t>(threads);
  shape.block = {};
  if (extents[1] != 1 || extents[2] != 1) shape.block = extents;
}

PyObject* launch_function(PyObject* self, PyObject* const* args, size_t nargsf, PyObject* keywords) {
  return guarded([&]() -> PyObject* {
    const FunctionLauncher& launcher = *reinterpret_cast<FunctionLauncher*>(self);
    const auto count = static_cast<size_t>(PyVectorcall_NARGS(nargsf));
    launch(*launcher.function, launcher.grid, launcher.shape, false, {args, count, keywords, nullptr});
    Py_RETURN_NONE;
  });
}

PyObject* launch_with_everything(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* keywords) {
  return guarded([&]() -> PyObject* {
    static constexpr Signature<8> signature = {
        "launch", 2, 2, {"grid", "args", "block", "cluster", "cooperative", "overlapping", "shared_bytes", "stream"}};
    const auto [grid, values, block, cluster, cooperative, overlapping, shared_bytes, stream] =
        parse_arguments(signature, args, nargs, keywords);
    auto& function = *reinterpret_cast<FunctionObject*>(self);
    if (!PyTuple_Check(values) && !PyList_Check(values)) {
      throw Error(ErrorKind::kInvalidArgument, "kernel " + text_of(function.name) +
                                                   ": launch() takes the arguments as a tuple; they are " +
                                                   described(values) + ".");
    }
    LaunchShape shape = function.function->shape;
    if (is_given(block)) set_block(shape, block);
    if (is_given(cluster)) shape.cluster = extents_of("cluster", cluster);
    if (is_true(cooperative)) shape.flags |= UNIFY_LAUNCH_COOPERATIVE;
    if (is_true(overlapping)) shape.flags |= UNIFY_LAUNCH_OVERLAPPING;
    if (is_given(shared_bytes)) {
      shape.shared_bytes = bytes_from(shared_bytes);
      allow_shared(function, shape.shared_bytes);
    }
    // A copy: a list could be changed by another thread.
    const py::object held = py::reinterpret_steal<py::object>(require(PySequence_Tuple(values)));
    PyObject** items = PySequence_Fast_ITEMS(held.ptr());
    const auto count = static_cast<size_t>(PyTuple_GET_SIZE(held.ptr()));
    launch(function, choice_of(grid), shape, is_given(cluster),
           {items, count, nullptr, is_given(stream) ? stream : nullptr});
    Py_RETURN_NONE;
  });
}

}  // namespace unify::python::kernel
