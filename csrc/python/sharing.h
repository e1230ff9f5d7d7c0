// Tokens that travel between processes, as Python's bytes.
#pragma once

#include "convert.h"

namespace unify::python {

// The bytes of any object that has some. Throws InvalidArgument for another.
std::string token_from_object(PyObject* object);
// The one that is given, or the token's own by its name.
std::shared_ptr<Device> device_for_token(const std::string& token, PyObject* device);
py::bytes bytes_of_token(const std::string& token);

}  // namespace unify::python
