#include "chips.h"

namespace unify::simulator {
namespace {

// NVIDIA's data sheets and the tables of "Compute Capabilities" in the CUDA programming guide.
constexpr Chip kChips[] = {
    {80, "NVIDIA A100-SXM4-80GB", 108, 1410000, 1593000, 5120, 40 << 20, 166912, 2048, 32, 1},
    {86, "NVIDIA A10", 72, 1695000, 6251000, 384, 6 << 20, 101376, 1536, 16, 1},
    {89, "NVIDIA L40S", 142, 2520000, 9001000, 384, 96 << 20, 101376, 1536, 24, 1},
    {90, "NVIDIA H100 80GB HBM3", 132, 1980000, 2619000, 5120, 50 << 20, 232448, 2048, 32, 1},
    {100, "NVIDIA B200", 148, 1965000, 3996000, 8192, 126 << 20, 232448, 2048, 32, 1},
    {120, "NVIDIA GeForce RTX 5090", 170, 2407000, 14001000, 512, 96 << 20, 101376, 1536, 24, 0},
};

}  // namespace

const Chip* find_chip(int capability) {
  for (const Chip& chip : kChips) {
    if (chip.capability == capability) return &chip;
  }
  return nullptr;
}

const Chip& chip_of(const Device& device) { return *find_chip(device.chip); }

std::string known_capabilities() {
  std::string text;
  for (const Chip& chip : kChips) text += (text.empty() ? "" : ", ") + std::to_string(chip.capability);
  return text;
}

std::string name_of(const Chip& chip, const char* wanted) {
  return std::string(wanted == nullptr ? chip.name : wanted) + " (simulated)";
}

}  // namespace unify::simulator
