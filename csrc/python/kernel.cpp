// The launch path of unify.jit: arguments → key → compiled kernel → launch. Only a key that was never seen reaches
// Python. This file speaks CPython directly, since pybind11's argument handling costs more than a launch may.
#include <Python.h>
// After Python.h, which it needs.
#include <structmember.h>

#include <array>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "../core/launch.h"
#include "../core/module.h"
#include "convert.h"
#include "dtype.h"
#include "owner.h"
#include "tensor.h"

namespace unify::python {
namespace {

constexpr size_t kMostParameters = 96;
constexpr size_t kMostBytes = 3 * 8 * kMostParameters;  // of packed arguments: an array has up to three words
constexpr uint64_t kAlignment = 16;                     // what "divisible" means to Triton

// ---- what a kernel's parameters are ----

struct Parameter {
  PyObject* name;           // interned
  PyObject* default_value;  // null: none
  std::string forced_type;  // from an annotation, or empty
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
  PyObject* dict;
  PyObject* name;
  PyObject* value;
};

struct Entry {
  std::vector<uint64_t> key;
  std::vector<PyObject*> constants;  // of constexpr parameters, compared when the key fits
  std::shared_ptr<Function> function;
  std::vector<Field> fields;
  std::vector<Global> globals;
  uint32_t args_bytes = 0;
};

struct Dispatcher {
  PyObject_HEAD
  PyObject* kernel_name;
  PyObject* miss;  // called with (device, values, types, aligned, options)
  std::vector<Parameter>* parameters;
  std::vector<std::unique_ptr<Entry>>* entries;  // open addressing; its size is a power of two
  size_t count;
};

struct Launcher {
  PyObject_HEAD
  vectorcallfunc call;
  Dispatcher* dispatcher;
  PyObject* grid_function;  // null when `grid` is fixed
  Grid grid;
};

PyTypeObject* dispatcher_type = nullptr;
PyTypeObject* launcher_type = nullptr;
PyTypeObject* function_type = nullptr;

struct FunctionObject {
  PyObject_HEAD
  std::shared_ptr<Function> function;
};

std::string name_of(const Dispatcher& dispatcher) { return text_of(dispatcher.kernel_name); }

[[noreturn]] void throw_argument(const Dispatcher& dispatcher, PyObject* name, const std::string& what,
                                 ErrorKind kind = ErrorKind::kInvalidArgument) {
  throw Error(kind, "kernel " + name_of(dispatcher) + ": argument '" + text_of(name) + "' " + what);
}

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
  explicit Call(Dispatcher& owner) : dispatcher(owner) {
    for (size_t i = 0; i < size(); ++i) arguments[i] = {nullptr, Tag::kConstant, false, false, 0, nullptr, nullptr};
  }

  Dispatcher& dispatcher;
  std::array<Argument, kMostParameters> arguments;
  std::array<uint64_t, 2 * kMostParameters + 32> key;
  size_t key_size = 0;
  std::array<Storage*, kMostParameters> touched;
  size_t touched_count = 0;
  bool has_readonly = false;
  std::vector<std::shared_ptr<Storage>> foreign;
  std::vector<py::object> numbers;  // made of NumPy's scalars
  Device* device = nullptr;
  PyObject* device_argument = nullptr;  // name of the one that decided
  std::shared_ptr<Device> device_owner;
  PyObject* stream = nullptr;
  std::array<std::pair<PyObject*, PyObject*>, 8> options{};
  size_t option_count = 0;

  void push(uint64_t word) { key[key_size++] = word; }
  [[nodiscard]] size_t size() const { return dispatcher.parameters->size(); }

  void bind(PyObject* const* args, size_t nargs, PyObject* keywords);
  void bind_keyword(PyObject* name, PyObject* value);
  void classify(size_t index);
  void classify_constant(size_t index);
  void classify_tensor(size_t index, const Tensor& tensor, bool is_readonly);
  void classify_integer(size_t index);
  void classify_float(size_t index);
  void classify_number(size_t index);
  bool take_scalar(size_t index);
  void classify_array(size_t index);
  void push_options();
  void set_device(size_t index, Device& found);
  [[nodiscard]] bool fits(const Entry& entry) const;
};

bool is_same_name(PyObject* a, PyObject* b) { return a == b || PyUnicode_Compare(a, b) == 0; }

bool is_option(PyObject* name) {
  for (const char* known : {"num_warps", "num_stages", "num_ctas", "debug"}) {
    if (PyUnicode_CompareWithASCIIString(name, known) == 0) return true;
  }
  return false;
}

void Call::bind_keyword(PyObject* name, PyObject* value) {
  const std::vector<Parameter>& parameters = *dispatcher.parameters;
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (!is_same_name(parameters[i].name, name)) continue;
    if (arguments[i].value != nullptr) throw_argument(dispatcher, name, "was given twice.");
    arguments[i].value = value;
    return;
  }
  if (PyUnicode_CompareWithASCIIString(name, "stream") == 0) {
    stream = value;
  } else if (is_option(name) && option_count < options.size()) {
    options[option_count++] = {name, value};
  } else {
    std::string known;
    for (const Parameter& parameter : parameters) known += (known.empty() ? "" : ", ") + text_of(parameter.name);
    throw Error(ErrorKind::kInvalidArgument, "kernel " + name_of(dispatcher) + " has no argument '" + text_of(name) +
                                                 "'. Its arguments: " + known +
                                                 "; options: num_warps, num_stages, num_ctas, debug, stream.");
  }
}

void Call::bind(PyObject* const* args, size_t nargs, PyObject* keywords) {
  const std::vector<Parameter>& parameters = *dispatcher.parameters;
  if (nargs > parameters.size()) {
    throw Error(ErrorKind::kInvalidArgument, "kernel " + name_of(dispatcher) + " takes " +
                                                 std::to_string(parameters.size()) + " arguments, " +
                                                 std::to_string(nargs) + " were given.");
  }
  for (size_t i = 0; i < nargs; ++i) arguments[i].value = args[i];
  const Py_ssize_t keyword_count = keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
  for (Py_ssize_t k = 0; k < keyword_count; ++k) {
    bind_keyword(PyTuple_GET_ITEM(keywords, k), args[static_cast<Py_ssize_t>(nargs) + k]);
  }
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (arguments[i].value == nullptr) arguments[i].value = parameters[i].default_value;
    if (arguments[i].value == nullptr) throw_argument(dispatcher, parameters[i].name, "is missing.");
  }
}

void Call::classify_constant(size_t index) {
  Argument& argument = arguments[index];
  argument.tag = Tag::kConstant;
  if (!PyLong_Check(argument.value) && argument.value != Py_None) take_scalar(index);
  PyObject* value = argument.value;
  uint64_t content = 0;
  if (PyFloat_Check(value)) {  // each NaN has a hash of its own
    const double number = PyFloat_AS_DOUBLE(value);
    std::memcpy(&content, &number, sizeof content);
  } else {
    const Py_hash_t hash = PyObject_Hash(value);
    if (hash == -1 && PyErr_Occurred() != nullptr) {
      PyErr_Clear();
      throw_argument(dispatcher, (*dispatcher.parameters)[index].name,
                     "is a constexpr and must be hashable; it is " + text_of(value) + ". Give a tuple, say.",
                     ErrorKind::kDType);
    }
    content = static_cast<uint64_t>(hash);
  }
  push(reinterpret_cast<uint64_t>(Py_TYPE(value)) << 3);
  push(content);
}

void Call::set_device(size_t index, Device& found) {
  PyObject* name = (*dispatcher.parameters)[index].name;
  if (device == nullptr) {
    device = &found;
    device_argument = name;
  } else if (device != &found) {
    throw_argument(dispatcher, name,
                   "is on " + found.name() + ", '" + text_of(device_argument) + "' on " + device->name() +
                       ". Move one with .to().",
                   ErrorKind::kDeviceMismatch);
  }
}

void Call::classify_tensor(size_t index, const Tensor& tensor, bool is_readonly) {
  Argument& argument = arguments[index];
  const Parameter& parameter = (*dispatcher.parameters)[index];
  argument.tag = Tag::kPointer;
  argument.bits = tensor.address();
  argument.type = triton_name(tensor.dtype);
  argument.storage = tensor.storage.get();
  argument.is_readonly = is_readonly;
  has_readonly = has_readonly || is_readonly;
  argument.is_divisible = parameter.is_specialized && parameter.is_aligned && argument.bits % kAlignment == 0;
  set_device(index, tensor.device());
  push(static_cast<uint64_t>(tensor.dtype) << 8 | static_cast<uint64_t>(argument.is_divisible) << 4 |
       static_cast<uint64_t>(Tag::kPointer));
}

// Whether an annotation's type holds the number. is_above: it is more than an int64_t holds, and at most a uint64_t.
bool holds(const std::string& type, int64_t value, bool is_above) {
  if (type.empty() || (type[0] != 'i' && type[0] != 'u')) return true;
  const int bits = std::atoi(type.c_str() + 1);
  if (is_above) return type[0] == 'u' && bits == 64;
  if (bits == 1) return value >= -1 && value <= 1;
  if (type[0] == 'u') return value >= 0 && (bits == 64 || value >> bits == 0);
  return bits == 64 || (value >> (bits - 1)) == (value < 0 ? -1 : 0);
}

void Call::classify_integer(size_t index) {
  Argument& argument = arguments[index];
  const Parameter& parameter = (*dispatcher.parameters)[index];
  int overflow = 0;
  const long long value = PyLong_AsLongLongAndOverflow(argument.value, &overflow);
  if (value == -1 && PyErr_Occurred() != nullptr) throw_python();
  argument.tag = Tag::kInt;
  argument.bits = static_cast<uint64_t>(value);
  if (overflow == 0) {
    argument.type = value >= INT32_MIN && value <= INT32_MAX ? "i32" : "i64";
  } else {
    argument.bits = PyLong_AsUnsignedLongLong(argument.value);
    if (PyErr_Occurred() != nullptr) {
      PyErr_Clear();
      throw_argument(dispatcher, parameter.name, "does not fit 64 bits: " + text_of(argument.value) + ".");
    }
    argument.type = "u64";
  }
  if (!holds(parameter.forced_type, value, overflow != 0)) {
    throw_argument(
        dispatcher, parameter.name,
        "is annotated as " + parameter.forced_type + ", which does not hold " + text_of(argument.value) + ".");
  }
  const bool is_one = value == 1 && overflow == 0 && parameter.is_specialized && parameter.forced_type.empty();
  argument.is_divisible = parameter.is_specialized && parameter.is_aligned && argument.bits % kAlignment == 0;
  if (is_one) argument.tag = Tag::kConstant;
  push(static_cast<uint64_t>(argument.type[1] - '0') << 8 | static_cast<uint64_t>(argument.type[0]) << 16 |
       static_cast<uint64_t>(argument.is_divisible) << 4 | static_cast<uint64_t>(is_one) << 5 |
       static_cast<uint64_t>(Tag::kInt));
}

void Call::classify_float(size_t index) {
  Argument& argument = arguments[index];
  const double number = PyFloat_AS_DOUBLE(argument.value);
  argument.tag = Tag::kFloat;
  argument.type = "fp32";
  std::memcpy(&argument.bits, &number, sizeof number);
  push(static_cast<uint64_t>(Tag::kFloat));
}

void Call::classify_number(size_t index) {
  Argument& argument = arguments[index];
  if (PyBool_Check(argument.value)) {
    argument.tag = Tag::kBool;
    argument.type = "u1";
    argument.bits = argument.value == Py_True ? 1 : 0;
    push(static_cast<uint64_t>(Tag::kBool));
  } else if (PyLong_Check(argument.value)) {
    classify_integer(index);
  } else {
    classify_float(index);
  }
}

bool is_numpy_scalar(PyObject* value) {
  static PyObject* type = nullptr;
  if (type == nullptr) type = py::object(py::module_::import("numpy").attr("generic")).release().ptr();
  return PyType_IsSubtype(Py_TYPE(value), reinterpret_cast<PyTypeObject*>(type)) != 0;
}

// NumPy's scalars speak the buffer protocol, so that they look like arrays. Here they are the Python numbers that they
// hold; false for what holds none.
bool Call::take_scalar(size_t index) {
  PyObject* value = arguments[index].value;
  if (!is_numpy_scalar(value)) return false;
  PyObject* number = nullptr;
  const auto kind = py::handle(value).attr("dtype").attr("kind").cast<std::string>();
  if (kind == "b") {
    number = PyBool_FromLong(PyObject_IsTrue(value));
  } else if (PyIndex_Check(value) && kind != "m") {
    number = PyNumber_Index(value);
  } else if (kind == "f" || kind == "V") {  // V: types of other libraries, such as bfloat16
    number = PyNumber_Float(value);
  }
  if (number == nullptr) {
    PyErr_Clear();
    return false;
  }
  numbers.push_back(py::reinterpret_steal<py::object>(number));
  arguments[index].value = number;
  return true;
}

void Call::classify_array(size_t index) {
  PyObject* value = arguments[index].value;
  if (PyUnicode_Check(value) || PyTuple_Check(value) || PyList_Check(value) || is_numpy_scalar(value)) {
    throw_argument(dispatcher, (*dispatcher.parameters)[index].name,
                   "is " + text_of(value) + ": a kernel takes arrays, numbers and None. Annotate it as tl.constexpr.",
                   ErrorKind::kDType);
  }
  ImportedArray imported{{}, false};
  try {
    imported = import_array(value);
  } catch (const Error& error) {
    throw_argument(dispatcher, (*dispatcher.parameters)[index].name, "cannot be used. " + error.message, error.kind);
  }
  classify_tensor(index, imported.tensor, imported.is_readonly);
  foreign.push_back(std::move(imported.tensor.storage));
}

void Call::classify(size_t index) {
  PyObject* value = arguments[index].value;
  if ((*dispatcher.parameters)[index].is_constexpr || value == Py_None) {
    classify_constant(index);
  } else if (const Tensor* tensor = tensor_from_pyobject(value)) {
    classify_tensor(index, *tensor, reinterpret_cast<TensorObject*>(value)->is_readonly);
    if (tensor->storage->is_foreign()) {
      foreign.push_back(tensor->storage);
    } else {
      touched[touched_count++] = tensor->storage.get();
    }
  } else if (PyLong_Check(value) || PyFloat_Check(value)) {
    classify_number(index);
  } else if (take_scalar(index)) {
    classify_number(index);
  } else {
    classify_array(index);
  }
}

void Call::push_options() {
  for (size_t i = 0; i < option_count; ++i) {
    const auto [name, value] = options[i];
    if (!PyIndex_Check(value)) {
      throw Error(ErrorKind::kDType, "kernel " + name_of(dispatcher) + ": the option " + text_of(name) + " is " +
                                         text_of(value) + "; it has to be a whole number.");
    }
    const Py_hash_t hash = PyObject_Hash(value);
    if (hash == -1 && PyErr_Occurred() != nullptr) throw_python();
    push(static_cast<uint64_t>(PyObject_Hash(name)));
    push(static_cast<uint64_t>(hash));
  }
}

// Whether two constants compile to the same code. Equal is not enough: 0.0 == -0.0, and (1,) == (1.0,).
bool is_same_constant(PyObject* a, PyObject* b) {
  if (a == b) return true;
  if (Py_TYPE(a) != Py_TYPE(b)) return false;
  if (PyFloat_Check(a)) {
    const double numbers[2] = {PyFloat_AS_DOUBLE(a), PyFloat_AS_DOUBLE(b)};
    return std::memcmp(&numbers[0], &numbers[1], sizeof numbers[0]) == 0;
  }
  if (PyTuple_CheckExact(a)) {
    bool is_same = PyTuple_GET_SIZE(a) == PyTuple_GET_SIZE(b);
    for (Py_ssize_t i = 0; is_same && i < PyTuple_GET_SIZE(a); ++i) {
      is_same = is_same_constant(PyTuple_GET_ITEM(a, i), PyTuple_GET_ITEM(b, i));
    }
    return is_same;
  }
  const int is_equal = PyObject_RichCompareBool(a, b, Py_EQ);
  if (is_equal < 0) PyErr_Clear();
  return is_equal == 1;
}

bool Call::fits(const Entry& entry) const {
  if (entry.key.size() != key_size || std::memcmp(entry.key.data(), key.data(), key_size * sizeof(uint64_t)) != 0) {
    return false;
  }
  size_t next = 0;
  for (size_t i = 0; i < size(); ++i) {
    if (!(*dispatcher.parameters)[i].is_constexpr) continue;
    if (!is_same_constant(entry.constants[next++], arguments[i].value)) return false;
  }
  return true;
}

uint64_t hash_of(const uint64_t* words, size_t count) {
  uint64_t hash = 0x9e3779b97f4a7c15ULL;
  for (size_t i = 0; i < count; ++i) {
    hash = (hash ^ words[i]) * 0xff51afd7ed558ccdULL;
    hash ^= hash >> 32;
  }
  return hash;
}

size_t slot_of(const std::vector<std::unique_ptr<Entry>>& entries, const uint64_t* key, size_t size) {
  return static_cast<size_t>(hash_of(key, size)) & (entries.size() - 1);
}

Entry* find(const Dispatcher& dispatcher, const Call& call) {
  const auto& entries = *dispatcher.entries;
  for (size_t slot = slot_of(entries, call.key.data(), call.key_size); entries[slot] != nullptr;
       slot = (slot + 1) & (entries.size() - 1)) {
    // After a reset the kernel is loaded again; the old entry stays, as resets are rare.
    const bool is_loaded = entries[slot]->function->module->generation() == call.device->generation();
    if (is_loaded && call.fits(*entries[slot])) return entries[slot].get();
  }
  return nullptr;
}

Entry* insert(Dispatcher& dispatcher, std::unique_ptr<Entry> entry) {
  auto& entries = *dispatcher.entries;
  const auto put = [&entries](std::unique_ptr<Entry> one) {
    size_t slot = slot_of(entries, one->key.data(), one->key.size());
    while (entries[slot] != nullptr) slot = (slot + 1) & (entries.size() - 1);
    entries[slot] = std::move(one);
  };
  if (2 * (dispatcher.count + 1) > entries.size()) {
    std::vector<std::unique_ptr<Entry>> old(2 * entries.size());
    old.swap(entries);
    for (auto& one : old) {
      if (one != nullptr) put(std::move(one));
    }
  }
  Entry* result = entry.get();
  put(std::move(entry));
  ++dispatcher.count;
  return result;
}

// ---- a key that was never seen ----

Kind kind_of(const std::string& type) {
  if (type[0] == '*') return Kind::kPointer;
  if (type == "low") return Kind::kLow;
  if (type == "high") return Kind::kHigh;
  if (type == "i1" || type == "u1") return Kind::kBool;
  if (type == "i8" || type == "u8") return Kind::kInt8;
  if (type == "i16" || type == "u16") return Kind::kInt16;
  if (type == "i32" || type == "u32") return Kind::kInt32;
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

// Bytes of an element of a Triton type: "i1", "bf16", "fp8e5", or a pointer to it, "*kfp32".
int element_bytes(const std::string& type) {
  const size_t digits = type.find_first_of("0123456789");
  return digits == std::string::npos ? 0 : (std::atoi(type.c_str() + digits) + 7) / 8;
}

// Triton's rule: the annotation says what the kernel is compiled for, and an integer may become a float, but no float
// an integer. The key holds what is looked at here, so that a kernel which was found needs no look.
void check_annotation(const Call& call, size_t index) {
  const Parameter& parameter = (*call.dispatcher.parameters)[index];
  const Argument& argument = call.arguments[index];
  const std::string& type = parameter.forced_type;
  if (type.empty() || argument.tag == Tag::kConstant) return;
  std::string what;
  if (argument.tag == Tag::kPointer && type[0] != '*') {
    what = "is an array; pass a number, or annotate a pointer";
  } else if (argument.tag != Tag::kPointer && type[0] == '*') {
    what = "is " + text_of(argument.value) + "; pass an array";
  } else if (argument.tag == Tag::kPointer && element_bytes(type) != element_bytes(argument.type)) {
    what = std::string("its elements are ") + argument.type + "; convert it, or leave the annotation out";
  } else if (argument.tag == Tag::kFloat && (type[0] == 'i' || type[0] == 'u')) {
    what = "is the float " + text_of(argument.value) + "; pass an int, or annotate a float";
  } else {
    return;
  }
  throw_argument(call.dispatcher, parameter.name, "is annotated as " + type + " and " + what + ".", ErrorKind::kDType);
}

py::str type_of(const Parameter& parameter, const Argument& argument) {
  if (argument.tag == Tag::kConstant) return "constexpr";
  std::string type = parameter.forced_type;
  if (type.compare(0, 2, "*k") == 0) type.erase(1, 1);  // const: effects are found by looking
  if (!type.empty()) return type;
  return argument.tag == Tag::kPointer ? std::string("*") + argument.type : std::string(argument.type);
}

// What the compiler says of the packed arguments is what the launch writes: a field beyond them would be memory that
// is not the launch's.
void check_fields(const Call& call, const Entry& entry) {
  bool is_sound = entry.args_bytes <= kMostBytes;
  for (const Field& field : entry.fields) {
    const Tag tag = field.parameter < call.size() ? call.arguments[field.parameter].tag : Tag::kConstant;
    const bool is_of_array = field.kind == Kind::kPointer || field.kind == Kind::kLow || field.kind == Kind::kHigh;
    is_sound = is_sound && tag != Tag::kConstant && is_of_array == (tag == Tag::kPointer) &&
               field.offset + bytes_of(field.kind) <= entry.args_bytes;
  }
  if (is_sound) return;
  throw Error(ErrorKind::kInternal, "kernel " + name_of(call.dispatcher) + ": its compiler describes " +
                                        std::to_string(entry.fields.size()) + " fields in " +
                                        std::to_string(entry.args_bytes) + " bytes, which the arguments do not fill. " +
                                        "At most " + std::to_string(kMostBytes) +
                                        " bytes are possible. This is a bug of the target's compiler.");
}

Entry* compile(Call& call) {
  Dispatcher& dispatcher = call.dispatcher;
  py::list values;
  py::list types;
  py::list aligned;
  for (size_t i = 0; i < call.size(); ++i) {
    check_annotation(call, i);
    const Argument& argument = call.arguments[i];
    values.append(py::reinterpret_borrow<py::object>(argument.value));
    types.append(type_of((*dispatcher.parameters)[i], argument));
    aligned.append(py::bool_(argument.is_divisible && argument.tag != Tag::kConstant));
  }
  py::dict options;
  for (size_t i = 0; i < call.option_count; ++i) {
    options[py::reinterpret_borrow<py::object>(call.options[i].first)] =
        py::reinterpret_borrow<py::object>(call.options[i].second);
  }
  const py::object device = py::reinterpret_borrow<py::object>(device_object(call.device->shared_from_this()));
  // → (function, [(parameter, type, offset, is_written)], [(dict, name, value)])
  const py::tuple compiled =
      py::reinterpret_borrow<py::object>(dispatcher.miss)(device, values, types, aligned, options);
  if (Entry* other = find(dispatcher, call)) return other;  // another thread was faster

  auto entry = std::make_unique<Entry>();
  entry->key.assign(call.key.data(), call.key.data() + call.key_size);
  const py::object function = compiled[0];
  entry->function = reinterpret_cast<FunctionObject*>(function.ptr())->function;
  entry->args_bytes = static_cast<uint32_t>(entry->function->args_bytes);
  for (const py::handle field : compiled[1]) {
    const auto [parameter, type, offset, is_written] = field.cast<std::tuple<size_t, std::string, uint32_t, bool>>();
    entry->fields.push_back({parameter, kind_of(type), is_written, offset});
  }
  check_fields(call, *entry);
  for (const py::handle global : compiled[2]) {
    const py::tuple parts = py::reinterpret_borrow<py::tuple>(global);
    entry->globals.push_back({py::object(parts[0]).release().ptr(), py::object(parts[1]).release().ptr(),
                              py::object(parts[2]).release().ptr()});
  }
  for (size_t i = 0; i < call.size(); ++i) {
    if (!(*dispatcher.parameters)[i].is_constexpr) continue;
    Py_INCREF(call.arguments[i].value);
    entry->constants.push_back(call.arguments[i].value);
  }
  return insert(dispatcher, std::move(entry));
}

void check_globals(const Dispatcher& dispatcher, const Entry& entry) {
  for (const Global& global : entry.globals) {
    PyObject* now = PyDict_GetItemWithError(global.dict, global.name);
    if (now == global.value) continue;
    const int is_equal = now == nullptr ? 0 : PyObject_RichCompareBool(now, global.value, Py_EQ);
    if (is_equal == 1) continue;
    PyErr_Clear();
    throw Error(ErrorKind::kInvalidArgument,
                "kernel " + name_of(dispatcher) + ": the global '" + text_of(global.name) + "' was " +
                    text_of(global.value) + " when the kernel was compiled and is " +
                    (now == nullptr ? std::string("gone") : text_of(now)) + " now. Pass it as an argument.");
  }
}

void check_readonly(const Call& call, const Entry& entry) {
  for (const Field& field : entry.fields) {
    if (field.kind != Kind::kPointer || !field.is_written || !call.arguments[field.parameter].is_readonly) continue;
    throw_argument(call.dispatcher, (*call.dispatcher.parameters)[field.parameter].name,
                   "is read-only, and the kernel writes to it. Pass a copy.");
  }
}

// ---- packing and launching ----

template <typename T>
void put(unsigned char* at, T value) {
  std::memcpy(at, &value, sizeof value);
}

uint16_t rounded(DType dtype, double value) {
  uint16_t bits = 0;
  convert(dtype, &bits, 1, DType::kFloat64, &value, 1, 1);
  return bits;
}

void pack(const Call& call, const Entry& entry, unsigned char* out) {
  for (const Field& field : entry.fields) {
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

Grid grid_of(const Launcher& launcher, const Call& call) {
  if (launcher.grid_function == nullptr) return launcher.grid;
  py::dict meta;
  for (size_t i = 0; i < call.size(); ++i) {
    meta[py::reinterpret_borrow<py::object>((*call.dispatcher.parameters)[i].name)] =
        py::reinterpret_borrow<py::object>(call.arguments[i].value);
  }
  const py::object grid =
      py::reinterpret_steal<py::object>(require(PyObject_CallOneArg(launcher.grid_function, meta.ptr())));
  return grid_from_object(grid.ptr());
}

PyObject* launch_kernel(PyObject* self, PyObject* const* args, size_t nargsf, PyObject* keywords) {
  return guarded([&]() -> PyObject* {
    const Launcher& launcher = *reinterpret_cast<Launcher*>(self);
    Dispatcher& dispatcher = *launcher.dispatcher;
    Call call(dispatcher);
    call.bind(args, static_cast<size_t>(PyVectorcall_NARGS(nargsf)), keywords);
    for (size_t i = 0; i < call.size(); ++i) call.classify(i);
    call.push_options();
    if (call.device == nullptr) {
      call.device_owner = device_from_object(Py_None);
      call.device = call.device_owner.get();
    }
    call.push(reinterpret_cast<uint64_t>(call.device));
    Entry* entry = find(dispatcher, call);
    if (entry == nullptr) entry = compile(call);
    if (!entry->globals.empty()) check_globals(dispatcher, *entry);
    if (call.has_readonly) check_readonly(call, *entry);
    const Grid grid = grid_of(launcher, call);

    alignas(16) std::array<unsigned char, kMostBytes> packed;
    pack(call, *entry, packed.data());
    std::shared_ptr<Stream> given;
    if (call.stream != nullptr && call.stream != Py_None) given = stream_from_object(call.stream, *call.device);
    Stream& stream = given != nullptr ? *given : *call.device->current_stream();
    std::vector<std::shared_ptr<void>> owners(call.foreign.begin(), call.foreign.end());
    const std::shared_ptr<Function> function = entry->function;
    without_gil([&] {
      launch(stream, function, grid, packed.data(), entry->args_bytes, call.touched.data(), call.touched_count,
             owners.data(), owners.size());
    });
    owners.clear();
    call.foreign.clear();
    release_owners();
    Py_RETURN_NONE;
  });
}

// ---- the types ----

PyObject* dispatcher_new(PyTypeObject* type, PyObject* args, PyObject*) {
  return guarded([&]() -> PyObject* {
    PyObject* name = nullptr;
    PyObject* parameters = nullptr;
    PyObject* miss = nullptr;
    if (PyArg_ParseTuple(args, "UOO", &name, &parameters, &miss) == 0) throw_python();
    auto* self = reinterpret_cast<Dispatcher*>(require(type->tp_alloc(type, 0)));
    const py::object owner = py::reinterpret_steal<py::object>(reinterpret_cast<PyObject*>(self));
    Py_INCREF(name);
    Py_INCREF(miss);
    self->kernel_name = name;
    self->miss = miss;
    self->parameters = new std::vector<Parameter>;
    self->entries = new std::vector<std::unique_ptr<Entry>>(8);
    // (name, has_default, default, forced_type, is_constexpr, is_specialized, is_aligned)
    for (const py::handle item : py::reinterpret_borrow<py::iterable>(parameters)) {
      const py::tuple parts = py::reinterpret_borrow<py::tuple>(item);
      PyObject* interned = py::object(parts[0]).release().ptr();
      PyUnicode_InternInPlace(&interned);
      PyObject* default_value = parts[1].cast<bool>() ? py::object(parts[2]).release().ptr() : nullptr;
      self->parameters->push_back({interned, default_value, parts[3].cast<std::string>(), parts[4].cast<bool>(),
                                   parts[5].cast<bool>(), parts[6].cast<bool>()});
    }
    if (self->parameters->size() > kMostParameters) {
      throw Error(ErrorKind::kInvalidArgument, "kernel " + name_of(*self) + " has " +
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
  return 0;
}

int dispatcher_clear(PyObject* object) {
  auto* self = reinterpret_cast<Dispatcher*>(object);
  Py_CLEAR(self->miss);
  return 0;
}

void dispatcher_dealloc(PyObject* object) {
  auto* self = reinterpret_cast<Dispatcher*>(object);
  PyTypeObject* type = Py_TYPE(object);
  PyObject_GC_UnTrack(object);
  dispatcher_clear(object);
  Py_CLEAR(self->kernel_name);
  if (self->entries != nullptr) {
    for (const auto& entry : *self->entries) {
      if (entry == nullptr) continue;
      for (PyObject* constant : entry->constants) Py_DECREF(constant);
      for (const Global& global : entry->globals) {
        Py_DECREF(global.dict);
        Py_DECREF(global.name);
        Py_DECREF(global.value);
      }
    }
    delete self->entries;
  }
  if (self->parameters != nullptr) {
    for (const Parameter& parameter : *self->parameters) {
      Py_DECREF(parameter.name);
      Py_XDECREF(parameter.default_value);
    }
    delete self->parameters;
  }
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
    launcher->grid = fixed;
    if (is_function) {
      Py_INCREF(grid);
      launcher->grid_function = grid;
    }
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
  Py_VISIT(self->grid_function);
  return 0;
}

void launcher_dealloc(PyObject* object) {
  auto* self = reinterpret_cast<Launcher*>(object);
  PyTypeObject* type = Py_TYPE(object);
  PyObject_GC_UnTrack(object);
  Py_XDECREF(reinterpret_cast<PyObject*>(self->dispatcher));
  Py_XDECREF(self->grid_function);
  type->tp_free(object);
  Py_DECREF(type);
}

void function_dealloc(PyObject* object) {
  PyTypeObject* type = Py_TYPE(object);
  using Pointer = std::shared_ptr<Function>;
  reinterpret_cast<FunctionObject*>(object)->function.~Pointer();
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

void add_types() {
  PyType_Slot dispatcher_slots[] = {slot(Py_tp_new, dispatcher_new),           slot(Py_tp_dealloc, dispatcher_dealloc),
                                    slot(Py_tp_traverse, dispatcher_traverse), slot(Py_tp_clear, dispatcher_clear),
                                    slot(Py_tp_methods, dispatcher_methods),   {0, nullptr}};
  PyType_Spec dispatcher_spec = {"unify._core.Dispatcher", sizeof(Dispatcher), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, dispatcher_slots};
  dispatcher_type = reinterpret_cast<PyTypeObject*>(require(PyType_FromSpec(&dispatcher_spec)));

  PyType_Slot launcher_slots[] = {slot(Py_tp_dealloc, launcher_dealloc),
                                  slot(Py_tp_traverse, launcher_traverse),
                                  slot(Py_tp_call, PyVectorcall_Call),
                                  slot(Py_tp_members, launcher_members),
                                  {0, nullptr}};
  PyType_Spec launcher_spec = {"unify._core.Launcher", sizeof(Launcher), 0,
                               Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL, launcher_slots};
  launcher_type = reinterpret_cast<PyTypeObject*>(require(PyType_FromSpec(&launcher_spec)));

  PyType_Slot function_slots[] = {slot(Py_tp_dealloc, function_dealloc), {0, nullptr}};
  PyType_Spec function_spec = {"unify._core.Function", sizeof(FunctionObject), 0, Py_TPFLAGS_DEFAULT, function_slots};
  function_type = reinterpret_cast<PyTypeObject*>(require(PyType_FromSpec(&function_spec)));
}

py::object load_function(const std::shared_ptr<Device>& device, const py::bytes& image, const std::string& name,
                         uint64_t shared_bytes, uint32_t threads, size_t args_bytes, const std::string& location) {
  char* data = nullptr;
  Py_ssize_t size = 0;
  if (PyBytes_AsStringAndSize(image.ptr(), &data, &size) != 0) throw_python();
  std::shared_ptr<Function> function = without_gil([&] {
    return Function::get(Module::load(device, data, static_cast<size_t>(size), name), name, shared_bytes, threads,
                         args_bytes, location);
  });
  auto* object = reinterpret_cast<FunctionObject*>(require(function_type->tp_alloc(function_type, 0)));
  new (&object->function) std::shared_ptr<Function>(std::move(function));
  return py::reinterpret_steal<py::object>(reinterpret_cast<PyObject*>(object));
}

}  // namespace
}  // namespace unify::python

void bind_kernel(pybind11::module_& module) {
  namespace py = pybind11;
  using namespace unify::python;
  add_types();
  module.add_object("Dispatcher", reinterpret_cast<PyObject*>(dispatcher_type));
  module.def("load_function", load_function, py::arg("device"), py::arg("image"), py::arg("name"),
             py::arg("shared_bytes"), py::arg("threads"), py::arg("args_bytes"), py::arg("location") = "",
             "Loads a compiled image onto a device and finds its kernel.");
}
