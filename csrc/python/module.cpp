// unify._core: the extension module, a function per subject.
#include "convert.h"
#include "owner.h"

PYBIND11_MODULE(_core, module) {
  using namespace unify::python;
  module.doc() = "The core of unify. Its classes are the public ones; use them through `import unify`.";
  watch_reclaim();
  bind_errors(module);
  bind_device(module);
  bind_stream(module);
  bind_event(module);
  bind_dtype(module);
  bind_tensor(module);
  bind_memory(module);
  bind_graph(module);
  bind_trace(module);
  bind_kernel(module);
  bind_function(module);
}
