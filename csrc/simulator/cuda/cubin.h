// Reads what cuModuleLoadDataEx is given: an ELF file for CUDA with a kernel for this machine's CPU inside, in the
// section .nv.unify.host.
#pragma once

#include <string>
#include <vector>

#include "cuda_types.h"
#include "simulator/image.h"

namespace unify::simulator {

struct CubinKernel {
  KernelImage kernel;
  int registers = 0;     // of a thread, by the section .nv.info
  int shared_bytes = 0;  // that the kernel always has, by the section .nv.shared.<name>
};

// CUDA_SUCCESS with the kernels; CUDA_ERROR_INVALID_IMAGE for what is no image or a damaged one;
// CUDA_ERROR_NO_BINARY_FOR_GPU for what this chip cannot run. `why` is for the simulator's own message.
CUresult read_image(const void* image, int capability, std::vector<CubinKernel>& out, std::string& why);

}  // namespace unify::simulator
