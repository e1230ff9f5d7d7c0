// Tensors for other processes: Tensor.share and Tensor.from_shared.
#include "sharing.h"

#include "../core/sharing.h"
#include "arguments.h"
#include "owner.h"
#include "tensor.h"

namespace unify::python {
namespace {

PyObject* share_method(PyObject* self, PyObject*) {
  return guarded([self] {
    const Tensor& tensor = *tensor_from_pyobject(self);
    const std::shared_ptr<Stream> stream = current_stream(tensor.device());
    const std::string token = without_gil([&] { return share(tensor, *stream); });
    release_owners();
    return bytes_of_token(token).release().ptr();
  });
}

PyObject* from_shared_function(PyObject*, PyObject* const* args, Py_ssize_t nargs, PyObject* keywords) {
  return guarded([&] {
    static const Signature<2> signature{"from_shared", 2, 1, {"token", "device"}};
    const auto [object, device] = parse_arguments(signature, args, nargs, keywords);
    const std::string token = token_from_object(object);
    const std::shared_ptr<Device> target = device_for_token(token, device);
    release_owners();
    return tensor_to_pyobject(without_gil([&] { return open_tensor(target, token); }));
  });
}

}  // namespace

std::string token_from_object(PyObject* object) {
  Py_buffer view;
  if (PyObject_GetBuffer(object, &view, PyBUF_SIMPLE) != 0) {
    PyErr_Clear();
    throw Error(ErrorKind::kInvalidArgument, "from_shared: a token is bytes, not " + described(object) + ".");
  }
  std::string token(static_cast<const char*>(view.buf), static_cast<size_t>(view.len));
  PyBuffer_Release(&view);
  return token;
}

std::shared_ptr<Device> device_for_token(const std::string& token, PyObject* device) {
  const std::string name = device_of_token(token);
  return device_from_object(is_given(device) ? device : py::str(name).ptr());
}

py::bytes bytes_of_token(const std::string& token) { return py::bytes(token); }

PyMethodDef* sharing_methods() {
  static PyMethodDef methods[] = {
      {"share", share_method, METH_NOARGS,
       "share(self) -> bytes\n\n"
       "A token by which other processes open this tensor's memory: `Tensor.from_shared`.\n\n"
       "Waits for the device's current stream, so that who opens it can read. Keep the tensor until the last of them\n"
       "is done with it: its memory may be reused or freed after that. A token opens the whole piece of memory that "
       "the\n"
       "allocator cut the tensor from: give it only to processes that may see it all.\n"
       "Raises UnsupportedError where the backend shares nothing between processes, and for memory of other "
       "libraries."},
      {"from_shared", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(from_shared_function)),
       METH_FASTCALL | METH_KEYWORDS | METH_STATIC,
       "from_shared(token: bytes, device: DeviceLike = None) -> Tensor\n\n"
       "A tensor over the memory of another process that called `share`: of the same dtype, shape and strides.\n\n"
       "device: the same chip, where it has another name here than in the other process. The memory is closed when "
       "the\n"
       "last tensor over it is gone and the streams have passed its use. What both write is in no order but that of\n"
       "shared events.\n"
       "Raises InvalidArgument for what is no such token, or one of this same process, and where the\n"
       "other process is gone."},
      {nullptr, nullptr, 0, nullptr}};
  return methods;
}

}  // namespace unify::python
