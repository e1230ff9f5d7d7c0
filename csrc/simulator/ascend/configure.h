// How the simulated Ascend devices are configured, besides what simulator.h offers for every vendor's.
#pragma once

#include "simulator/simulator.h"

// How many devices there are, and of which chip: a model such as "910B3", or a SoC such as "Ascend910_9392". While no
// device is set, no context is alive, and no memory of aclrtMallocPhysical.
UNIFY_SIMULATOR_EXPORT int unify_simulator_configure(int count, const char* chip, uint64_t memory_bytes);
