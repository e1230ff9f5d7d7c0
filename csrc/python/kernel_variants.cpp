// A kernel's compiled variants: found by the key of a call's arguments, made by Python when the key was never seen.
#include <cstdlib>
#include <cstring>
#include <tuple>

#include "kernel.h"

namespace unify::python::kernel {
namespace {

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

bool fits(const Variant& variant, const Call& call) {
  if (variant.key.size() != call.key_size ||
      std::memcmp(variant.key.data(), call.key.data(), call.key_size * sizeof(uint64_t)) != 0) {
    return false;
  }
  size_t next = 0;
  for (size_t i = 0; i < call.size; ++i) {
    if (!call.parameters[i].is_constexpr) continue;
    if (!is_same_constant(variant.constants[next++].ptr(), call.arguments[i].value)) return false;
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

size_t slot_of(const std::vector<std::unique_ptr<Variant>>& variants, const uint64_t* key, size_t size) {
  return static_cast<size_t>(hash_of(key, size)) & (variants.size() - 1);
}

const Variant* find(const Call& call) {
  const auto& variants = *call.dispatcher.variants;
  for (size_t slot = slot_of(variants, call.key.data(), call.key_size);; slot = (slot + 1) & (variants.size() - 1)) {
    const Variant* variant = variants[slot].get();
    if (variant == nullptr) return nullptr;
    // After a reset the kernel is loaded again; the old variant stays, as resets are rare.
    const bool is_loaded = variant->function->module->generation() == call.device->generation();
    // Comparing may call __eq__, and the table grow meanwhile: a variant stays where it is in memory, and one that is
    // overlooked then is compiled again.
    if (is_loaded && fits(*variant, call)) return variant;
  }
}

const Variant* insert(Dispatcher& dispatcher, std::unique_ptr<Variant> variant) {
  auto& variants = *dispatcher.variants;
  const auto put = [&variants](std::unique_ptr<Variant> one) {
    size_t slot = slot_of(variants, one->key.data(), one->key.size());
    while (variants[slot] != nullptr) slot = (slot + 1) & (variants.size() - 1);
    variants[slot] = std::move(one);
  };
  if (2 * (dispatcher.count + 1) > variants.size()) {
    std::vector<std::unique_ptr<Variant>> old(2 * variants.size());
    old.swap(variants);
    for (auto& one : old) {
      if (one != nullptr) put(std::move(one));
    }
  }
  const Variant* result = variant.get();
  put(std::move(variant));
  ++dispatcher.count;
  return result;
}

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
  const Parameter& parameter = call.parameters[index];
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
  throw_argument(call, index, "is annotated as " + type + " and " + what + ".", ErrorKind::kDType);
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
void check_fields(const Call& call, const Variant& variant) {
  const size_t scratch_end = variant.function->scratch_offset == 0 ? 0 : variant.function->scratch_offset + 16;
  bool is_sound = variant.args_bytes <= kMostBytes && scratch_end <= variant.args_bytes;
  for (const Field& field : variant.fields) {
    const Tag tag = field.parameter < call.size ? call.arguments[field.parameter].tag : Tag::kConstant;
    const bool is_of_array = field.kind == Kind::kPointer || field.kind == Kind::kLow || field.kind == Kind::kHigh;
    is_sound = is_sound && tag != Tag::kConstant && is_of_array == (tag == Tag::kPointer) &&
               field.offset + bytes_of(field.kind) <= variant.args_bytes;
  }
  if (is_sound) return;
  throw Error(ErrorKind::kInternal,
              "kernel " + name_of(call.dispatcher) + ": its compiler describes " +
                  std::to_string(variant.fields.size()) + " fields in " + std::to_string(variant.args_bytes) +
                  " bytes, which the arguments do not fill. " + "At most " + std::to_string(kMostBytes) +
                  " bytes are possible. This is a bug of the target's compiler.");
}

// → (function, [(parameter, type, offset, is_written)], [(dict, name, value)]) and maybe what a launch returns
py::tuple compile(const Call& call) {
  py::list values;
  py::list types;
  py::list aligned;
  for (size_t i = 0; i < call.size; ++i) {
    check_annotation(call, i);
    const Argument& argument = call.arguments[i];
    values.append(py::reinterpret_borrow<py::object>(argument.value));
    types.append(type_of(call.parameters[i], argument));
    aligned.append(py::bool_(argument.is_divisible && argument.tag != Tag::kConstant));
  }
  py::dict options;
  for (size_t i = 0; i < call.option_count; ++i) {
    options[py::reinterpret_borrow<py::object>(call.options[i].first)] =
        py::reinterpret_borrow<py::object>(call.options[i].second);
  }
  const auto device = py::reinterpret_borrow<py::object>(device_object(call.device->shared_from_this()));
  const py::object made =
      py::reinterpret_borrow<py::object>(call.dispatcher.miss)(device, values, types, aligned, options);
  if (!made.is_none()) return made;
  throw Error(ErrorKind::kUnsupported, "kernel " + name_of(call.dispatcher) + " was not compiled: a hook said so.");
}

std::unique_ptr<Variant> variant_from(const Call& call, const py::tuple& compiled) {
  auto variant = std::make_unique<Variant>();
  variant->key.assign(call.key.data(), call.key.data() + call.key_size);
  const py::object function = compiled[0];
  variant->function = reinterpret_cast<FunctionObject*>(function.ptr())->function;
  variant->args_bytes = static_cast<uint32_t>(variant->function->args_bytes);
  for (const py::handle field : compiled[1]) {
    const auto [parameter, type, offset, is_written] = field.cast<std::tuple<size_t, std::string, uint32_t, bool>>();
    variant->fields.push_back({parameter, kind_of(type), is_written, offset});
    variant->is_checked = variant->is_checked || variant->fields.back().kind == Kind::kLow;
  }
  check_fields(call, *variant);
  for (const py::handle global : compiled[2]) {
    const py::tuple parts = py::reinterpret_borrow<py::tuple>(global);
    variant->globals.push_back({parts[0], parts[1], parts[2]});
  }
  if (compiled.size() > 3) variant->result = compiled[3];
  for (size_t i = 0; i < call.size; ++i) {
    if (!call.parameters[i].is_constexpr) continue;
    variant->constants.push_back(py::reinterpret_borrow<py::object>(call.arguments[i].value));
  }
  return variant;
}

void check_globals(const Dispatcher& dispatcher, const Variant& variant) {
  for (const Global& global : variant.globals) {
    const auto now = py::reinterpret_borrow<py::object>(PyDict_GetItemWithError(global.dict.ptr(), global.name.ptr()));
    if (now.is(global.value)) continue;
    const int is_equal = !now ? 0 : PyObject_RichCompareBool(now.ptr(), global.value.ptr(), Py_EQ);
    if (is_equal == 1) continue;
    PyErr_Clear();
    throw Error(ErrorKind::kInvalidArgument,
                "kernel " + name_of(dispatcher) + ": the global '" + text_of(global.name.ptr()) + "' was " +
                    text_of(global.value.ptr()) + " when the kernel was compiled and is " +
                    (!now ? std::string("gone") : text_of(now.ptr())) + " now. Pass it as an argument.");
  }
}

void check_readonly(const Call& call, const Variant& variant) {
  for (const Field& field : variant.fields) {
    if (field.kind != Kind::kPointer || !field.is_written || !call.arguments[field.parameter].is_readonly) continue;
    throw_argument(call, field.parameter, "is read-only, and the kernel writes to it. Pass a copy.");
  }
}

}  // namespace

const Variant& variant_of(const Call& call) {
  const Variant* variant = find(call);
  if (variant == nullptr) {
    const py::tuple compiled = compile(call);
    variant = find(call);  // another thread may have been faster
    if (variant == nullptr) variant = insert(call.dispatcher, variant_from(call, compiled));
  }
  if (!variant->globals.empty()) check_globals(call.dispatcher, *variant);
  if (call.has_readonly) check_readonly(call, *variant);
  return *variant;
}

}  // namespace unify::python::kernel
