// A kernel's compiled variants: found by the key of a call's arguments, made by Python when the key was never seen.
#include <cstdlib>
#include <cstring>
#include <tuple>

#include "function.h"
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
  const int is_equal = in_python([&] { return PyObject_RichCompareBool(a, b, Py_EQ); });
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
  const auto& variants = *call.dispatcher->variants;
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
  const uint32_t scratch = variant.function->scratch.offset;
  const size_t scratch_end = scratch == 0 ? 0 : scratch + sizeof(uint64_t);
  bool is_sound = variant.packing.args_bytes <= kMostBytes && scratch_end <= variant.packing.args_bytes;
  for (const Field& field : variant.packing.fields) {
    const Tag tag = field.parameter < call.size ? call.arguments[field.parameter].tag : Tag::kConstant;
    const bool is_of_array = field.kind == Kind::kPointer || field.kind == Kind::kLow || field.kind == Kind::kHigh;
    is_sound = is_sound && tag != Tag::kConstant && is_of_array == (tag == Tag::kPointer) &&
               field.offset + bytes_of(field.kind) <= variant.packing.args_bytes;
  }
  if (is_sound) return;
  throw Error(ErrorKind::kInternal, "kernel " + text_of(call.kernel_name) + ": its compiler describes " +
                                        std::to_string(variant.packing.fields.size()) + " fields in " +
                                        std::to_string(variant.packing.args_bytes) +
                                        " bytes, which the arguments do not fill. " + "At most " +
                                        std::to_string(kMostBytes) +
                                        " bytes are possible. This is a bug of the target's compiler.");
}

// → (function, [(parameter, type, offset, is_written)], [(dict, name, value)]) and maybe what a launch returns
py::tuple compile(const Call& call) {
  py::list values;
  py::list types;
  py::list aligned;
  for (size_t i = 0; i < call.size; ++i) {
    // The key holds what is looked at here, so that a kernel which was found needs no look.
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
  const auto made = py::reinterpret_steal<py::object>(require(in_python([&] {
    return PyObject_CallFunctionObjArgs(call.dispatcher->miss, device.ptr(), values.ptr(), types.ptr(), aligned.ptr(),
                                        options.ptr(), nullptr);
  })));
  if (!made.is_none()) return made;
  throw Error(ErrorKind::kUnsupported, "kernel " + text_of(call.kernel_name) + " was not compiled: a hook said so.");
}

std::unique_ptr<Variant> variant_from(const Call& call, const py::tuple& compiled) {
  auto variant = std::make_unique<Variant>();
  variant->key.assign(call.key.data(), call.key.data() + call.key_size);
  const py::object function = compiled[0];
  variant->function = reinterpret_cast<FunctionObject*>(function.ptr())->function;
  variant->packing.args_bytes = static_cast<uint32_t>(variant->function->args_bytes);
  for (const py::handle field : compiled[1]) {
    const auto [parameter, type, offset, is_written] = field.cast<std::tuple<size_t, std::string, uint32_t, bool>>();
    variant->packing.fields.push_back({parameter, kind_of(type), is_written, offset});
    variant->packing.is_checked = variant->packing.is_checked || variant->packing.fields.back().kind == Kind::kLow;
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
    const auto compare = [&] { return PyObject_RichCompareBool(now.ptr(), global.value.ptr(), Py_EQ); };
    const int is_equal = !now ? 0 : in_python(compare);
    if (is_equal == 1) continue;
    PyErr_Clear();
    throw Error(ErrorKind::kInvalidArgument,
                "kernel " + text_of(dispatcher.kernel_name) + ": the global '" + text_of(global.name.ptr()) + "' was " +
                    text_of(global.value.ptr()) + " when the kernel was compiled and is " +
                    (!now ? std::string("gone") : text_of(now.ptr())) + " now. Pass it as an argument.");
  }
}

void check_readonly(const Call& call, const Variant& variant) {
  for (const Field& field : variant.packing.fields) {
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
    if (variant == nullptr) variant = insert(*call.dispatcher, variant_from(call, compiled));
  }
  if (!variant->globals.empty()) check_globals(*call.dispatcher, *variant);
  if (call.has_readonly) check_readonly(call, *variant);
  return *variant;
}

}  // namespace unify::python::kernel
