// What chip each device pretends to be.
#pragma once

#include <string>

#include "simulator/device.h"

namespace unify::simulator {

struct Chip {
  int capability;  // 10 × major + minor: the number of a Device's chip
  const char* name;
  int processors;
  int clock_khz;
  int memory_clock_khz;
  int bus_bits;
  int l2_bytes;
  int shared_optin;  // bytes a block may have when it asks for them
  int threads_per_processor;
  int blocks_per_processor;
  int has_ecc;
};

// The chip of a compute capability, or null.
const Chip* find_chip(int capability);
const Chip& chip_of(const Device& device);
// "80, 86, ..."
std::string known_capabilities();
// What its devices are called.
std::string name_of(const Chip& chip, const char* wanted);

}  // namespace unify::simulator
