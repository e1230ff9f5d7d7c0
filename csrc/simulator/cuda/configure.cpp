#include "configure.h"

#include "chips.h"
#include "simulator/driver.h"

using namespace unify::simulator;

UNIFY_SIMULATOR_EXPORT int unify_simulator_configure(int count, int capability, uint64_t memory_bytes,
                                                     const char* name) {
  const Chip* chip = find_chip(capability);
  if (chip == nullptr) {
    return fail_with("no chip has compute capability " + std::to_string(capability) +
                     "; known: " + known_capabilities());
  }
  return configure({count, capability, memory_bytes, name_of(*chip, name)});
}
