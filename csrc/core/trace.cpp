#include "trace.h"

#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "device.h"
#include "stream.h"

namespace unify {
namespace {

struct HostSpan {
  std::string name;
  const char* category;
  int64_t begin_ns;
  int64_t end_ns;
};

struct DeviceSpan {
  std::shared_ptr<Stream> stream;
  const char* name;
  unify_event begin;
  unify_event end;
  int64_t host_begin_ns;
};

// The host's clock at the moment of a device's first mark, so that both fit on one axis.
struct Origin {
  unify_event mark;
  int64_t host_ns;
};

struct State {
  std::mutex mutex;
  std::vector<HostSpan> host;
  std::vector<DeviceSpan> device;
  std::map<Device*, Origin> origins;
  size_t max_events = 0;
  size_t dropped = 0;
};

State& state() {
  static auto* instance = new State;
  return *instance;
}

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

unify_event mark(Stream& stream) {
  const unify_backend& table = stream.device().table();
  unify_event_args args{};
  args.struct_size = sizeof args;
  args.flags = UNIFY_EVENT_TIMING;
  unify_event event = nullptr;
  if (table.event_create(stream.device().handle(), &args, &event) != UNIFY_OK) return nullptr;
  table.event_record(event, stream.handle());
  return event;
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

void Trace::start(size_t max_events) {
  State& s = state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  s.max_events = max_events;
  s.dropped = 0;
  on_.store(true, std::memory_order_relaxed);
}

void Trace::span(const std::string& name, const char* category, int64_t begin_ns, int64_t end_ns) {
  if (!is_on()) return;
  State& s = state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  if (s.host.size() + s.device.size() >= s.max_events) {
    ++s.dropped;
  } else {
    s.host.push_back({name, category, begin_ns, end_ns});
  }
}

void Trace::device_span(Stream& stream, const char* name, unify_event begin, int64_t host_begin_ns) {
  const unify_event end = mark(stream);
  State& s = state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  s.origins.try_emplace(&stream.device(), Origin{begin, host_begin_ns});
  s.device.push_back({stream.shared_from_this(), name, begin, end, host_begin_ns});
}

std::string Trace::stop() {
  on_.store(false, std::memory_order_relaxed);
  State& s = state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  std::string json = "{\"displayTimeUnit\":\"ns\",\"otherData\":{\"dropped\":\"" + std::to_string(s.dropped) +
                     "\"},\"traceEvents\":[\n{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":0,\"tid\":0,"
                     "\"args\":{\"name\":\"host\"}}";
  for (const HostSpan& span : s.host) {
    add_event(json, span.name, span.category, 0, 0, static_cast<double>(span.begin_ns) * 1e-3,
              static_cast<double>(span.end_ns - span.begin_ns) * 1e-3);
  }
  std::map<Device*, size_t> processes;
  std::map<Stream*, bool> named;
  for (const DeviceSpan& span : s.device) {
    Device& device = span.stream->device();
    const unify_backend& table = device.table();
    const auto [process, is_new] = processes.try_emplace(&device, processes.size() + 1);
    if (is_new) add_name(json, "process_name", process->second, 0, device.name() + " " + device.info().name);
    if (named.try_emplace(span.stream.get(), true).second) {
      add_name(json, "thread_name", process->second, span.stream->id(), span.stream->name());
    }
    const Origin& origin = s.origins.at(&device);
    int64_t since_origin = 0;
    int64_t duration = 0;
    if (table.event_synchronize(span.end) != UNIFY_OK ||
        table.event_elapsed(origin.mark, span.begin, &since_origin) != UNIFY_OK ||
        table.event_elapsed(span.begin, span.end, &duration) != UNIFY_OK) {
      continue;
    }
    add_event(json, span.name, "device", process->second, span.stream->id(),
              static_cast<double>(origin.host_ns + since_origin) * 1e-3, static_cast<double>(duration) * 1e-3);
  }
  for (const DeviceSpan& span : s.device) {
    span.stream->device().table().event_destroy(span.begin);
    span.stream->device().table().event_destroy(span.end);
  }
  s.host.clear();
  s.device.clear();
  s.origins.clear();
  return json + "\n]}\n";
}

TraceScope::TraceScope(Stream& stream, const char* name) {
  if (!Trace::instance().is_on()) return;
  State& s = state();
  {
    const std::lock_guard<std::mutex> lock(s.mutex);
    if (s.host.size() + s.device.size() >= s.max_events) {
      ++s.dropped;
      return;
    }
  }
  host_begin_ns_ = now_ns();
  begin_ = mark(stream);
  if (begin_ == nullptr) return;
  stream_ = &stream;
  name_ = name;
}

TraceScope::~TraceScope() {
  if (stream_ != nullptr) Trace::instance().device_span(*stream_, name_, begin_, host_begin_ns_);
}

}  // namespace unify
