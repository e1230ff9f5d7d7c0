// Packs and launches: what kernels and functions share once it is known what runs.
#include <algorithm>
#include <cstring>

#include "../core/allocator.h"
#include "../core/stream.h"
#include "../core/tensor.h"
#include "dtype.h"
#include "kernel.h"
#include "owner.h"

namespace unify::python::kernel {
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

void pack(const Call& call, const Packing& packing, unsigned char* out) {
  for (const Field& field : packing.fields) {
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
      case Kind::kAddress:
      case Kind::kInt64:
        put(at, argument.bits);
        break;
      case Kind::kBytes:
        std::memcpy(at, reinterpret_cast<const void*>(argument.bits), field.bytes);
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

// Memory of the launch's own, which goes back to the pool behind it. Its address is written among the arguments.
void bring_scratch(Call& call, const Function& function, const Grid& grid, Stream& stream, unsigned char* packed) {
  const Scratch& scratch = function.scratch;
  if (scratch.bytes == 0) return;
  uint64_t programs = uint64_t{grid[0]} * grid[1] * grid[2];
  if (scratch.programs != 0) programs = std::min<uint64_t>(programs, scratch.programs);
  uint64_t bytes = 0;
  if (__builtin_mul_overflow(programs, scratch.bytes, &bytes)) bytes = UINT64_MAX;
  std::shared_ptr<Storage> memory = without_gil([&] { return stream.device().allocator().allocate(bytes, stream); });
  put(packed + scratch.offset, memory->address());
  call.foreign.push_back(std::move(memory));
}

}  // namespace

void throw_argument(const Call& call, size_t index, const std::string& what, ErrorKind kind) {
  throw Error(kind, "kernel " + text_of(call.kernel_name) + ": argument '" +
                        text_of(call.parameters[index].name.ptr()) + "' " + what);
}

Kind kind_of(const std::string& type) {
  if (type[0] == '*') return Kind::kPointer;
  if (type == "ptr" || type == "b64") return Kind::kAddress;
  if (type.compare(0, 6, "bytes[") == 0) return Kind::kBytes;
  if (type == "low") return Kind::kLow;
  if (type == "high") return Kind::kHigh;
  if (type == "i1" || type == "u1") return Kind::kBool;
  if (type == "i8" || type == "u8" || type == "b8") return Kind::kInt8;
  if (type == "i16" || type == "u16" || type == "b16") return Kind::kInt16;
  if (type == "i32" || type == "u32" || type == "b32") return Kind::kInt32;
  if (type == "i64" || type == "u64") return Kind::kInt64;
  if (type == "fp16") return Kind::kFloat16;
  if (type == "bf16") return Kind::kBFloat16;
  if (type == "fp32") return Kind::kFloat32;
  if (type == "fp64") return Kind::kFloat64;
  throw Error(ErrorKind::kDType, "a kernel parameter of type " + type + " cannot be passed.");
}

size_t bytes_of(Kind kind) {
  switch (kind) {
    case Kind::kBool:
    case Kind::kInt8:
      return 1;
    case Kind::kInt16:
    case Kind::kFloat16:
    case Kind::kBFloat16:
      return 2;
    case Kind::kInt32:
    case Kind::kFloat32:
      return 4;
    default:
      return 8;
  }
}

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

Grid grid_of(const GridChoice& choice, const Call& call) {
  if (!choice.is_function) return choice.numbers;
  py::dict meta;
  for (size_t i = 0; i < call.size; ++i) {
    meta[call.parameters[i].name] = py::reinterpret_borrow<py::object>(call.arguments[i].value);
  }
  const auto grid = py::reinterpret_steal<py::object>(
      require(in_python([&] { return PyObject_CallOneArg(choice.object, meta.ptr()); })));
  return grid_from_object(grid.ptr());
}

void enqueue(Call& call, const std::shared_ptr<Function>& function, const Packing& packing, Grid grid,
             const LaunchShape* shape, bool waits) {
  if (packing.is_checked) own_borrowed(call);
  alignas(16) std::array<unsigned char, kMostBytes> packed;
  std::memset(packed.data(), 0, packing.args_bytes);  // what lies between fields, and behind them
  pack(call, packing, packed.data());
  CallStream* arrays = call.array_stream.get();
  const std::shared_ptr<Stream> stream =
      arrays != nullptr ? arrays->begin(call.uses_ours) : stream_from_object(call.stream, *call.device);
  bring_scratch(call, *function, grid, *stream, packed.data());
  // A program of Triton's is a cluster of blocks; who names a shape counts blocks.
  if (shape == nullptr && function->shape.cluster[0] != 0) {
    // A number that 32 bits do not hold is more than any device takes.
    const uint64_t blocks = uint64_t{grid[0]} * function->shape.cluster[0];
    grid[0] = static_cast<uint32_t>(std::min<uint64_t>(blocks, UINT32_MAX));
  }
  bool is_borrowing = false;  // still, after the launch; most often it has run by then
  const auto try_launch = [&] {
    std::vector<std::shared_ptr<void>> owners(call.foreign.begin(), call.foreign.end());
    return without_gil([&] {
      const bool is_launched =
          launch(*stream, function, grid, packed.data(), packing.args_bytes, call.touched.data(), call.touched_count,
                 owners.data(), owners.size(), call.borrowed_count == 0, shape);
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
  if (arrays != nullptr) arrays->end();
  call.foreign.clear();
  release_owners();
}

}  // namespace unify::python::kernel
