// Functions that others compiled, out of a cubin, a CPU object, PTX: their parameters are declared, not found by
// looking at the arguments. function_launch.cpp launches, function_types.cpp holds the Python types.
#pragma once

#include <memory>
#include <vector>

#include "kernel.h"

namespace unify::python::kernel {

// What a function's arguments are. A field for each parameter, and maybe kLow and kHigh of some.
struct Declaration {
  std::vector<Parameter> parameters;
  Packing packing;
};

// Python's view of the core's Function. unify.jit holds those that it compiled, and shows them to nobody.
struct FunctionObject {
  PyObject_HEAD
  std::shared_ptr<Function> function;
  std::unique_ptr<Declaration> declaration;  // null: the arguments of each call carry their types
  PyObject* name;
  PyObject* parameters;  // what `declaration` was made of; or null
};

struct FunctionLauncher {
  PyObject_HEAD
  vectorcallfunc call;
  FunctionObject* function;
  GridChoice grid;
  LaunchShape shape;
};

// parameters: a sequence of unify.compiler.Parameter, or null. Throws InvalidArgument for what cannot be packed.
py::object function_object(std::shared_ptr<Function> function, PyObject* parameters);

// What f[...] was given: a grid, or a grid and a block where one of the two is a tuple.
struct Subscript {
  PyObject* grid;
  PyObject* block;  // or null
};
Subscript subscript_of(PyObject* key);
GridChoice choice_of(PyObject* grid);  // borrowed
void set_block(LaunchShape& shape, PyObject* block);

PyObject* launch_function(PyObject* launcher, PyObject* const* args, size_t nargsf, PyObject* keywords);
// Function.launch(grid, args, *, block, cluster, cooperative, overlapping, shared_bytes, stream)
PyObject* launch_with_everything(PyObject* function, PyObject* const* args, Py_ssize_t nargs, PyObject* keywords);

}  // namespace unify::python::kernel
