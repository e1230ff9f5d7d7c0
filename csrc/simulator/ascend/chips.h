// What chip each device pretends to be.
#pragma once

#include <cstdint>
#include <string>

#include "simulator/device.h"

namespace unify::simulator {

struct Chip {
  const char* model;  // as users say it: "910B3"
  const char* soc;    // as aclrtGetSocName says it
  int cube_cores;
  int vector_cores;
  int ubuf_kib;  // that a kernel has on a vector core
  int l2_mib;
  int memory_gib;
  int arch;
  bool pads_memory;  // aclrtMalloc gives 32 bytes more than it was asked for
};

constexpr int kAicpuCores = 6;

// The number of a model or SoC, which is the number of a Device's chip, or -1.
int find_chip(const std::string& name);
const Chip& chip_at(int number);
inline const Chip& chip_of(const Device& device) { return chip_at(device.chip); }
// "910B1, 910B2, ..."
std::string known_chips();

}  // namespace unify::simulator
