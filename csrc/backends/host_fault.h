// Calls a kernel so that a bad access in it becomes an error and not the end of the process.
#pragma once

#include <unify/host_kernel.h>

#include <cstdint>
#include <string>

namespace unify::host {

// False, with the signal and address in `message`, when the kernel was stopped by SIGSEGV, SIGBUS, SIGFPE or SIGILL.
// Kernels hold no locks and own nothing, so that leaving one in the middle is safe; what it wrote stays written.
bool call_guarded(unify_host_kernel kernel, const unify_host_call* call, uint64_t begin, uint64_t end,
                  std::string& message);

}  // namespace unify::host
