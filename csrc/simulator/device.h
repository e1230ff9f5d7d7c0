// Devices, what chip each pretends to be, and their primary contexts.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "faults.h"
#include "memory.h"
#include "stream.h"

namespace unify::simulator {

struct Chip {
  int capability;  // 10 × major + minor
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
// "80, 86, ..."
std::string known_capabilities();

struct Device;

// A primary context, from its first retain to its reset. Handles of an earlier one are unknown to the next.
struct Context {
  explicit Context(Device* device) : device(device) {}
  Device* const device;
  CUresult result = CUDA_SUCCESS;                // what a fault left: the answer to every call from then on
  bool is_over = false;                          // reset
  std::vector<std::shared_ptr<Stream>> streams;  // live ones, the default ones too
  std::shared_ptr<Stream> legacy;
  std::map<std::thread::id, std::shared_ptr<Stream>> per_thread;
};

struct Device {
  Device(int index, const Chip& chip, std::string name, uint64_t memory_bytes)
      : index(index), chip(chip), name(std::move(name)), arena(index, memory_bytes) {}
  const int index;
  const Chip& chip;
  const std::string name;
  Arena arena;
  Faults faults;
  bool is_lost = false;
  uint32_t retained = 0;
  std::shared_ptr<Context> context;  // null while it is not active
};

// The handle of a device's primary context: the same before and after a reset, as the driver's.
CUcontext handle_of(const Device& device) noexcept;

// What a context answers to every call: CUDA_SUCCESS while it is well.
CUresult result_of(const Context& context) noexcept;

// Ends the work of a context: what its device did last failed. Calls return `result` from now on.
void end_context(Context& context, CUresult result);

// Destroys all that belongs to the device's context, if it is active, and returns once nothing of it runs any more.
void reset(Lock& lock, Device& device);

// Does what became due by time.
void apply_due_faults(Device& device);
void apply(Device& device, const Fault& fault);

std::shared_ptr<Stream> make_stream(const std::shared_ptr<Context>& context, bool is_blocking, int priority);
std::shared_ptr<Stream> legacy_stream(const std::shared_ptr<Context>& context);
std::shared_ptr<Stream> stream_of_this_thread(const std::shared_ptr<Context>& context);

}  // namespace unify::simulator
