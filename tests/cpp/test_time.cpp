// Times by the host's clock, on backends that tell none.
#include <unify/backend.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"
#include "core/allocator.h"
#include "core/device.h"
#include "core/event.h"
#include "core/layers/layer.h"
#include "core/memory.h"
#include "core/registry.h"
#include "core/stream.h"
#include "core/trace.h"

extern "C" const unify_backend* unify_host_backend_get(unify_backend_get_args* args);

namespace unify {
namespace {

unify_status untimed_event(unify_device device, const unify_event_args* args, unify_event* out) {
  if ((args->flags & UNIFY_EVENT_TIMING) != 0) return UNIFY_UNSUPPORTED;
  return unify_host_backend_get(nullptr)->event_create(device, args, out);
}

// The CPU's table without its clock, failing on demand.
unify_backend untimed(const char* name, unify_status (*host_call)(unify_stream, unify_host_function, void*)) {
  unify_backend table = *unify_host_backend_get(nullptr);
  table.name = name;
  table.event_elapsed = nullptr;
  table.event_create = untimed_event;
  table.host_call = host_call;
  add_faults(table);
  return table;
}

struct Opened {
  Opened(const char* name, const unify_backend* (*get)(unify_backend_get_args*)) {
    Registry::instance().add_builtin(name, get);
    device = Registry::instance().device(std::string(name) + ":0");
    stream = Stream::create(device);
    begin = Event::create(device, true);
    end = Event::create(device, true);
  }
  std::string elapsed_error() const {
    return error_of([&] { (void)begin->elapsed_ms(*end); });
  }
  // What a trace around a fill says.
  std::string traced() const {
    CHECK(Trace::instance().start());
    const std::shared_ptr<Storage> block = device->allocator().allocate(64, *stream);
    fill(*stream, {device.get(), block->address()}, 1, 1, block->bytes());
    return Trace::instance().stop();
  }
  std::shared_ptr<Device> device;
  std::shared_ptr<Stream> stream;
  std::shared_ptr<Event> begin;
  std::shared_ptr<Event> end;
};

// Its host calls read the time.
const unify_backend* untimed_get(unify_backend_get_args*) {
  static const unify_backend table = untimed("untimed", unify_host_backend_get(nullptr)->host_call);
  return &table;
}

// It makes no host calls: its streams are waited for.
const unify_backend* callless_get(unify_backend_get_args*) {
  static const unify_backend table = untimed("callless", nullptr);
  return &table;
}

// Its host calls come too late.
std::vector<std::pair<unify_host_function, void*>> postponed;
const unify_backend* late_get(unify_backend_get_args*) {
  static const unify_backend table = untimed("late", [](unify_stream, unify_host_function function, void* user) {
    postponed.emplace_back(function, user);
    return UNIFY_OK;
  });
  return &table;
}

}  // namespace

void test_a_backend_that_tells_no_times_gets_the_hosts() {
  const Opened on("untimed", untimed_get);
  CHECK(has(on.elapsed_error(), "never recorded"));
  std::atomic<bool> is_open{false};
  on.begin->record(*on.stream);
  on.stream->host_call([&] {
    while (!is_open) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  });
  on.end->record(*on.stream);
  CHECK(has(on.elapsed_error(), "synchronize()"));
  is_open = true;
  on.end->synchronize();
  CHECK(on.begin->elapsed_ms(*on.end) >= 20 && on.end->elapsed_ms(*on.begin) == -on.begin->elapsed_ms(*on.end));
  const std::string trace = on.traced();
  CHECK(has(trace, "\"fill\"") && has(trace, "\"dropped\":\"0\""));
}

void test_an_event_whose_record_failed_has_no_time() {
  const Opened on("untimed", untimed_get);
  on.begin->record(*on.stream);
  on.device->set_option("fail", "event_record:1:internal");
  CHECK(has(error_of([&] { on.end->record(*on.stream); }), "told to fail"));
  on.stream->synchronize();
  CHECK(has(on.elapsed_error(), "never recorded"));
}

void test_a_time_that_was_never_taken_is_none() {
  const Opened on("late", late_get);
  on.begin->record(*on.stream);
  on.end->record(*on.stream);
  on.end->synchronize();
  CHECK(has(on.elapsed_error(), "has no time"));
  const std::string trace = on.traced();
  CHECK(!has(trace, "\"fill\"") && has(trace, "\"dropped\":\"1\""));
  for (const auto& [function, user] : postponed) function(user);
}

void test_a_trace_that_waits_leaves_what_it_was_told_to_the_user() {
  const Opened on("callless", callless_get);
  on.device->set_option("fail", "stream_synchronize:1:internal");
  CHECK(has(on.traced(), "\"dropped\":\"1\""));
  CHECK(has(error_of([&] { on.stream->synchronize(); }), "told to fail"));
  on.stream->synchronize();
}

}  // namespace unify
