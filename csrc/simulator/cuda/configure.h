// How the simulated CUDA devices are configured, besides what simulator.h offers for every vendor's.
#pragma once

#include "simulator/simulator.h"

// How many devices there are, and of which chip: a compute capability such as 90. `name` may be null: the chip's own.
// Before cuInit, or while no context is retained and no memory of cuMemCreate is alive.
UNIFY_SIMULATOR_EXPORT int unify_simulator_configure(int count, int capability, uint64_t memory_bytes,
                                                     const char* name);
