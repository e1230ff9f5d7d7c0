#include "configure.h"

#include "calls.h"
#include "chips.h"

using namespace unify::simulator;

UNIFY_SIMULATOR_EXPORT int unify_simulator_configure(int count, const char* name, uint64_t memory_bytes) {
  const int chip = find_chip(name == nullptr ? "" : name);
  if (chip < 0) {
    return fail_with("no chip is called '" + std::string(name == nullptr ? "" : name) + "'; known: " + known_chips());
  }
  {
    const Lock lock(driver().mutex);
    if (acl().contexts.size() > 0) return fail_with("a context is alive: configure before the first device is opened");
  }
  return configure({count, chip, memory_bytes, std::string(chip_at(chip).soc) + " (simulated)"});
}
