#include "trace.h"

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "device.h"
#include "device_clock.h"
#include "event.h"
#include "failures.h"
#include "host_time.h"
#include "stream.h"
#include "trace_json.h"

namespace unify {
namespace {

struct HostSpan {
  std::string name;
  const char* category;
  uint32_t thread;
  int64_t begin_ns;
  int64_t end_ns;
};

struct DeviceSpan {
  std::shared_ptr<Stream> stream;
  const char* name;
  uint32_t generation;  // of the device: after a reset the events are gone
  SpanMark begin;
  SpanMark end;
};

// So that the host's and a device's spans fit on one axis.
struct Origin {
  DeviceClock clock;
  uint32_t generation = 0;
};

struct Spans {
  std::vector<HostSpan> host;
  std::vector<DeviceSpan> device;
  std::map<Device*, Origin> origins;
  size_t dropped = 0;
};

struct State {
  std::mutex mutex;
  Spans spans;
  size_t max_events = 0;
  uint32_t number = 0;  // of the trace: a span may end after the one that it began in

  bool has_room() {
    if (spans.host.size() + spans.device.size() < max_events) return true;
    ++spans.dropped;
    return false;
  }
};

State& state() {
  static auto* instance = new State;
  return *instance;
}

// The caller holds what a reset waits for: the stream's mutex, or the device's call().
void destroy(Device& device, uint32_t generation, unify_event event) {
  if (event != nullptr && generation == device.generation()) device.table().event_destroy(event);
}

// Null when the device makes no event.
unify_event timed_event(Device& device) {
  unify_event event = nullptr;
  return make_event(device, UNIFY_EVENT_TIMING, &event) == UNIFY_OK ? event : nullptr;
}

// Whether the time of this place in the stream will be known.
bool takes_time(Stream& stream, HostTime* out) {
  const unify_backend& table = stream.device().table();
  if (table.event_elapsed != nullptr) return true;
  const unify_status status = read_clock(stream, out);
  // It has waited, and what it was told of the work so far is told only once.
  if (status != UNIFY_OK && table.host_call == nullptr) {
    stream.device().failures().note(stream.id(), status, "waiting for the work before a mark of a trace");
  }
  return status == UNIFY_OK;
}

// Without an event when the device makes none.
SpanMark mark(Stream& stream) {
  const unify_backend& table = stream.device().table();
  SpanMark result{timed_event(stream.device()), nullptr};
  if (result.event == nullptr) return {};
  if (takes_time(stream, &result.time) && table.event_record(result.event, stream.handle()) == UNIFY_OK) return result;
  table.event_destroy(result.event);
  return {};
}

// The origin of a device's times; false when the device gives none. The caller holds the state's mutex.
bool has_origin(State& s, Device& device) {
  if (device.table().event_elapsed == nullptr) return true;  // the host's clock is the axis
  Origin& origin = s.spans.origins[&device];
  if (origin.clock.mark != nullptr && origin.generation == device.generation()) return true;
  origin = {{}, device.generation()};
  const unify_event mark = timed_event(device);
  if (mark == nullptr) return false;
  if (set_clock(device.table(), device.handle(), mark, &origin.clock)) return true;
  device.table().event_destroy(mark);
  origin.clock.mark = nullptr;
  return false;
}

}  // namespace

Trace& Trace::instance() {
  static auto* trace = new Trace;
  return *trace;
}

bool Trace::start(size_t max_events) {
  State& s = state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  if (is_on()) return false;
  s.max_events = max_events;
  on_.store(true, std::memory_order_relaxed);
  return true;
}

void Trace::span(const std::string& name, const char* category, int64_t begin_ns, int64_t end_ns) {
  State& s = state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  if (is_on() && s.has_room()) s.spans.host.push_back({name, category, thread_id(), begin_ns, end_ns});
}

namespace {

void add_host_spans(std::string& json, const std::vector<HostSpan>& spans) {
  std::set<uint32_t> named;
  for (const HostSpan& span : spans) {
    if (named.insert(span.thread).second) {
      add_track_name(json, "thread_name", 0, span.thread, thread_name(span.thread));
    }
    add_span(json, span.name, span.category, 0, span.thread, span.begin_ns, span.end_ns - span.begin_ns);
  }
}

// Waits for the span's end, also of work that failed. False when there are no times.
bool add_device_span(std::string& json, const DeviceSpan& span, const Origin& origin, size_t process) {
  Device& device = span.stream->device();
  if (span.generation != device.generation()) return false;
  const unify_backend& table = device.table();
  (void)table.event_synchronize(span.end.event);
  int64_t begin_ns = 0;
  int64_t duration = 0;
  if (span.begin.time != nullptr) {
    begin_ns = *span.begin.time;
    const int64_t end_ns = *span.end.time;
    if (begin_ns == 0 || end_ns == 0) return false;
    duration = end_ns - begin_ns;
  } else if (span.generation != origin.generation ||
             !read_span(table, origin.clock, span.begin.event, span.end.event, &begin_ns, &duration)) {
    return false;
  }
  add_span(json, span.name, "device", process, span.stream->id(), begin_ns, duration);
  return true;
}

// Returns how many have no time.
size_t add_device_spans(std::string& json, Spans& spans) {
  std::map<Device*, size_t> processes;
  std::set<Stream*> named;
  size_t lost = 0;
  for (const DeviceSpan& span : spans.device) {
    Device& device = span.stream->device();
    const auto [process, is_new] = processes.try_emplace(&device, processes.size() + 1);
    if (is_new) add_track_name(json, "process_name", process->second, 0, device.name() + " " + device.info().name);
    if (named.insert(span.stream.get()).second) {
      add_track_name(json, "thread_name", process->second, span.stream->id(), span.stream->name());
    }
    const auto call = device.call();  // of each span by itself: a reset may come between two
    if (!add_device_span(json, span, spans.origins[&device], process->second)) ++lost;
    destroy(device, span.generation, span.begin.event);
    destroy(device, span.generation, span.end.event);
  }
  for (const auto& [device, origin] : spans.origins) {
    const auto call = device->call();
    destroy(*device, origin.generation, origin.clock.mark);
  }
  return lost;
}

}  // namespace

std::string Trace::stop() {
  State& s = state();
  Spans spans;
  {
    const std::lock_guard<std::mutex> lock(s.mutex);
    on_.store(false, std::memory_order_relaxed);
    std::swap(spans, s.spans);
    ++s.number;
  }
  // Without the lock: what is waited for may need a thread that is in the middle of a span.
  std::string events;
  add_host_spans(events, spans.host);
  const size_t dropped = spans.dropped + add_device_spans(events, spans);
  return kTraceBegin + events + "\n],\"otherData\":{\"dropped\":\"" + std::to_string(dropped) + "\"}}\n";
}

TraceScope::TraceScope(Stream& stream, const char* name) {
  if (!Trace::instance().is_on()) return;
  Device& device = stream.device();
  State& s = state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  if (!Trace::instance().is_on() || !s.has_room()) return;
  if (has_origin(s, device)) begin_ = mark(stream);
  if (begin_.event == nullptr) {
    ++s.spans.dropped;
    return;
  }
  generation_ = device.generation();
  trace_ = s.number;
  stream_ = &stream;
  name_ = name;
}

TraceScope::~TraceScope() {
  if (stream_ == nullptr) return;
  Device& device = stream_->device();
  const SpanMark end = generation_ == device.generation() ? mark(*stream_) : SpanMark{};
  State& s = state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  if (end.event != nullptr && trace_ == s.number) {
    s.spans.device.push_back({stream_->shared_from_this(), name_, generation_, begin_, end});
    return;
  }
  destroy(device, generation_, begin_.event);
  destroy(device, generation_, end.event);
  if (trace_ == s.number) ++s.spans.dropped;
}

}  // namespace unify
