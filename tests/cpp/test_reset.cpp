// A device that is reset, or a stream that begins a recording, while other threads use the memory.
#include <unify/backend.h>

#include <atomic>
#include <memory>
#include <thread>

#include "check.h"
#include "core/allocator.h"
#include "core/device.h"
#include "core/graph.h"
#include "core/layers/layer.h"
#include "core/memory.h"
#include "core/registry.h"
#include "core/stream.h"
#include "core/trace.h"

extern "C" const unify_backend* unify_host_backend_get(unify_backend_get_args* args);

namespace unify {
namespace {

// The CPU, which the layer can reset.
const unify_backend* resettable_get(unify_backend_get_args* args) {
  static const unify_backend table = [args] {
    unify_backend made = *unify_host_backend_get(args);
    made.name = "resettable";
    add_faults(made);
    return made;
  }();
  return &table;
}

std::shared_ptr<Device> resettable() {
  Registry::instance().add_builtin("resettable", resettable_get);
  return Registry::instance().device("resettable:0");
}

std::atomic<bool> is_resetting{false};
std::atomic<bool> may_reset{false};
std::atomic<bool> was_asked{false};

// One whose reset waits until it may go on.
const unify_backend* pausing_get(unify_backend_get_args* args) {
  static const unify_backend resettable = *resettable_get(args);
  static const unify_backend table = [] {
    unify_backend made = resettable;
    made.name = "pausing";
    made.device_reset = [](unify_device device) {
      is_resetting = true;
      while (!may_reset) std::this_thread::yield();
      is_resetting = false;
      return resettable.device_reset(device);
    };
    made.event_query = [](unify_event event) {
      if (is_resetting) was_asked = true;
      return resettable.event_query(event);
    };
    return made;
  }();
  return &table;
}

std::atomic<bool> records{false};
std::atomic<bool> may_go_on{false};
std::atomic<bool> was_asked_while_recording{false};

// One whose recordings begin slowly, and which notices who asks meanwhile.
const unify_backend* recording_get(unify_backend_get_args* args) {
  static const unify_backend plain = *unify_host_backend_get(args);
  static const unify_backend table = [] {
    unify_backend made = plain;
    made.name = "recording";
    made.capture_begin = [](unify_stream) {
      records = true;
      while (!may_go_on) std::this_thread::yield();
      return UNIFY_OK;
    };
    made.capture_end = [](unify_stream, unify_graph* out) {
      records = false;
      *out = reinterpret_cast<unify_graph>(16);
      return UNIFY_OK;
    };
    made.graph_launch = [](unify_graph, unify_stream) { return UNIFY_OK; };
    made.graph_destroy = [](unify_graph) { return UNIFY_OK; };
    made.stream_query = [](unify_stream stream) {
      if (records) was_asked_while_recording = true;
      return plain.stream_query(stream);
    };
    return made;
  }();
  return &table;
}

void fill_on(Stream& stream) {
  const std::shared_ptr<Storage> block = stream.device().allocator().allocate(64, stream);
  fill(stream, {&stream.device(), block->address(), block.get()}, 1, 1, block->bytes());
}

// Resets the device over and over while two threads work on it; they may be told of the reset, and of nothing else.
void while_reset(const std::shared_ptr<Device>& device, const std::function<void()>& work) {
  std::atomic<bool> is_done{false};
  in_threads(3, [&](size_t number) {
    for (int round = 0; number == 0 && round < 200; ++round) device->reset();
    if (number == 0) is_done = true;
    while (!is_done) {
      const std::string error = error_of(work);
      CHECK(error.empty() || has(error, "reset"));
    }
  });
}

}  // namespace

void test_the_default_stream_is_made_anew_after_a_reset() {
  const std::shared_ptr<Device> device = resettable();
  while_reset(device, [&] { fill_on(*device->default_stream()); });
  fill_on(*device->default_stream());
  device->synchronize();
}

void test_memory_asks_no_other_device_while_that_is_reset() {
  Registry::instance().add_builtin("pausing", pausing_get);
  const std::shared_ptr<Device> other = Registry::instance().device("pausing:0");
  const std::shared_ptr<Device> device = resettable();
  const std::shared_ptr<Stream> stream = Stream::create(device);
  const std::shared_ptr<Stream> others = Stream::create(other);
  std::shared_ptr<Storage> block = device->allocator().allocate(64, *stream);
  others->host_call([] {
    while (!may_reset) std::this_thread::yield();
  });
  block->used_on(*others);
  const unify_address address = block->address();
  block.reset();
  CHECK(device->allocator().allocate(64, *stream)->address() != address);  // which waits for the other's work
  in_threads(2, [&](size_t number) {
    if (number == 0) return other->reset();
    while (!is_resetting) std::this_thread::yield();
    CHECK(device->allocator().allocate(64, *stream)->address() != address);
    may_reset = true;
  });
  CHECK(!was_asked);
  CHECK(device->allocator().statistics().waiting_bytes == 0);
}

// From the moment when a recording begins, before the core knows of it, a question would end it.
void test_memory_asks_no_stream_that_begins_a_recording() {
  Registry::instance().add_builtin("recording", recording_get);
  const std::shared_ptr<Device> device = Registry::instance().device("recording:0");
  const std::shared_ptr<Stream> recorder = Stream::create(device);
  const std::shared_ptr<Stream> stream = Stream::create(device);
  std::shared_ptr<Storage> block = device->allocator().allocate(64, *recorder);
  const unify_address address = block->address();
  block.reset();
  in_threads(2, [&](size_t number) {
    if (number == 0) return Graph::begin(recorder)->end();
    while (!records) std::this_thread::yield();
    CHECK(device->allocator().allocate(64, *stream)->address() != address);  // the other's, which may have work left
    may_go_on = true;
  });
  CHECK(!was_asked_while_recording);
}

void test_a_trace_ends_while_its_device_is_reset() {
  const std::shared_ptr<Device> device = resettable();
  while_reset(device, [&] {
    const bool is_mine = Trace::instance().start();
    const std::string error = error_of([&] {
      const std::shared_ptr<Stream> stream = Stream::create(device);
      for (int i = 0; i < 10; ++i) fill_on(*stream);
    });
    CHECK(error.empty() || has(error, "reset"));
    if (is_mine) (void)Trace::instance().stop();
  });
}

}  // namespace unify
