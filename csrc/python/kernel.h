// What the files of the launch path share: a kernel's parameters, one call's arguments, and what was compiled.
//
// kernel.cpp launches what unify.jit made, kernel_arguments.cpp says what a call's arguments are and makes a key of
// them, kernel_variants.cpp finds or compiles what the key stands for, kernel_types.cpp holds the Python types;
// kernel_enqueue.cpp packs and launches. function.h is the same for functions that others compiled. They speak CPython
// directly, since pybind11's argument handling costs more than a launch may.
#pragma once

#include <Python.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../core/launch.h"
#include "../core/module.h"
#include "call_stream.h"
#include "convert.h"

namespace unify {

class Storage;
struct Tensor;

namespace python::kernel {

constexpr size_t kMostParameters = 96;
// Of packed arguments: CUDA's limit. An array has up to three words, so that kernels of unify.jit stay below.
constexpr size_t kMostBytes = 4096;
constexpr uint64_t kAlignment = 16;  // what "divisible" means to Triton
static_assert(3 * 8 * kMostParameters <= kMostBytes);

// ---- what a kernel is ----

struct Parameter {
  py::str name;              // interned
  py::object default_value;  // null: none
  std::string forced_type;   // from an annotation, or empty
  bool is_constexpr;
  bool is_specialized;  // by being 1 or divisible
  bool is_aligned;      // by being divisible
};

// How an argument goes into the packed struct. kLow and kHigh: where the memory begins and ends that it belongs to.
// kAddress, kBytes: of functions only, an array or a number, and a struct.
enum class Kind : uint8_t {
  kPointer,
  kAddress,
  kBytes,
  kLow,
  kHigh,
  kBool,
  kInt8,
  kInt16,
  kInt32,
  kInt64,
  kFloat16,
  kBFloat16,
  kFloat32,
  kFloat64
};

struct Field {
  size_t parameter;
  Kind kind;
  bool is_written;  // pointers: the kernel may store through it
  uint32_t offset;
  uint32_t bytes = 0;  // kBytes: its size; kPointer of a function: an element's, 0 for any
};

// What a launch writes where.
struct Packing {
  std::vector<Field> fields;
  uint32_t args_bytes = 0;
  bool is_checked = false;  // has kLow and kHigh
};

// A global that the kernel read when it was compiled; it must not change afterwards (as in Triton).
struct Global {
  py::object dict;
  py::object name;
  py::object value;
};

// What was compiled for one key.
struct Variant {
  std::vector<uint64_t> key;
  std::vector<py::object> constants;  // of constexpr parameters, compared when the key fits
  std::shared_ptr<Function> function;
  Packing packing;
  std::vector<Global> globals;
  py::object result;  // what a launch returns; null: None
};

// ---- the Python types ----

// With a `fallback` it stands before another launcher, Triton's own: it waits for each launch, and fallback(grid) is
// called with the arguments of a call that it cannot take.
struct Dispatcher {
  PyObject_HEAD
  PyObject* kernel_name;
  PyObject* miss;      // called with (device, values, types, aligned, options)
  PyObject* fallback;  // or null
  std::vector<Parameter>* parameters;
  std::vector<std::unique_ptr<Variant>>* variants;  // open addressing; its size is a power of two
  size_t count;
};

// A grid as it was given, and what it says unless it is a function of the arguments.
struct GridChoice {
  PyObject* object;
  bool is_function;
  Grid numbers;
};

struct Launcher {
  PyObject_HEAD
  vectorcallfunc call;
  Dispatcher* dispatcher;
  GridChoice grid;
};

// ---- one call ----

// What an argument turned out to be.
enum class Tag : uint8_t { kConstant, kPointer, kBool, kInt, kFloat };

struct Argument {
  PyObject* value;  // borrowed
  Tag tag;
  bool is_divisible;
  bool is_readonly;       // an array whose memory must not be written
  uint8_t element_bytes;  // of an array
  uint64_t bits;          // address, integer, or a double's bits
  const char* type;       // Triton's name; of the element for pointers
  const Storage* storage;
};

struct Call {
  explicit Call(Dispatcher& owner)
      : Call(owner.kernel_name, owner.parameters->data(), owner.parameters->size(), &owner) {}
  // The arrays are large: only what this kernel needs is cleared.
  Call(PyObject* name, const Parameter* first, size_t count, Dispatcher* owner = nullptr)
      : kernel_name(name), dispatcher(owner), parameters(first), size(count) {
    for (size_t i = 0; i < size; ++i) arguments[i] = {nullptr, Tag::kConstant, false, false, 0, 0, nullptr, nullptr};
  }

  PyObject* const kernel_name;
  Dispatcher* const dispatcher;  // null: of a function, which takes no options and needs no key
  const Parameter* const parameters;
  const size_t size;
  std::array<Argument, kMostParameters> arguments;
  std::array<uint64_t, 2 * kMostParameters + 32> key;
  size_t key_size = 0;
  std::array<Storage*, kMostParameters> touched;
  size_t touched_count = 0;
  bool has_readonly = false;
  std::vector<std::shared_ptr<Storage>> foreign;
  std::array<size_t, kMostParameters> borrowed;  // arguments: other libraries' arrays of which nothing is held
  size_t borrowed_count = 0;
  std::vector<py::object> numbers;  // made of NumPy's scalars
  Device* device = nullptr;
  PyObject* device_argument = nullptr;  // name of the one that decided
  std::shared_ptr<Device> device_owner;
  PyObject* stream = nullptr;
  std::unique_ptr<CallStream> array_stream;  // null: no other library's array is on a device
  bool uses_ours = false;                    // some argument is a tensor of ours
  std::array<std::pair<PyObject*, PyObject*>, 8> options{};
  size_t option_count = 0;

  void push(uint64_t word) { key[key_size++] = word; }
};

// Which value each parameter has. Throws InvalidArgument.
void bind(Call& call, PyObject* const* args, size_t nargs, PyObject* keywords);
// What each value is, the device, and the key of all of it. Throws DTypeError, InvalidArgument, DeviceMismatchError.
void classify(Call& call);
// What one value is; the device that it is on, if it is an array.
void classify_value(Call& call, size_t index);
// NumPy's scalars become the Python numbers that they hold; false for what holds none.
bool is_numpy_scalar(PyObject* value);
bool take_scalar(Call& call, size_t index);
// Triton's rule: the annotation says what the kernel is compiled for, and an integer may become a float, but no float
// an integer. Throws DTypeError.
void check_annotation(const Call& call, size_t index);
// Bytes of an element of a Triton type: "i1", "bf16", "fp8e5", or a pointer to it, "*kfp32".
uint32_t element_bytes(const std::string& type);
// Holds what is only borrowed: a launch is recorded, or the kernel wants to know where memory ends.
void own_borrowed(Call& call);

[[noreturn]] void throw_argument(const Call& call, size_t index, const std::string& what,
                                 ErrorKind kind = ErrorKind::kInvalidArgument);

// What the call's key stands for; compiled if need be. Throws what the compiler throws, and InvalidArgument when a
// global changed or a read-only array would be written.
const Variant& variant_of(const Call& call);

Kind kind_of(const std::string& type);
size_t bytes_of(Kind kind);

Grid grid_from_object(PyObject* object);
// Where the call's grid is a function of its arguments, what it returns.
Grid grid_of(const GridChoice& choice, const Call& call);
// Packs the arguments and launches, in the function's own shape if `shape` is null. waits: until the work has run.
void enqueue(Call& call, const std::shared_ptr<Function>& function, const Packing& packing, Grid grid,
             const LaunchShape* shape, bool waits);
PyObject* launch_kernel(PyObject* self, PyObject* const* args, size_t nargsf, PyObject* keywords);

}  // namespace python::kernel
}  // namespace unify
