// The Python type of a tensor, for code that must not pay for a conversion: the launch path.
#pragma once

#include <Python.h>

#include <memory>
#include <string>
#include <vector>

#include "../core/tensor.h"

struct DLManagedTensorVersioned;
struct DLPackExchangeAPI;

namespace unify::python {

class CallStream;

struct TensorObject {
  PyObject_HEAD
  PyObject* weakrefs;
  bool is_readonly;
  Tensor tensor;
};

extern PyTypeObject* tensor_type;  // final: no subclasses

// Null when `object` is not a unify.Tensor; sets no Python error.
inline Tensor* tensor_from_pyobject(PyObject* object) noexcept {
  return Py_TYPE(object) == tensor_type ? &reinterpret_cast<TensorObject*>(object)->tensor : nullptr;
}

// A new reference. Throws when Python has no memory.
PyObject* tensor_to_pyobject(Tensor tensor, bool is_readonly = false);

// A zero-copy tensor over any array: ours, or one that speaks DLPack (by table or by method), the buffer
// protocol, __array_interface__ or __cuda_array_interface__. Needs the GIL. Keeps the array alive as long as
// the tensor. Work of the array's library on its own stream is ordered before that of `call`, or before ours; CPU
// arrays are taken as ready. Throws InvalidArgument for an object that is no array, DTypeError for elements we have no
// name for.
struct ImportedArray {
  Tensor tensor;
  bool is_readonly;
};
ImportedArray import_array(PyObject* object, CallStream* call = nullptr);
[[nodiscard]] bool speaks_dlpack_table(PyObject* object);  // as torch's arrays do
// The same; false for what is no array.
bool find_array(PyObject* object, ImportedArray* out_array, CallStream* call = nullptr);

// Where an array of another library is that speaks DLPack or the buffer protocol; nothing is imported.
struct ArrayPlace {
  bool is_array;
  Device* device;  // null: the host
};
ArrayPlace place_of_array(PyObject* object, const DLPackExchangeAPI** out_table);

// Where the elements of another library's array on the host are, while the array lives: nothing is kept, and nothing
// to be given back. False for arrays of libraries that cannot say it so cheaply.
struct BorrowedArray {
  Device* device;
  uint64_t address;
  DType dtype;
  bool is_readonly;
};
bool borrow_array(PyObject* object, BorrowedArray* out_array);

// Takes over a DLPack tensor; its deleter runs with the GIL once the result is let go.
ImportedArray tensor_from_dlpack(DLManagedTensorVersioned* managed);

// The tensor as an array of the library that `like` comes from, zero-copy. A new reference.
PyObject* export_like(Tensor tensor, PyObject* like);

// Parts of the type, a file each.
PyObject* tensor_subscript(PyObject* self, PyObject* key);
int tensor_assign_subscript(PyObject* self, PyObject* key, PyObject* value);
PyObject* tensor_transposed(PyObject* self);
PyObject* tensor_matrix_transposed(PyObject* self);
PyObject* tensor_item_at(PyObject* self, Py_ssize_t index);
int tensor_get_buffer(PyObject* self, Py_buffer* view, int flags);
void tensor_release_buffer(PyObject* self, Py_buffer* view);
PyMethodDef* view_methods();
PyMethodDef* copy_methods();
PyMethodDef* dlpack_methods();
PyMethodDef* sharing_methods();
PyMethodDef* creation_functions();
PyMethodDef* import_functions();
PyObject* dlpack_exchange_api();                            // a new capsule
DLManagedTensorVersioned* dlpack_of(const Tensor& tensor);  // the consumer deletes it
// To a consumer that works on its own stream: after our work so far, and the memory lives until its work has passed.
void hand_over(const Tensor& tensor, Stream& consumer);

// Waits for the current stream's work when the host can see the memory, else copies it to the host.
Tensor host_tensor(const Tensor& tensor);
// dst[...] = src, in the order of both devices' current streams; see tensor_copy.cpp.
void copy_ordered(const Tensor& dst, const Tensor& src, PyObject* stream);
// The same on `stream`, of memory of one device that does not overlap.
void copy_apart(const std::shared_ptr<Stream>& stream, const Tensor& dst, const Tensor& src);
// The device of a DLPack device, opened if need be.
std::shared_ptr<Device> device_from_dlpack(int32_t type, int32_t id);
// Those that arrays of other libraries were on so far, without the host.
const std::vector<std::shared_ptr<Device>>& devices_of_arrays();

// Fills with a Python number. Throws InvalidArgument when the dtype cannot hold it.
void fill_tensor(Stream& stream, const Tensor& tensor, PyObject* value);

// Gives the tensor this shape, last axis fastest, and returns its bytes. ShapeError for a negative length, too
// many axes, or more bytes than an address can count.
uint64_t set_contiguous(Tensor& tensor, const std::vector<int64_t>& shape);

std::string shape_text(const Tensor& tensor);  // "[2, 3]"
void require_writable(PyObject* self, const char* what);

}  // namespace unify::python
