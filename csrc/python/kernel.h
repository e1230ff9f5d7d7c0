// What the files of unify.jit's launch path share: a kernel's parameters, one call's arguments, and what was compiled.
//
// kernel.cpp launches, kernel_arguments.cpp makes a key of a call's arguments, kernel_variants.cpp finds or compiles
// what the key stands for, kernel_types.cpp holds the Python types. They speak CPython directly, since pybind11's
// argument handling costs more than a launch may.
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
#include "convert.h"

namespace unify {

class Storage;
struct Tensor;

namespace python::kernel {

constexpr size_t kMostParameters = 96;
constexpr size_t kMostBytes = 3 * 8 * kMostParameters;  // of packed arguments: an array has up to three words
constexpr uint64_t kAlignment = 16;                     // what "divisible" means to Triton

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
enum class Kind : uint8_t {
  kPointer,
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
  std::vector<Field> fields;
  std::vector<Global> globals;
  py::object result;  // what a launch returns; null: None
  uint32_t args_bytes = 0;
  bool is_checked = false;  // has kLow and kHigh
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

struct Launcher {
  PyObject_HEAD
  vectorcallfunc call;
  Dispatcher* dispatcher;
  PyObject* grid_object;  // as given
  bool is_function;       // else `grid` is what it says
  Grid grid;
};

struct FunctionObject {
  PyObject_HEAD
  std::shared_ptr<Function> function;
};

// ---- one call ----

// What an argument turned out to be.
enum class Tag : uint8_t { kConstant, kPointer, kBool, kInt, kFloat };

struct Argument {
  PyObject* value;  // borrowed
  Tag tag;
  bool is_divisible;
  bool is_readonly;  // an array whose memory must not be written
  uint64_t bits;     // address, integer, or a double's bits
  const char* type;  // Triton's name; of the element for pointers
  const Storage* storage;
};

struct Call {
  // The arrays are large: only what this kernel needs is cleared.
  explicit Call(Dispatcher& owner)
      : dispatcher(owner), parameters(owner.parameters->data()), size(owner.parameters->size()) {
    for (size_t i = 0; i < size; ++i) arguments[i] = {nullptr, Tag::kConstant, false, false, 0, nullptr, nullptr};
  }

  Dispatcher& dispatcher;
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
  std::array<std::pair<PyObject*, PyObject*>, 8> options{};
  size_t option_count = 0;

  void push(uint64_t word) { key[key_size++] = word; }
};

// Which value each parameter has. Throws InvalidArgument.
void bind(Call& call, PyObject* const* args, size_t nargs, PyObject* keywords);
// What each value is, the device, and the key of all of it. Throws DTypeError, InvalidArgument, DeviceMismatchError.
void classify(Call& call);
// Holds what is only borrowed: a launch is recorded, or the kernel wants to know where memory ends.
void own_borrowed(Call& call);

std::string name_of(const Dispatcher& dispatcher);
[[noreturn]] void throw_argument(const Call& call, size_t index, const std::string& what,
                                 ErrorKind kind = ErrorKind::kInvalidArgument);

// What the call's key stands for; compiled if need be. Throws what the compiler throws, and InvalidArgument when a
// global changed or a read-only array would be written.
const Variant& variant_of(const Call& call);

Grid grid_from_object(PyObject* object);
PyObject* launch_kernel(PyObject* self, PyObject* const* args, size_t nargsf, PyObject* keywords);

}  // namespace python::kernel
}  // namespace unify
