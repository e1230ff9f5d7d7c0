// Functions of modules, and launches of them.
#pragma once

#include <memory>
#include <vector>

#include "chips.h"
#include "cuda_types.h"
#include "simulator/kernel.h"
#include "simulator/stream.h"

namespace unify::simulator {

// What cuModuleLoadData makes; every Function of the CUDA front is one.
struct CudaFunction : Function {
  int registers = 0;
  int shared_bytes = 0;
  int max_dynamic_shared = 49152;       // cuFuncSetAttribute raises it up to what the chip has
  bool has_max_dynamic_shared = false;  // that it was set; until then static and dynamic share what there is by default
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

CUresult read_attribute(const CudaFunction& function, CUfunction_attribute attribute, int& out);
CUresult write_attribute(CudaFunction& function, CUfunction_attribute attribute, int value);

// What the chip does not take, by its limits and the function's.
CUresult read_shape(const CUlaunchConfig& config, const CudaFunction& function, LaunchShape& out);

// The parameters in one buffer. CUDA_ERROR_INVALID_VALUE if they are too few or in no known form.
CUresult pack_parameters(const CudaFunction& function, void** parameters, void** extra, std::vector<char>& out);

// The work of a launch. Runs all programs on the thread that calls it.
Operation make_launch(const std::shared_ptr<CudaFunction>& function, const LaunchShape& shape, std::vector<char> args);

}  // namespace unify::simulator
