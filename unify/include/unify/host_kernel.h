/* The contract between the CPU compiler and the CPU backend: what an image is and how its kernels are called.

   An image is one ELF64 relocatable object for x86-64 or AArch64 (Linux's ABI, little endian), position independent,
   small code model, as LLVM emits it. Undefined symbols may only be functions of libm or libmvec, memcpy, memset,
   memmove, printf, sched_yield and clock_gettime. */
#ifndef UNIFY_HOST_KERNEL_H
#define UNIFY_HOST_KERNEL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Where a kernel says why it stopped. Strings live in the image. */
typedef struct unify_host_fault {
  uint32_t kind;       /* 0 none, 1 failed assertion, 2 access out of bounds */
  uint32_t line;       /* in `file`, 0 if unknown */
  uint32_t program[3]; /* which program of the grid */
  int32_t argument;    /* bounds: which pointer parameter, counted from 0, or -1 */
  int64_t offset;      /* bounds: in bytes from that parameter's address */
  const char* message; /* assertion: its text; bounds: what was tried, and through which argument */
  const char* file;
} unify_host_fault;

typedef struct unify_host_call {
  const void* args; /* parameters as one C struct, naturally aligned */
  uint32_t grid[3];
  uint32_t reserved;
  void* scratch; /* unify_launch_args.shared_bytes of memory, aligned to 64; of this thread alone */
  unify_host_fault* fault;
} unify_host_call;

/* Runs the programs with linear numbers [begin, end): x = id % grid[0], y = id / grid[0] % grid[1], z the rest.
   Several threads run disjoint ranges at the same time. Returns 0, or not 0 after it filled *fault. */
typedef int32_t (*unify_host_kernel)(const unify_host_call* call, uint64_t begin, uint64_t end);

#ifdef __cplusplus
}
#endif
#endif /* UNIFY_HOST_KERNEL_H */
