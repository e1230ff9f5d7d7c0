#include "driver.h"

#include <pthread.h>

#include <atomic>

#include "front.h"
#include "graph.h"

namespace unify::simulator {
namespace {

std::atomic<bool> is_started{false};
std::atomic<bool> is_child{false};
std::atomic<bool> is_over{false};

void after_fork_in_child() {
  if (is_started.load()) is_child.store(true);
}

__attribute__((destructor)) void on_exit() { is_over.store(true); }

}  // namespace

Driver& driver() {
  static auto* const state = [] {
    auto* made = new Driver;
    made->settings = default_settings();
    return made;
  }();
  return *state;
}

bool is_forked() noexcept { return is_child.load(std::memory_order_relaxed); }
bool is_ending() noexcept { return is_over.load(std::memory_order_relaxed); }

void note_start() {
  static const int registered = pthread_atfork(nullptr, nullptr, after_fork_in_child);
  (void)registered;
  is_started.store(true);
}

void make_devices() {
  Driver& state = driver();
  if (!state.devices.empty()) return;
  const Settings& settings = state.settings;
  for (int i = 0; i < settings.count; ++i) {
    state.devices.push_back(std::make_unique<Device>(i, settings.chip, settings.name, settings.memory_bytes));
    state.memory.add_arena(&state.devices.back()->arena);
  }
}

void retire_devices() {
  Driver& state = driver();
  state.memory.forget_arenas();
  for (auto& device : state.devices) state.retired.push_back(std::move(device));
  state.devices.clear();
}

Device* find_device(int number) {
  const auto& devices = driver().devices;
  if (number < 0 || static_cast<size_t>(number) >= devices.size()) return nullptr;
  return devices[static_cast<size_t>(number)].get();
}

namespace {

// Work that stops until it is released, or until it may not run any more.
Run hang(std::shared_ptr<Context> context, Run then) {
  // Counted from the call: a release may come before the stream's thread is here.
  const uint64_t before = context->device->faults.releases;
  return [before, context = std::move(context), then = std::move(then)](Stream& stream) -> Result {
    {
      Lock lock(driver().mutex);
      Operation self;
      self.context = context;
      while (context->device->faults.releases == before && may_run(stream, self)) {
        driver().progress.wait_until(lock, Clock::now() + std::chrono::milliseconds(50));
        apply_due_faults(*context->device);
      }
      if (!may_run(stream, self)) return kSuccess;
    }
    return then == nullptr ? kSuccess : then(stream);
  };
}

}  // namespace

Result submit(Call& call, Stream& stream, Operation operation, std::vector<MarkPtr> after) {
  operation.context = stream.context;
  if (call.fault.kind == Fault::Kind::kHang) {
    operation.run = hang(stream.context, std::move(operation.run));
  } else if (call.fault.kind == Fault::Kind::kResult) {
    operation.run = [result = call.fault.result](Stream&) { return result; };
  }
  if (stream.capture != nullptr) return capture(stream, std::move(operation));
  return enqueue(stream, std::move(operation), std::move(after));
}

}  // namespace unify::simulator
