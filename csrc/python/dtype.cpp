#include "dtype.h"

#include <array>
#include <cstring>

#include "convert.h"

namespace unify::python {

PyTypeObject* dtype_type = nullptr;

namespace {

struct Row {
  DType dtype;
  const char* format;
  uint8_t dlpack_code;  // dlpack.h, DLDataTypeCode
  bool is_signed;
};

constexpr std::array<Row, 15> kRows = {{
    {DType::kBool, "?", 6, false},
    {DType::kInt8, "b", 0, true},
    {DType::kInt16, "h", 0, true},
    {DType::kInt32, "i", 0, true},
    {DType::kInt64, "q", 0, true},
    {DType::kUInt8, "B", 1, false},
    {DType::kUInt16, "H", 1, false},
    {DType::kUInt32, "I", 1, false},
    {DType::kUInt64, "Q", 1, false},
    {DType::kFloat16, "e", 2, true},
    {DType::kBFloat16, nullptr, 4, true},
    {DType::kFloat32, "f", 2, true},
    {DType::kFloat64, "d", 2, true},
    {DType::kFloat8E4M3, nullptr, 10, true},
    {DType::kFloat8E5M2, nullptr, 12, true},
}};

constexpr bool rows_follow_the_enum() {
  for (size_t i = 0; i < kRows.size(); ++i) {
    if (static_cast<size_t>(kRows[i].dtype) != i) return false;
  }
  return true;
}
static_assert(rows_follow_the_enum(), "kRows is indexed by DType");

const Row& row(DType dtype) { return kRows[static_cast<size_t>(dtype)]; }

std::array<PyObject*, kRows.size()>& objects() {
  static std::array<PyObject*, kRows.size()> singletons{};
  return singletons;
}

DType value_of(PyObject* self) { return reinterpret_cast<DTypeObject*>(self)->value; }

PyObject* get_name(PyObject* self, void*) { return PyUnicode_FromString(name(value_of(self))); }
PyObject* get_triton_name(PyObject* self, void*) { return PyUnicode_FromString(triton_name(value_of(self))); }
PyObject* get_itemsize(PyObject* self, void*) { return PyLong_FromUnsignedLong(itemsize(value_of(self))); }
PyObject* get_is_floating(PyObject* self, void*) { return PyBool_FromLong(is_floating(value_of(self))); }
PyObject* get_is_signed(PyObject* self, void*) { return PyBool_FromLong(is_signed(value_of(self))); }

PyObject* get_numpy(PyObject* self, void*) {
  return guarded([self] {
    static PyObject* numpy_dtype = nullptr;
    PyObject* function = python_function(numpy_dtype, "unify._tensor", "numpy_dtype");
    return in_python([&] { return PyObject_CallOneArg(function, self); });
  });
}

PyObject* repr(PyObject* self) { return PyUnicode_FromFormat("unify.%s", name(value_of(self))); }

Py_hash_t hash(PyObject* self) {
  PyObject* text = PyUnicode_FromString(name(value_of(self)));
  if (text == nullptr) return -1;
  const Py_hash_t result = PyObject_Hash(text);
  Py_DECREF(text);
  return result;
}

// Equal to its own name too: `x.dtype == "float32"` must not be False without a word.
PyObject* compare(PyObject* self, PyObject* other, int operation) {
  if (operation != Py_EQ && operation != Py_NE) Py_RETURN_NOTIMPLEMENTED;
  bool is_equal = self == other;
  if (!is_equal && PyUnicode_Check(other)) {
    is_equal = PyUnicode_CompareWithASCIIString(other, name(value_of(self))) == 0;
  } else if (!is_equal && !is_dtype(other)) {
    Py_RETURN_NOTIMPLEMENTED;
  }
  return PyBool_FromLong(is_equal == (operation == Py_EQ));
}

PyObject* reduce(PyObject* self, PyObject*) {
  return guarded([self] {
    static PyObject* from_name = nullptr;
    PyObject* function = python_function(from_name, "unify._core", "dtype");
    return Py_BuildValue("O(s)", function, name(value_of(self)));
  });
}

PyObject* make_dtype(PyObject*, PyObject* object) {
  return guarded([object] {
    PyObject* found = dtype_object(dtype_from_object(object));
    Py_INCREF(found);
    return found;
  });
}

PyGetSetDef attributes[] = {
    {"name", get_name, nullptr, "name -> str\n\n'float32'.", nullptr},
    {"triton_name", get_triton_name, nullptr, "triton_name -> str\n\nAs in a Triton signature: 'fp32'.", nullptr},
    {"itemsize", get_itemsize, nullptr, "itemsize -> int\n\nBytes per element.", nullptr},
    {"is_floating", get_is_floating, nullptr, "is_floating -> bool\n\nWhether it holds fractions.", nullptr},
    {"is_signed", get_is_signed, nullptr, "is_signed -> bool\n\nWhether it holds negative numbers.", nullptr},
    {"numpy", get_numpy, nullptr,
     "numpy -> numpy.dtype\n\nNumPy's own; bfloat16 and float8 need the package ml_dtypes.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr}};

PyMethodDef methods[] = {{"__reduce__", reduce, METH_NOARGS, nullptr}, {nullptr, nullptr, 0, nullptr}};

PyType_Slot slots[] = {
    {Py_tp_doc, const_cast<char*>("An element type: unify.float32, unify.bfloat16 … Compares equal to its name.")},
    {Py_tp_getset, attributes},
    {Py_tp_methods, methods},
    {Py_tp_repr, reinterpret_cast<void*>(repr)},
    {Py_tp_hash, reinterpret_cast<void*>(hash)},
    {Py_tp_richcompare, reinterpret_cast<void*>(compare)},
    {0, nullptr}};

PyType_Spec spec = {"unify.DType", sizeof(DTypeObject), 0,
                    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE, slots};

PyMethodDef dtype_function = {"dtype", make_dtype, METH_O,
                              "dtype(object: object) -> DType\n\n"
                              "An element type from its name, from bool, int or float, or from another library's."};

// "float32" from "torch.float32", numpy.dtype('float32'), numpy.float32, ml_dtypes.bfloat16.
std::string name_of_foreign(const py::handle object) {
  for (const char* attribute : {"name", "__name__"}) {
    if (!py::hasattr(object, attribute)) continue;
    const py::object found = object.attr(attribute);
    if (PyUnicode_Check(found.ptr())) return found.cast<std::string>();
  }
  return py::str(object).cast<std::string>();
}

std::string without_prefix(std::string text) {
  const size_t dot = text.rfind('.');
  if (dot != std::string::npos) text.erase(0, dot + 1);
  if (text == "bool_") return "bool";
  if (text == "float8_e4m3fn") return name(DType::kFloat8E4M3);
  return text;
}

}  // namespace

PyObject* dtype_object(DType dtype) { return objects()[static_cast<size_t>(dtype)]; }

DType dtype_from_object(PyObject* object) {
  if (is_dtype(object)) return value_of(object);
  if (object == reinterpret_cast<PyObject*>(&PyBool_Type)) return DType::kBool;
  if (object == reinterpret_cast<PyObject*>(&PyLong_Type)) return DType::kInt64;
  if (object == reinterpret_cast<PyObject*>(&PyFloat_Type)) return DType::kFloat32;
  const std::string text = PyUnicode_Check(object) ? text_of(object) : name_of_foreign(object);
  return dtype_from_name(without_prefix(text));
}

bool is_floating(DType dtype) noexcept { return row(dtype).is_signed && row(dtype).dlpack_code != 0; }
bool is_signed(DType dtype) noexcept { return row(dtype).is_signed; }
const char* buffer_format(DType dtype) noexcept { return row(dtype).format; }
uint8_t dlpack_code(DType dtype) noexcept { return row(dtype).dlpack_code; }

bool dtype_from_dlpack(uint8_t code, uint8_t bits, DType* out_dtype) noexcept {
  for (const Row& candidate : kRows) {
    if (candidate.dlpack_code == code && itemsize(candidate.dtype) * 8 == bits) {
      *out_dtype = candidate.dtype;
      return true;
    }
  }
  return false;
}

void bind_dtype(py::module_& module) {
  dtype_type = reinterpret_cast<PyTypeObject*>(require(PyType_FromSpec(&spec)));
  module.add_object("DType", py::reinterpret_borrow<py::object>(reinterpret_cast<PyObject*>(dtype_type)));
  for (const Row& entry : kRows) {
    DTypeObject* object = PyObject_New(DTypeObject, dtype_type);
    if (object == nullptr) throw_python();
    object->value = entry.dtype;
    objects()[static_cast<size_t>(entry.dtype)] = reinterpret_cast<PyObject*>(object);
    std::string public_name = name(entry.dtype);
    if (public_name == "bool") public_name = "bool_";  // the builtin's name is taken
    module.add_object(public_name.c_str(), py::reinterpret_borrow<py::object>(dtype_object(entry.dtype)));
  }
  PyObject* function = require(PyCFunction_NewEx(&dtype_function, nullptr, py::str("unify._core").ptr()));
  module.add_object("dtype", py::reinterpret_steal<py::object>(function));
}

}  // namespace unify::python
