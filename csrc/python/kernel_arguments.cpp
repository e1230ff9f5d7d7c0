// A call's arguments: which parameter each value belongs to, what it is to Triton, and the key that says so.
#include <cstdlib>
#include <cstring>

#include "dtype.h"
#include "kernel.h"
#include "tensor.h"

namespace unify::python::kernel {
namespace {

bool is_same_name(PyObject* a, PyObject* b) { return a == b || PyUnicode_Compare(a, b) == 0; }

bool is_option(PyObject* name) {
  for (const char* known :
       {"num_warps", "num_stages", "num_ctas", "debug", "maxnreg", "launch_cooperative_grid", "launch_pdl"}) {
    if (PyUnicode_CompareWithASCIIString(name, known) == 0) return true;
  }
  return false;
}

// Of those an annotation can have; "b32" is 32 bits with or without a sign, as PTX has them.
bool is_integer(const std::string& type) {
  return type[0] == 'i' || type[0] == 'u' || type[0] == 'p' || (type[0] == 'b' && type != "bf16");
}

// Whether an annotation's type holds the number. is_above: it is more than an int64_t holds, and at most a uint64_t.
bool holds(const std::string& type, int64_t value, bool is_above) {
  if (!is_integer(type) || type[0] == 'p') return true;
  const int bits = std::atoi(type.c_str() + 1);
  if (is_above) return type[0] != 'i' && bits == 64;
  if (type[0] == 'b' && value >= 0) return bits == 64 || value >> bits == 0;
  if (bits == 1) return value >= -1 && value <= 1;
  if (type[0] == 'u') return value >= 0 && (bits == 64 || value >> bits == 0);
  return bits == 64 || (value >> (bits - 1)) == (value < 0 ? -1 : 0);
}

// What is thrown is composed apart, so that the way of a good argument stays short.

[[noreturn]] void throw_unhashable(const Call& call, size_t index) {
  throw_argument(call, index,
                 "is a constexpr and must be hashable; it is " + described(call.arguments[index].value) +
                     ". Give a number, a string or a tuple of them.",
                 ErrorKind::kDType);
}

[[noreturn]] void throw_unusable(const Call& call, size_t index) {
  const char* otherwise = call.dispatcher == nullptr ? "." : ", or annotate the parameter as tl.constexpr.";
  throw_argument(call, index,
                 "is " + described(call.arguments[index].value) +
                     ". A kernel takes arrays, real numbers and None: make an array with unify.asarray()" + otherwise,
                 ErrorKind::kDType);
}

[[noreturn]] void throw_mismatch(const Call& call, size_t index, const Device& found) {
  const std::string other = call.device_argument == nullptr ? "the kernel" : "'" + text_of(call.device_argument) + "'";
  throw_argument(call, index,
                 "is on " + found.name() + ", " + other + " on " + call.device->name() + ". Move one with .to().",
                 ErrorKind::kDeviceMismatch);
}

[[noreturn]] void throw_too_wide(const Call& call, size_t index) {
  throw_argument(call, index, "does not fit 64 bits: " + text_of(call.arguments[index].value) + ".");
}

[[noreturn]] void throw_not_held(const Call& call, size_t index) {
  const std::string& type = call.parameters[index].forced_type;
  throw_argument(call, index,
                 "is annotated as " + type + ", which does not hold " + text_of(call.arguments[index].value) + ".");
}

// Of the parameters, or of those that `is_wanted` is true of.
std::string names(const Call& call, bool (*is_wanted)(const Argument&) = [](const Argument&) { return true; }) {
  std::string text;
  for (size_t i = 0; i < call.size; ++i) {
    if (is_wanted(call.arguments[i])) text += (text.empty() ? "" : ", ") + text_of(call.parameters[i].name.ptr());
  }
  return text;
}

[[noreturn]] void throw_surplus(const Call& call, PyObject* const* args, size_t nargs) {
  throw Error(ErrorKind::kInvalidArgument,
              "kernel " + text_of(call.kernel_name) + " takes " + std::to_string(call.size) +
                  " positional arguments (" + names(call) + "), " + std::to_string(nargs) +
                  " were given; the first surplus one is " + described(args[call.size]) + ".");
}

[[noreturn]] void throw_missing(const Call& call) {
  const std::string missing = names(call, [](const Argument& argument) { return argument.value == nullptr; });
  throw Error(ErrorKind::kInvalidArgument, "kernel " + text_of(call.kernel_name) + " was launched without " + missing +
                                               ". Its arguments: " + names(call) + ".");
}

void bind_keyword(Call& call, PyObject* name, PyObject* value) {
  for (size_t i = 0; i < call.size; ++i) {
    if (!is_same_name(call.parameters[i].name.ptr(), name)) continue;
    if (call.arguments[i].value != nullptr) throw_argument(call, i, "was given twice.");
    call.arguments[i].value = value;
    return;
  }
  if (PyUnicode_CompareWithASCIIString(name, "stream") == 0) {
    call.stream = value;
  } else if (call.dispatcher != nullptr && is_option(name) && call.option_count < call.options.size()) {
    call.options[call.option_count++] = {name, value};
  } else {
    const char* options = call.dispatcher == nullptr ? "stream"
                                                     : "num_warps, num_stages, num_ctas, debug, maxnreg, "
                                                       "launch_cooperative_grid, launch_pdl, stream";
    throw Error(ErrorKind::kInvalidArgument, "kernel " + text_of(call.kernel_name) + " has no argument '" +
                                                 text_of(name) + "'. Its arguments: " + names(call) +
                                                 "; options: " + options + ".");
  }
}

void classify_constant(Call& call, size_t index) {
  Argument& argument = call.arguments[index];
  argument.tag = Tag::kConstant;
  if (!PyLong_Check(argument.value) && argument.value != Py_None) take_scalar(call, index);
  PyObject* value = argument.value;
  uint64_t content = 0;
  if (PyFloat_Check(value)) {  // each NaN has a hash of its own
    const double number = PyFloat_AS_DOUBLE(value);
    std::memcpy(&content, &number, sizeof content);
  } else {
    const Py_hash_t hash = PyObject_Hash(value);
    if (hash == -1 && PyErr_Occurred() != nullptr) {
      PyErr_Clear();
      throw_unhashable(call, index);
    }
    content = static_cast<uint64_t>(hash);
  }
  call.push(reinterpret_cast<uint64_t>(Py_TYPE(value)) << 3);
  call.push(content);
}

void set_device(Call& call, size_t index, Device& found) {
  PyObject* name = call.parameters[index].name.ptr();
  if (call.device == nullptr) {
    call.device = &found;
    call.device_argument = name;
  } else if (call.device != &found) {
    throw_mismatch(call, index, found);
  }
}

void classify_pointer(Call& call, size_t index, const BorrowedArray& array) {
  Argument& argument = call.arguments[index];
  const Parameter& parameter = call.parameters[index];
  argument.tag = Tag::kPointer;
  argument.bits = array.address;
  argument.type = triton_name(array.dtype);
  argument.element_bytes = static_cast<uint8_t>(itemsize(array.dtype));
  argument.is_readonly = array.is_readonly;
  call.has_readonly = call.has_readonly || array.is_readonly;
  argument.is_divisible = parameter.is_specialized && parameter.is_aligned && argument.bits % kAlignment == 0;
  set_device(call, index, *array.device);
  call.push(static_cast<uint64_t>(array.dtype) << 8 | static_cast<uint64_t>(argument.is_divisible) << 4 |
            static_cast<uint64_t>(Tag::kPointer));
}

void classify_tensor(Call& call, size_t index, const Tensor& tensor, bool is_readonly) {
  call.arguments[index].storage = tensor.storage.get();
  classify_pointer(call, index, {&tensor.device(), tensor.address(), tensor.dtype, is_readonly});
}

void classify_integer(Call& call, size_t index) {
  Argument& argument = call.arguments[index];
  const Parameter& parameter = call.parameters[index];
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
      throw_too_wide(call, index);
    }
    argument.type = "u64";
  }
  if (!parameter.forced_type.empty() && !holds(parameter.forced_type, value, overflow != 0)) {
    throw_not_held(call, index);
  }
  const bool is_one = value == 1 && overflow == 0 && parameter.is_specialized && parameter.forced_type.empty();
  argument.is_divisible = parameter.is_specialized && parameter.is_aligned && argument.bits % kAlignment == 0;
  if (is_one) argument.tag = Tag::kConstant;
  call.push(static_cast<uint64_t>(argument.type[1] - '0') << 8 | static_cast<uint64_t>(argument.type[0]) << 16 |
            static_cast<uint64_t>(argument.is_divisible) << 4 | static_cast<uint64_t>(is_one) << 5 |
            static_cast<uint64_t>(Tag::kInt));
}

void classify_float(Call& call, size_t index) {
  Argument& argument = call.arguments[index];
  const double number = PyFloat_AS_DOUBLE(argument.value);
  argument.tag = Tag::kFloat;
  argument.type = "fp32";
  std::memcpy(&argument.bits, &number, sizeof number);
  call.push(static_cast<uint64_t>(Tag::kFloat));
}

void classify_number(Call& call, size_t index) {
  Argument& argument = call.arguments[index];
  if (PyBool_Check(argument.value)) {
    argument.tag = Tag::kBool;
    argument.type = "u1";
    argument.bits = argument.value == Py_True ? 1 : 0;
    call.push(static_cast<uint64_t>(Tag::kBool));
  } else if (PyLong_Check(argument.value)) {
    classify_integer(call, index);
  } else {
    classify_float(call, index);
  }
}

void classify_array(Call& call, size_t index) {
  PyObject* value = call.arguments[index].value;
  BorrowedArray borrowed;
  if (borrow_array(value, &borrowed)) {
    classify_pointer(call, index, borrowed);
    call.borrowed[call.borrowed_count++] = index;
    return;
  }
  ImportedArray imported{{}, false};
  bool is_array = false;
  CallStream new_stream(call.stream);
  CallStream& stream = call.array_stream != nullptr ? *call.array_stream : new_stream;
  try {
    is_array = !is_numpy_scalar(value) && find_array(value, &imported, &stream);
  } catch (const Error& error) {
    throw_argument(call, index, "cannot be used. " + error.message, error.kind);
  }
  if (!is_array) throw_unusable(call, index);
  if (new_stream.is_used()) call.array_stream = std::make_unique<CallStream>(std::move(new_stream));
  classify_tensor(call, index, imported.tensor, imported.is_readonly);
  call.foreign.push_back(std::move(imported.tensor.storage));
}

void push_options(Call& call) {
  for (size_t i = 0; i < call.option_count; ++i) {
    const auto [name, value] = call.options[i];
    if (!PyIndex_Check(value)) {
      throw Error(ErrorKind::kDType, "kernel " + text_of(call.kernel_name) + ": the option " + text_of(name) + " is " +
                                         text_of(value) + "; it has to be a whole number.");
    }
    const Py_hash_t hash = PyObject_Hash(value);
    if (hash == -1 && PyErr_Occurred() != nullptr) throw_python();
    call.push(static_cast<uint64_t>(PyObject_Hash(name)));
    call.push(static_cast<uint64_t>(hash));
  }
}

}  // namespace

bool is_numpy_scalar(PyObject* value) {
  static PyObject* type = nullptr;
  if (type == nullptr) type = py::object(py::module_::import("numpy").attr("generic")).release().ptr();
  return PyType_IsSubtype(Py_TYPE(value), reinterpret_cast<PyTypeObject*>(type)) != 0;
}

// They speak the buffer protocol, so that they look like arrays.
bool take_scalar(Call& call, size_t index) {
  PyObject* value = call.arguments[index].value;
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
  call.numbers.push_back(py::reinterpret_steal<py::object>(number));
  call.arguments[index].value = number;
  return true;
}

// Whether a kernel of unify.jit gets the elements that its annotation says. Elements that are no dtype of ours come as
// others of their width.
bool has_elements_of(const Call& call, const Argument& argument, const std::string& type) {
  const std::string element = type.substr(type.compare(0, 2, "*k") == 0 ? 2 : 1);
  const bool is_of_jit = call.dispatcher != nullptr && call.dispatcher->fallback == nullptr;
  return !is_of_jit || !is_triton_name(element) || element == argument.type;
}

uint32_t element_bytes(const std::string& type) {
  const size_t digits = type.find_first_of("0123456789");
  return digits == std::string::npos ? 0 : (static_cast<uint32_t>(std::atoi(type.c_str() + digits)) + 7) / 8;
}

void check_annotation(const Call& call, size_t index) {
  const Parameter& parameter = call.parameters[index];
  const Argument& argument = call.arguments[index];
  const std::string& type = parameter.forced_type;
  if (type.empty() || argument.tag == Tag::kConstant) return;
  std::string what;
  if (argument.tag == Tag::kPointer && type[0] != '*') {
    what = "is an array; pass a number, or annotate a pointer";
  } else if (argument.tag != Tag::kPointer && type[0] == '*') {
    what = "is " + text_of(argument.value) + "; pass an array";
  } else if (argument.tag == Tag::kPointer &&
             (element_bytes(type) != argument.element_bytes || !has_elements_of(call, argument, type))) {
    what = std::string("its elements are ") + argument.type + "; convert it, or leave the annotation out";
  } else if (argument.tag == Tag::kFloat && is_integer(type)) {
    what = "is the float " + text_of(argument.value) + "; pass an int, or annotate a float";
  } else {
    return;
  }
  throw_argument(call, index, "is annotated as " + type + " and " + what + ".", ErrorKind::kDType);
}

void classify_value(Call& call, size_t index) {
  PyObject* value = call.arguments[index].value;
  if (call.parameters[index].is_constexpr || value == Py_None) {
    classify_constant(call, index);
  } else if (const Tensor* tensor = tensor_from_pyobject(value)) {
    classify_tensor(call, index, *tensor, reinterpret_cast<TensorObject*>(value)->is_readonly);
    call.uses_ours = true;
    if (tensor->storage->is_foreign()) {
      call.foreign.push_back(tensor->storage);
    } else {
      call.touched[call.touched_count++] = tensor->storage.get();
    }
  } else if (PyLong_Check(value) || PyFloat_Check(value) || take_scalar(call, index)) {
    classify_number(call, index);
  } else {
    classify_array(call, index);
  }
}

void bind(Call& call, PyObject* const* args, size_t nargs, PyObject* keywords) {
  if (nargs > call.size) throw_surplus(call, args, nargs);
  for (size_t i = 0; i < nargs; ++i) call.arguments[i].value = args[i];
  const Py_ssize_t keyword_count = keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
  for (Py_ssize_t k = 0; k < keyword_count; ++k) {
    bind_keyword(call, PyTuple_GET_ITEM(keywords, k), args[static_cast<Py_ssize_t>(nargs) + k]);
  }
  bool is_complete = true;
  for (size_t i = 0; i < call.size; ++i) {
    if (call.arguments[i].value == nullptr) call.arguments[i].value = call.parameters[i].default_value.ptr();
    is_complete = is_complete && call.arguments[i].value != nullptr;
  }
  if (!is_complete) throw_missing(call);
}

void own_borrowed(Call& call) {
  for (size_t i = 0; i < call.borrowed_count; ++i) {
    Argument& argument = call.arguments[call.borrowed[i]];
    ImportedArray imported = import_array(argument.value);
    argument.storage = imported.tensor.storage.get();
    call.foreign.push_back(std::move(imported.tensor.storage));
  }
  call.borrowed_count = 0;
}

void classify(Call& call) {
  for (size_t i = 0; i < call.size; ++i) classify_value(call, i);
  push_options(call);
  if (call.device == nullptr && call.stream != nullptr && py::isinstance<Stream>(call.stream)) {
    call.device = &py::handle(call.stream).cast<Stream&>().device();
  }
  if (call.device == nullptr) {
    call.device_owner = device_from_object(Py_None);
    call.device = call.device_owner.get();
  }
  call.push(reinterpret_cast<uint64_t>(call.device));
}

}  // namespace unify::python::kernel
