// Binaries, their kernels, and launches of them.
#pragma once

#include <string>
#include <vector>

#include "calls.h"
#include "simulator/kernel.h"

namespace unify::simulator {

// What aclrtBinaryLoadFromData makes; every Function of the Ascend front is one.
struct AclFunction : Function {
  uint32_t magic = 0;  // ACL_RT_BINARY_MAGIC_ELF_…: which cores it runs on
  uintptr_t module = 0;
  std::shared_ptr<Range> code;  // where the binary is on the device
};

inline std::shared_ptr<AclFunction> find_function(aclrtFuncHandle handle) {
  return std::static_pointer_cast<AclFunction>(driver().functions.find(handle));
}

// Reads an ELF file with kernels in sections .unify.host, for a context. Returns the binary's handle.
Result load_binary(Call& call, const void* data, size_t bytes, uint32_t magic, aclrtBinHandle& out);
// The handle of one of its kernels; 0 if it has none of the name.
uintptr_t function_of(aclrtBinHandle binary, const std::string& name);

// What work reads its arguments from.
struct Arguments {
  std::vector<char> host;
  uint64_t device = 0;  // if not 0, they lie there when it runs
  std::shared_ptr<Range> kept;
};

Result submit_launch(Call& call, Stream& stream, const std::shared_ptr<AclFunction>& function, uint32_t blocks,
                     Arguments arguments);

// What ACL calls the address over which cube and vector cores synchronise.
uint64_t sync_address(const Device& device);

}  // namespace unify::simulator
