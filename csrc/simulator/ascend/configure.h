// How the simulated Ascend devices are configured, besides what simulator.h offers for every vendor's.
#pragma once

#include "simulator/result.h"
#include "simulator/simulator.h"

// How many devices there are, and of which chip: a model such as "910B3", or a SoC such as "Ascend910_9392". While no
// device is set, no context is alive, and no memory of aclrtMallocPhysical; or the same again.
//
// Where nobody calls this, the environment says it, so that programs need not know of the simulation:
// UNIFY_SIMULATE=ascend:910B3x2,64g, of which parts for other vendors may stand beside it, behind ";". Who calls it or
// not, UNIFY_SIMULATED_FAULTS has plans of unify_simulator_fail, each behind its device: "0:aclnnAdd:3:aicore;
// 1:time:2.5:lost", where times count from the first call. A text that cannot be read fails every call, with the
// reason.
UNIFY_SIMULATOR_EXPORT int unify_simulator_configure(int count, const char* chip, uint64_t memory_bytes);

namespace unify::simulator {

// A variable of the environment; empty if it is not set. It is read nowhere else.
std::string variable(const char* name);

// With the mutex: makes the devices that are asked for, if they are not there. Why not is what every call answers.
Result open_devices();

}  // namespace unify::simulator
