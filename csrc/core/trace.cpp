#include "trace.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "device.h"
#include "event.h"
#include "failures.h"
#include "host_time.h"
#include "stream.h"

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

// A mark of a device and the host's clock when it was passed, so that both fit on one axis.
struct Origin {
  unify_event mark = nullptr;
  uint32_t generation = 0;
  int64_t host_ns = 0;
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

uint32_t thread_id() { return static_cast<uint32_t>(::syscall(SYS_gettid)); }  // glibc before 2.30 has no gettid

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

// Passes the mark on a stream that holds nothing else, so that the host's clock can be read at that very time.
bool measure(Device& device, Origin& origin) {
  const unify_backend& table = device.table();
  unify_stream_args args{};
  args.struct_size = sizeof args;
  unify_stream idle = nullptr;
  if (table.stream_create(device.handle(), &args, &idle) != UNIFY_OK) return false;
  bool is_measured = false;
  for (int attempt = 0; attempt < 5; ++attempt) {  // the thread may be interrupted in between; the last one counts
    const int64_t before = now_ns();
    is_measured = table.event_record(origin.mark, idle) == UNIFY_OK && table.event_synchronize(origin.mark) == UNIFY_OK;
    const int64_t width = now_ns() - before;
    origin.host_ns = before + width / 2;
    if (!is_measured || width < 20'000) break;
  }
  table.stream_destroy(idle);
  return is_measured;
}

// The origin of a device's times; false when the device gives none. The caller holds the state's mutex.
bool has_origin(State& s, Device& device) {
  if (device.table().event_elapsed == nullptr) return true;  // the host's clock is the axis
  Origin& origin = s.spans.origins[&device];
  if (origin.mark != nullptr && origin.generation == device.generation()) return true;
  origin = {timed_event(device), device.generation(), 0};
  if (origin.mark == nullptr) return false;
  if (measure(device, origin)) return true;
  device.table().event_destroy(origin.mark);
  origin.mark = nullptr;
  return false;
}

std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    if (static_cast<unsigned char>(c) < 0x20) {
      char code[8];
      std::snprintf(code, sizeof code, "\\u%04x", static_cast<unsigned>(c));
      result += code;
    } else {
      result += c;
    }
  }
  return result;
}

void add_event(std::string& json, const std::string& name, const char* category, size_t process, uint32_t thread,
               double begin_us, double duration_us) {
  char numbers[160];
  std::snprintf(numbers, sizeof numbers,
                "\",\"cat\":\"%s\",\"ph\":\"X\",\"pid\":%zu,\"tid\":%u,\"ts\":%.3f,\"dur\":%.3f}", category, process,
                thread, begin_us, duration_us);
  json += ",\n{\"name\":\"" + escaped(name) + numbers;
}

void add_name(std::string& json, const char* what, size_t process, uint32_t thread, const std::string& name) {
  json += std::string(",\n{\"name\":\"") + what + "\",\"ph\":\"M\",\"pid\":" + std::to_string(process) +
          ",\"tid\":" + std::to_string(thread) + ",\"args\":{\"name\":\"" + escaped(name) + "\"}}";
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
      const bool is_main = span.thread == static_cast<uint32_t>(::getpid());
      add_name(json, "thread_name", 0, span.thread, is_main ? "main" : "thread " + std::to_string(span.thread));
    }
    add_event(json, span.name, span.category, 0, span.thread, static_cast<double>(span.begin_ns) * 1e-3,
              static_cast<double>(span.end_ns - span.begin_ns) * 1e-3);
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
  } else if (span.generation == origin.generation &&
             table.event_elapsed(origin.mark, span.begin.event, &begin_ns) == UNIFY_OK &&
             table.event_elapsed(span.begin.event, span.end.event, &duration) == UNIFY_OK) {
    begin_ns += origin.host_ns;
  } else {
    return false;
  }
  add_event(json, span.name, "device", process, span.stream->id(), static_cast<double>(begin_ns) * 1e-3,
            static_cast<double>(duration) * 1e-3);
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
    if (is_new) add_name(json, "process_name", process->second, 0, device.name() + " " + device.info().name);
    if (named.insert(span.stream.get()).second) {
      add_name(json, "thread_name", process->second, span.stream->id(), span.stream->name());
    }
    const auto call = device.call();  // of each span by itself: a reset may come between two
    if (!add_device_span(json, span, spans.origins[&device], process->second)) ++lost;
    destroy(device, span.generation, span.begin.event);
    destroy(device, span.generation, span.end.event);
  }
  for (const auto& [device, origin] : spans.origins) {
    const auto call = device->call();
    destroy(*device, origin.generation, origin.mark);
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
  return "{\"displayTimeUnit\":\"ns\",\"otherData\":{\"dropped\":\"" + std::to_string(dropped) +
         "\"},\"traceEvents\":[\n{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":0,\"tid\":0,"
         "\"args\":{\"name\":\"host\"}}" +
         events + "\n]}\n";
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
