// Faults that a device remembers, and who is told of them.
#pragma once

#include "calls.h"

namespace unify::simulator {

void remember_fault(Device& device, Result result);

// Calls the program's function for exceptions, if it has one. The mutex is free meanwhile.
void tell_of_fault(Lock& lock, const Device& device, const AclStream& stream, Result result);

}  // namespace unify::simulator
