// What a fork leaves of the CPU's devices in the child. Locks that a thread of the parent held, and what it was
// changing under them, are made anew and the old ones leaked: nobody is left who would let them go.
#include <pthread.h>

#include <new>

#include "host.h"

namespace unify::host {
namespace {

std::atomic<uint32_t> generation{0};
std::mutex devices_mutex;  // before a device's

// Never destroyed: a process may fork while it ends.
std::unordered_set<Device*>& devices() {
  static auto* set = new std::unordered_set<Device*>;
  return *set;
}

template <typename Value>
void make_anew(Value& value) {
  new (&value) Value();
}

// Held over the fork, so that the child finds the sets of devices and streams whole.
void before_fork() {
  devices_mutex.lock();
  for (Device* device : devices()) device->mutex.lock();
}

void after_fork_in_parent() {
  for (Device* device : devices()) device->mutex.unlock();
  devices_mutex.unlock();
}

void make_empty(Stream& stream) {
  make_anew(stream.mutex);
  make_anew(stream.changed);
  make_anew(stream.queue);
  make_anew(stream.failure);
  stream.pending = 0;
  stream.has_failed = false;
  stream.has_thread = false;
}

void after_fork_in_child() {
  generation.fetch_add(1);
  for (Device* device : devices()) {
    device->pool.forget_threads();
    for (auto it = device->streams.begin(); it != device->streams.end();) {
      make_empty(**it);
      it = (*it)->is_closing ? device->streams.erase(it) : std::next(it);
    }
    make_anew(device->left);
    device->mutex.unlock();
  }
  devices_mutex.unlock();
}

}  // namespace

void watch_forks(Device& device) {
  static const int registered = pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
  (void)registered;
  const std::lock_guard<std::mutex> lock(devices_mutex);
  devices().insert(&device);
}

void forget_device(Device& device) {
  const std::lock_guard<std::mutex> lock(devices_mutex);
  devices().erase(&device);
}

uint32_t fork_generation() noexcept { return generation.load(std::memory_order_relaxed); }

}  // namespace unify::host
