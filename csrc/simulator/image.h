// Reads what cuModuleLoadDataEx is given: an ELF file for CUDA with a kernel for this machine's CPU inside.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backends/host_elf.h"
#include "cuda_types.h"

namespace unify::simulator {

// The section .nv.unify.host, little endian: this header, `parameters` times HostParameter, `name_bytes` of name, zeros
// up to `header_bytes` (a multiple of 64), `object_bytes` of a relocatable object (unify/host_kernel.h).
struct HostHeader {
  char magic[8];  // "UNIFYHST"
  uint32_t version;
  uint32_t header_bytes;
  uint32_t args_bytes;  // of the C struct that the object reads: the first part of CUDA's parameters
  uint32_t parameters;
  uint64_t scratch_bytes;
  uint64_t object_bytes;
  uint32_t name_bytes;
  uint32_t reserved;
};
static_assert(sizeof(HostHeader) == 48, "written by unify/simulator/section.py");

struct HostParameter {
  uint32_t offset;
  uint32_t bytes;
  uint32_t is_pointer;  // into device memory
};
static_assert(sizeof(HostParameter) == 12, "written by unify/simulator/section.py");

constexpr char kHostMagic[9] = "UNIFYHST";
constexpr uint32_t kHostVersion = 1;

struct KernelImage {
  std::string name;
  uint32_t args_bytes = 0;
  uint64_t scratch_bytes = 0;
  std::vector<HostParameter> parameters;
  std::shared_ptr<host::LoadedObject> object;
  void* entry = nullptr;
  int registers = 0;     // of a thread, by the section .nv.info
  int shared_bytes = 0;  // that the kernel always has, by the section .nv.shared.<name>
};

// CUDA_SUCCESS with the kernels; CUDA_ERROR_INVALID_IMAGE for what is no image or a damaged one;
// CUDA_ERROR_NO_BINARY_FOR_GPU for what this chip cannot run. `why` is for the simulator's own message.
CUresult read_image(const void* image, int capability, std::vector<KernelImage>& out, std::string& why);

}  // namespace unify::simulator
