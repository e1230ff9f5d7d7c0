/* How a library of operators runs its work on a simulated Ascend: libopapi's place is taken by one that is made of
   unify/simulator/operators and of files of yours. Functions of the simulated libascendcl.so. */
#ifndef UNIFY_SIMULATED_OPERATOR_H
#define UNIFY_SIMULATED_OPERATOR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What an operator reads or writes. `bytes` of 0: nothing, wherever it is. */
typedef struct unify_simulated_memory {
  uint64_t address; /* of the device */
  uint64_t bytes;
} unify_simulated_memory;

typedef struct unify_simulated_operator {
  const char* name; /* of the call, "aclnnAdd": faults are planned by it */
  const unify_simulated_memory* memory;
  uint32_t count;
  /* Does the work on the thread of the stream; more than once in a graph that is replayed. where[i]: memory[i] as the
     host reaches it, null where that has no bytes. Returns 0, or a code of ACL's with the reason in `why`. */
  int32_t (*run)(void* data, void* const* where, char* why, size_t why_bytes);
  void (*release)(void* data); /* once, when nobody will run it again */
  void* data;
} unify_simulated_operator;

/* Enqueues an operator on a stream, and returns an aclError. Whatever that is, `release` will be called.
   Memory that the device may not use when the work runs is an exception of its cores. */
int32_t unify_simulator_operate(const unify_simulated_operator* op, void* stream);

/* Says why a call that only looks at its arguments returns `code`, and returns it. */
int32_t unify_simulator_refuse(const char* name, int32_t code, const char* why);

#ifdef __cplusplus
}
#endif
#endif /* UNIFY_SIMULATED_OPERATOR_H */
