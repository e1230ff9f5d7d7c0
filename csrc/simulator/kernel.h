// Modules, their functions, and launches.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "device.h"
#include "image.h"
#include "stream.h"

namespace unify::simulator {

struct Function;

struct Module {
  std::shared_ptr<Context> context;
  std::vector<std::shared_ptr<Function>> functions;
  std::vector<CUfunction> handles;
};

struct Function {
  std::shared_ptr<Context> context;
  KernelImage kernel;
  int max_dynamic_shared = 49152;  // cuFuncSetAttribute raises it up to what the chip has
  bool allows_large_clusters = false;
  int carveout = -1;
  int scheduling = 0;
  [[nodiscard]] int max_threads() const;
};

// What a launch asks for, read from CUlaunchConfig and its attributes.
struct LaunchShape {
  unsigned grid[3];
  unsigned block[3];
  unsigned cluster[3] = {1, 1, 1};
  unsigned shared_bytes = 0;
  bool is_cooperative = false;
};

CUresult read_attribute(const Function& function, CUfunction_attribute attribute, int& out);
CUresult write_attribute(Function& function, CUfunction_attribute attribute, int value);

// What the chip does not take, by its limits and the function's.
CUresult read_shape(const CUlaunchConfig& config, const Function& function, LaunchShape& out);

// The parameters in one buffer. CUDA_ERROR_INVALID_VALUE if they are too few or in no known form.
CUresult pack_parameters(const Function& function, void** parameters, void** extra, std::vector<char>& out);

// The work of a launch. Runs all programs on the thread that calls it.
Operation make_launch(const std::shared_ptr<Function>& function, const LaunchShape& shape, std::vector<char> args);

}  // namespace unify::simulator
