// Devices, and the contexts in which their streams live.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "faults.h"
#include "memory.h"
#include "result.h"
#include "stream.h"

namespace unify::simulator {

struct Device;

// Handles of a context that is over are unknown to the next one.
struct Context {
  explicit Context(Device* device) : device(device) {}
  Device* const device;
  Result result = kSuccess;                                       // what a fault left of it
  bool is_over = false;                                           // reset or destroyed
  std::vector<std::shared_ptr<Stream>> streams;                   // live ones, the default ones too
  std::shared_ptr<Stream> legacy;                                 // the default stream
  std::map<std::thread::id, std::shared_ptr<Stream>> per_thread;  // CUDA: the default streams of threads
};

struct Device {
  Device(int index, int chip, std::string name, uint64_t memory_bytes)
      : index(index), chip(chip), name(std::move(name)), arena(index, memory_bytes) {}
  const int index;
  const int chip;  // a number of the front's
  const std::string name;
  Arena arena;
  Faults faults;
  bool is_lost = false;
  uint32_t retained = 0;             // references to the primary context
  std::shared_ptr<Context> context;  // the primary one; null while it is not active
};

// What a context answers to every call: kSuccess while it is well.
Result result_of(const Context& context) noexcept;

// Ends the work of a context: what its device did last failed. `result_of` is this from now on.
void end_context(Context& context, Result result);

// Destroys what belongs to a context but modules, and returns once nothing of it runs any more.
void close_context(Lock& lock, const std::shared_ptr<Context>& context);

// Does what became due by time.
void apply_due_faults(Device& device);
void apply(Device& device, const Fault& fault);

std::shared_ptr<Stream> make_stream(const std::shared_ptr<Context>& context, int priority);

}  // namespace unify::simulator
