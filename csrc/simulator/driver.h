// The state of the simulated driver, and how its calls enqueue work.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "device.h"
#include "kernel.h"
#include "memory.h"
#include "registry.h"
#include "stream.h"

namespace unify::simulator {

struct Graph;
struct GraphExec;

struct Settings {
  int count = 1;
  int chip = 0;  // a number of the front's
  uint64_t memory_bytes = uint64_t{1} << 30;
  std::string name;
};
inline bool operator==(const Settings& a, const Settings& b) {
  return a.count == b.count && a.chip == b.chip && a.memory_bytes == b.memory_bytes && a.name == b.name;
}

struct Driver {
  std::mutex mutex;                  // of everything below and all that hangs on it
  std::condition_variable progress;  // work was done, or a context is over

  Settings settings;
  Memory memory;
  std::vector<std::unique_ptr<Device>> devices;  // empty until they are needed
  std::vector<std::unique_ptr<Device>> retired;  // of an earlier configuration: threads may still look at them
  Registry<Stream> streams{0x51000000};
  Registry<Event> events{0xe1000000};
  Registry<Module> modules{0x31000000};
  Registry<Function> functions{0xf1000000};
  Registry<Graph> graphs{0x61000000};
  Registry<GraphExec> graph_execs{0x71000000};
  Registry<Block> blocks{0xb1000000};  // memory without addresses
  std::vector<std::shared_ptr<Capture>> captures;
};

// Never destroyed: threads of streams may run when the process ends.
Driver& driver();

// Whether this process can have no driver: it is the child of a fork after the start, or it ends.
bool is_forked() noexcept;
bool is_ending() noexcept;
// From now on a child of fork has none.
void note_start();

// A call on its way: the mutex is held, and the faults that it is due are known.
struct Call {
  const char* name;
  Lock lock;
  std::shared_ptr<Context> context;  // of the stream if there is one, else the current one; null if none is needed
  Fault fault;                       // for the work that the call enqueues
};

// With the mutex: makes the devices that the settings ask for, and takes them away again.
void make_devices();
void retire_devices();

Device* find_device(int number);

// Appends an operation to a stream, or to the graph that it captures.
Result submit(Call& call, Stream& stream, Operation operation, std::vector<MarkPtr> after = {});

}  // namespace unify::simulator
