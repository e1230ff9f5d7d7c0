// Modules, their functions, and kernels that run.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "device.h"
#include "image.h"
#include "result.h"

namespace unify::simulator {

// A front's own functions may know more of themselves.
struct Function {
  std::shared_ptr<Context> context;
  KernelImage kernel;
};

struct Module {
  std::shared_ptr<Context> context;
  std::vector<std::shared_ptr<Function>> functions;
  std::vector<uintptr_t> handles;
};

// Runs all programs of a grid on the thread that calls it, with the arguments as the kernel's C struct has them.
Result run_kernel(const Function& function, const uint32_t (&grid)[3], std::vector<char> args);

}  // namespace unify::simulator
