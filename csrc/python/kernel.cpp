// The launch path of unify.jit: arguments → key → compiled kernel → launch. Only a key that was never seen reaches
// Python.
#include "kernel.h"

#include <cstring>

#include "../core/stream.h"
#include "../core/tensor.h"
#include "dtype.h"
#include "owner.h"

namespace unify::python::kernel {

std::string name_of(const Dispatcher& dispatcher) { return text_of(dispatcher.kernel_name); }

void throw_argument(const Call& call, size_t index, const std::string& what, ErrorKind kind) {
  throw Error(kind, "kernel " + name_of(call.dispatcher) + ": argument '" + text_of(call.parameters[index].name.ptr()) +
                        "' " + what);
}

namespace {

template <typename T>
void put(unsigned char* at, T value) {
  std::memcpy(at, &value, sizeof value);
}

uint16_t rounded(DType dtype, double value) {
  uint16_t bits = 0;
  convert(dtype, &bits, 1, DType::kFloat64, &value, 1, 1);
  return bits;
}

void pack(const Call& call, const Variant& variant, unsigned char* out) {
  for (const Field& field : variant.fields) {
    const Argument& argument = call.arguments[field.parameter];
    unsigned char* at = out + field.offset;
    double number = 0;
    if (field.kind >= Kind::kFloat16) {
      if (argument.tag == Tag::kFloat) {
        std::memcpy(&number, &argument.bits, sizeof number);
      } else if (argument.type[0] == 'u') {
        number = static_cast<double>(argument.bits);
      } else {
        number = static_cast<double>(static_cast<int64_t>(argument.bits));
      }
    }
    switch (field.kind) {
      case Kind::kPointer:
      case Kind::kInt64:
        put(at, argument.bits);
        break;
      case Kind::kLow:
        put(at, argument.storage->address());
        break;
      case Kind::kHigh:
        put(at, argument.storage->address() + argument.storage->bytes());
        break;
      case Kind::kBool:
      case Kind::kInt8:
        put(at, static_cast<uint8_t>(argument.bits));
        break;
      case Kind::kInt16:
        put(at, static_cast<uint16_t>(argument.bits));
        break;
      case Kind::kInt32:
        put(at, static_cast<uint32_t>(argument.bits));
        break;
      case Kind::kFloat16:
        put(at, rounded(DType::kFloat16, number));
        break;
      case Kind::kBFloat16:
        put(at, rounded(DType::kBFloat16, number));
        break;
      case Kind::kFloat32:
        put(at, static_cast<float>(number));
        break;
      case Kind::kFloat64:
        put(at, number);
        break;
    }
  }
}

[[noreturn]] void throw_no_grid(PyObject* object, const std::string& why) {
  const std::string rule = "a grid is a number, a tuple of one to three numbers, or a function of the arguments; ";
  throw Error(ErrorKind::kInvalidArgument, rule + text_of(object) + " " + why + ".");
}

uint32_t extent_of(PyObject* value, PyObject* grid) {
  if (!PyIndex_Check(value)) throw_no_grid(grid, "is none");
  const Py_ssize_t extent = PyNumber_AsSsize_t(value, nullptr);  // clipped
  if (extent == -1 && PyErr_Occurred() != nullptr) throw_python();
  if (extent < 0 || extent > static_cast<Py_ssize_t>(UINT32_MAX)) {
    throw_no_grid(grid, "has a number that is not between 0 and 2**32 - 1");
  }
  return static_cast<uint32_t>(extent);
}

Grid grid_of(const Launcher& launcher, const Call& call) {
  if (!launcher.is_function) return launcher.grid;
  py::dict meta;
  for (size_t i = 0; i < call.size; ++i) {
    meta[call.parameters[i].name] = py::reinterpret_borrow<py::object>(call.arguments[i].value);
  }
  const py::object grid =
      py::reinterpret_steal<py::object>(require(PyObject_CallOneArg(launcher.grid_object, meta.ptr())));
  return grid_from_object(grid.ptr());
}

// What to launch; null when the call is the fallback's.
const Variant* prepare(Call& call, PyObject* const* args, size_t nargs, PyObject* keywords) {
  const bool has_fallback = call.dispatcher.fallback != nullptr;
  try {
    bind(call, args, nargs, keywords);
    classify(call);
    if (has_fallback && call.stream != nullptr) return nullptr;
    return &variant_of(call);
  } catch (const Error&) {
    if (has_fallback) return nullptr;
    throw;
  }
}

// Whether nothing is left to do on the stream.
bool has_run(Stream& stream) {
  const auto call = stream.device().call();
  return stream.is_dry();
}

// Keeps borrowed arrays until the work on the stream has run.
void keep_borrowed(Call& call, Stream& stream) {
  own_borrowed(call);
  for (std::shared_ptr<Storage>& owner : call.foreign) {
    without_gil([&] { stream.keep_alive(std::move(owner)); });
  }
}

// Memory of the launch's own, which goes back to the pool behind it.
std::shared_ptr<Storage> bring_scratch(const Function& function, const Grid& grid, Stream& stream,
                                       unsigned char* packed) {
  const uint64_t programs = uint64_t{grid[0]} * grid[1] * grid[2];
  uint64_t bytes = 0;
  if (__builtin_mul_overflow(programs, function.scratch_bytes, &bytes)) bytes = UINT64_MAX;
  std::shared_ptr<Storage> scratch = stream.device().allocator().allocate(bytes, stream);
  put(packed + function.scratch_offset, scratch->address());
  return scratch;
}

void enqueue(const Launcher& launcher, Call& call, const Variant& variant) {
  Grid grid = grid_of(launcher, call);
  if (variant.is_checked) own_borrowed(call);
  alignas(16) std::array<unsigned char, kMostBytes> packed;
  pack(call, variant, packed.data());
  const std::shared_ptr<Stream> stream = stream_from_object(call.stream, *call.device);
  const std::shared_ptr<Function> function = variant.function;
  if (function->scratch_offset != 0) std::memset(packed.data() + function->scratch_offset, 0, 2 * sizeof(uint64_t));
  if (function->scratch_bytes != 0) {
    call.foreign.push_back(without_gil([&] { return bring_scratch(*function, grid, *stream, packed.data()); }));
  }
  if (function->shape.cluster[0] != 0) grid[0] *= function->shape.cluster[0];  // a program is a cluster of blocks
  const bool waits = call.dispatcher.fallback != nullptr;
  bool is_borrowing = false;  // still, after the launch; most often it has run by then
  const auto try_launch = [&] {
    std::vector<std::shared_ptr<void>> owners(call.foreign.begin(), call.foreign.end());
    return without_gil([&] {
      const bool is_launched = launch(*stream, function, grid, packed.data(), variant.args_bytes, call.touched.data(),
                                      call.touched_count, owners.data(), owners.size(), call.borrowed_count == 0);
      if (is_launched && waits) stream->finish();
      is_borrowing = is_launched && !waits && call.borrowed_count > 0 && !has_run(*stream);
      return is_launched;
    });
  };
  if (!try_launch()) {
    own_borrowed(call);
    (void)try_launch();
  }
  if (is_borrowing) keep_borrowed(call, *stream);
  call.foreign.clear();
  release_owners();
}

}  // namespace

Grid grid_from_object(PyObject* object) {
  Grid grid = {1, 1, 1};
  if (PyTuple_Check(object) || PyList_Check(object)) {
    const Py_ssize_t size = PySequence_Fast_GET_SIZE(object);
    if (size < 1 || size > 3) throw_no_grid(object, "has " + std::to_string(size) + " numbers");
    for (Py_ssize_t i = 0; i < size; ++i) {
      grid[static_cast<size_t>(i)] = extent_of(PySequence_Fast_GET_ITEM(object, i), object);
    }
  } else {
    grid[0] = extent_of(object, object);
  }
  uint64_t programs = 0;
  if (__builtin_mul_overflow(uint64_t{grid[0]} * grid[1], uint64_t{grid[2]}, &programs)) {
    throw_no_grid(object, "has 2**64 programs or more");
  }
  return grid;
}

PyObject* launch_kernel(PyObject* self, PyObject* const* args, size_t nargsf, PyObject* keywords) {
  return guarded([&]() -> PyObject* {
    const Launcher& launcher = *reinterpret_cast<Launcher*>(self);
    Call call(*launcher.dispatcher);
    const Variant* variant = prepare(call, args, static_cast<size_t>(PyVectorcall_NARGS(nargsf)), keywords);
    if (variant == nullptr) {
      PyObject* function = PyObject_CallOneArg(launcher.dispatcher->fallback, launcher.grid_object);
      const py::object other = py::reinterpret_steal<py::object>(require(function));
      return PyObject_Vectorcall(other.ptr(), args, nargsf & ~PY_VECTORCALL_ARGUMENTS_OFFSET, keywords);
    }
    enqueue(launcher, call, *variant);
    return py::object(variant->result ? variant->result : py::none()).release().ptr();
  });
}

}  // namespace unify::python::kernel
