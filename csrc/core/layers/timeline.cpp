#include "timeline.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "../trace_json.h"

namespace unify::layers {
namespace {

constexpr size_t kMaxPending = 4096;              // spans of a device; two events each
constexpr size_t kSettleEvery = 32;               // operations
constexpr int64_t kClockLife_ns = 1'000'000'000;  // a driver that counts in float ms tells longer times worse

unify_event made_event(const unify_backend& table, unify_device device) {
  unify_event_args args{};
  args.struct_size = sizeof args;
  args.flags = UNIFY_EVENT_TIMING;
  unify_event event = nullptr;
  return table.event_create(device, &args, &event) == UNIFY_OK ? event : nullptr;
}

}  // namespace

void Timeline::device_opened(unify_device device, uint32_t index) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Device& made = devices_[device];
  if (made.process != 0) return;  // opened twice
  made.name = std::string(below_.name) + ":" + std::to_string(index);
  made.process = file_.next_process();
  (void)has_clock(device, made);
}

void Timeline::device_closes(unify_device device) {
  (void)below_.device_synchronize(device);
  const std::lock_guard<std::mutex> lock(mutex_);
  Device& closing = devices_[device];
  settle(closing);
  for (const std::shared_ptr<Track>& track : closing.tracks) {
    for (const Span& span : track->spans) closing.idle.insert(closing.idle.end(), {span.operation.begin, span.end});
    file_.drop(track->spans.size());
  }
  if (closing.clock.mark != nullptr) closing.idle.push_back(closing.clock.mark);
  for (const unify_event event : closing.idle) (void)below_.event_destroy(event);
  devices_.erase(device);
}

// Its streams and events are gone.
void Timeline::device_was_reset(unify_device device) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (auto it = streams_.begin(); it != streams_.end();) {
    it = it->second.device == device ? streams_.erase(it) : std::next(it);
  }
  forget(devices_[device]);
}

void Timeline::forget(Device& device) {
  for (const std::shared_ptr<Track>& track : device.tracks) file_.drop(track->spans.size());
  device.tracks.clear();
  device.idle.clear();
  device.clock = {};
  device.pending = device.capturing = 0;
}

void Timeline::stream_made(unify_device device, unify_stream stream, bool is_default) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Stream& made = streams_[stream];
  made = {device, std::make_shared<Track>(), nullptr};
  made.track->number = next_track_++;
  made.track->name = is_default ? "default stream" : "stream of track " + std::to_string(made.track->number);
  devices_[device].tracks.push_back(made.track);
}

void Timeline::stream_goes(unify_stream stream) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = streams_.find(stream);
  if (found == streams_.end()) return;
  release_capture(found->second);
  found->second.track->is_ended = true;
  streams_.erase(found);
}

void Timeline::set_name(unify_stream stream, const std::string& name) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = streams_.find(stream);
  if (found != streams_.end()) found->second.track->name = name;
}

void Timeline::event_recorded(unify_event event, unify_stream stream) {
  const std::lock_guard<std::mutex> lock(mutex_);
  marks_[event] = stream;
}

void Timeline::event_goes(unify_event event) {
  const std::lock_guard<std::mutex> lock(mutex_);
  marks_.erase(event);
}

// A stream that waits for an event of a recording belongs to it from then on.
void Timeline::stream_waits(unify_stream stream, unify_event event) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto mark = marks_.find(event);
  const auto marked = mark == marks_.end() ? streams_.end() : streams_.find(mark->second);
  const auto waiting = streams_.find(stream);
  if (marked == streams_.end() || waiting == streams_.end()) return;
  if (marked->second.capture == nullptr || waiting->second.capture != nullptr) return;
  waiting->second.capture = marked->second.capture;
  ++devices_[waiting->second.device].capturing;
}

void Timeline::capture_begins(unify_stream stream) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = streams_.find(stream);
  if (found == streams_.end() || found->second.capture != nullptr) return;
  found->second.capture = stream;
  ++devices_[found->second.device].capturing;
}

void Timeline::capture_ended(unify_stream stream) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (auto& entry : streams_) {
    if (entry.second.capture == stream) release_capture(entry.second);
  }
}

void Timeline::release_capture(Stream& stream) {
  if (std::exchange(stream.capture, nullptr) != nullptr) --devices_[stream.device].capturing;
}

unify_event Timeline::take_event(unify_device handle, Device& device) {
  if (device.idle.empty()) return made_event(below_, handle);
  const unify_event event = device.idle.back();
  device.idle.pop_back();
  return event;
}

bool Timeline::has_clock(unify_device handle, Device& device) {
  if (below_.event_elapsed == nullptr) return false;
  if (device.clock.mark != nullptr) return true;
  // Setting it waits for an event, which drivers refuse while a stream records.
  const unify_event mark = device.capturing > 0 ? nullptr : take_event(handle, device);
  if (mark == nullptr) return false;
  if (set_clock(below_, handle, mark, &device.clock)) return true;
  device.clock = {};
  device.idle.push_back(mark);
  return false;
}

void Timeline::begin(unify_stream stream, Operation& operation) {
  unify_event event = nullptr;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = streams_.find(stream);
    if (found == streams_.end() || found->second.capture != nullptr) return;
    Device& device = devices_[found->second.device];
    if (++device.operations % kSettleEvery == 0) settle(device);
    if (!has_clock(found->second.device, device)) return;
    if (device.pending >= kMaxPending) settle(device);
    if (device.pending < kMaxPending) event = take_event(found->second.device, device);
    if (event == nullptr) {
      file_.drop(1);
      return;
    }
  }
  operation.begin = event;
  if (below_.event_record(event, stream) == UNIFY_OK) return;
  end(stream, operation, false);
}

// After a call that failed the backend is not called: its last error must stay.
void Timeline::end(unify_stream stream, Operation& operation, bool has_happened) {
  const unify_event begin = operation.begin;
  if (begin == nullptr) return;
  unify_event event = nullptr;
  const auto device_of = [&]() -> std::pair<unify_device, Stream*> {
    const auto found = streams_.find(stream);
    return found == streams_.end() ? std::pair<unify_device, Stream*>{}
                                   : std::pair{found->second.device, &found->second};
  };
  if (has_happened) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      const auto [handle, known] = device_of();
      if (known == nullptr) return;
      event = take_event(handle, devices_[handle]);
    }
    has_happened = event != nullptr && below_.event_record(event, stream) == UNIFY_OK;
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto [handle, known] = device_of();
  if (known == nullptr) return;
  Device& device = devices_[handle];
  if (has_happened) {
    known->track->spans.push_back({std::move(operation), event});
    ++device.pending;
    return;
  }
  device.idle.push_back(begin);
  if (event != nullptr) device.idle.push_back(event);
  operation.begin = nullptr;
}

void Timeline::settle() {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (auto& entry : devices_) settle(entry.second);
}

void Timeline::settle(Device& device) {
  if (device.capturing > 0) return;  // drivers refuse to be asked meanwhile
  for (const std::shared_ptr<Track>& track : device.tracks) {
    while (!track->spans.empty()) {
      Span& span = track->spans.front();
      if (below_.event_query(span.end) == UNIFY_NOT_READY) break;
      write(device, *track, span);
      track->spans.pop_front();
      --device.pending;
    }
  }
  const auto is_over = [](const std::shared_ptr<Track>& track) { return track->is_ended && track->spans.empty(); };
  device.tracks.erase(std::remove_if(device.tracks.begin(), device.tracks.end(), is_over), device.tracks.end());
}

void Timeline::write(Device& device, Track& track, Span& span) {
  Operation& operation = span.operation;
  int64_t begin_ns = 0;
  int64_t duration_ns = 0;
  if (!read_span(below_, device.clock, operation.begin, span.end, &begin_ns, &duration_ns)) {
    file_.drop(1);
    device.idle.insert(device.idle.end(), {operation.begin, span.end});
    return;
  }
  const int64_t end_ns = std::max(begin_ns + duration_ns, track.end_ns);
  begin_ns = std::max(begin_ns, track.end_ns);
  track.end_ns = end_ns;
  std::string events;
  if (!std::exchange(device.is_written, true)) add_track_name(events, "process_name", device.process, 0, device.name);
  if (!std::exchange(track.is_written, true)) {
    add_track_name(events, "thread_name", device.process, track.number, track.name);
  }
  if (operation.bytes > 0 && duration_ns > 0) {
    char text[40];
    std::snprintf(text, sizeof text, ",\"gb_s\":%.3f",
                  static_cast<double>(operation.bytes) / static_cast<double>(duration_ns));
    operation.args += text;
  }
  add_span(events, operation.name, "device", device.process, track.number, begin_ns, end_ns - begin_ns, operation.args);
  file_.add(events);
  device.idle.push_back(operation.begin);
  if (begin_ns - device.clock.host_ns > kClockLife_ns) {
    device.idle.push_back(std::exchange(device.clock.mark, span.end));
    device.clock.host_ns = end_ns;
  } else {
    device.idle.push_back(span.end);
  }
}

std::string Timeline::name_of(unify_device device) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = devices_.find(device);
  return device == nullptr ? "host" : found == devices_.end() ? "unknown" : found->second.name;
}

std::string Timeline::name_of(unify_stream stream) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = streams_.find(stream);
  return found == streams_.end() ? "unknown" : found->second.track->name;
}

}  // namespace unify::layers
