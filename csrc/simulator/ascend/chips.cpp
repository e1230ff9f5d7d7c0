#include "chips.h"

#include <iterator>

namespace unify::simulator {
namespace {

// The platform files of the vendor's runtime, src/platform/platform_config/*.ini; of the 910C and the 950, a die.
constexpr Chip kChips[] = {
    {"910B1", "Ascend910B1", 24, 48, 192, 192, 64, 2201, true},
    {"910B2", "Ascend910B2", 24, 48, 192, 192, 64, 2201, true},
    {"910B3", "Ascend910B3", 20, 40, 192, 192, 64, 2201, true},
    {"910B4", "Ascend910B4", 20, 40, 192, 96, 32, 2201, true},
    {"910C", "Ascend910_9392", 24, 48, 192, 192, 64, 2201, true},
    {"950", "Ascend950PR_9599", 36, 72, 248, 128, 128, 3510, false},
};

}  // namespace

int find_chip(const std::string& name) {
  for (size_t i = 0; i < std::size(kChips); ++i) {
    if (name == kChips[i].model || name == kChips[i].soc) return static_cast<int>(i);
  }
  return -1;
}

const Chip& chip_at(int number) { return kChips[number]; }

std::string known_chips() {
  std::string text;
  for (const Chip& chip : kChips) text += (text.empty() ? "" : ", ") + std::string(chip.model);
  return text;
}

}  // namespace unify::simulator
