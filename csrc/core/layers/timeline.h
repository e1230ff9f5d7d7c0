// What ran when on the devices of one backend, for the layer "trace": a pair of timing events around each operation,
// read once both were passed. Nobody waits for them.
#pragma once

#include <unify/backend.h>

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../device_clock.h"
#include "../trace_file.h"

namespace unify::layers {

class Timeline {
 public:
  Timeline(const unify_backend& below, TraceFile& file) : below_(below), file_(file) {}

  void device_opened(unify_device device, uint32_t index);
  void device_closes(unify_device device);  // before it does
  void device_was_reset(unify_device device);
  void stream_made(unify_device device, unify_stream stream, bool is_default);
  void stream_goes(unify_stream stream);
  void set_name(unify_stream stream, const std::string& name);

  // What records a graph is given no events: they would become part of it.
  void event_recorded(unify_event event, unify_stream stream);
  void event_goes(unify_event event);
  void stream_waits(unify_stream stream, unify_event event);
  void capture_begins(unify_stream stream);
  void capture_ended(unify_stream stream);

  struct Operation {
    unify_event begin = nullptr;  // null: it has no times
    std::string name;
    std::string args;
    uint64_t bytes = 0;
  };
  // Around an operation on a stream, by the thread that enqueues it.
  void begin(unify_stream stream, Operation& operation);
  void end(unify_stream stream, Operation& operation, bool has_happened);

  void settle();  // writes what was passed by now

  [[nodiscard]] std::string name_of(unify_device device);
  [[nodiscard]] std::string name_of(unify_stream stream);

 private:
  struct Span {
    Operation operation;
    unify_event end;
  };
  struct Track {
    uint32_t number = 0;
    std::string name;
    bool is_written = false;
    bool is_ended = false;
    int64_t end_ns = 0;      // of the last span: rounding makes none begin earlier
    std::deque<Span> spans;  // not passed yet
  };
  struct Device {
    std::string name;
    size_t process = 0;
    bool is_written = false;
    DeviceClock clock;
    std::vector<unify_event> idle;
    std::vector<std::shared_ptr<Track>> tracks;
    size_t pending = 0;
    size_t operations = 0;
    size_t capturing = 0;  // streams
  };
  struct Stream {
    unify_device device = nullptr;
    std::shared_ptr<Track> track;
    unify_stream capture = nullptr;  // the one that began the recording it belongs to
  };
  // With the lock.
  unify_event take_event(unify_device handle, Device& device);
  bool has_clock(unify_device handle, Device& device);
  void settle(Device& device);
  void write(Device& device, Track& track, Span& span);
  void release_capture(Stream& stream);
  void forget(Device& device);

  const unify_backend& below_;
  TraceFile& file_;
  std::mutex mutex_;
  std::map<unify_device, Device> devices_;
  std::map<unify_stream, Stream> streams_;
  std::map<unify_event, unify_stream> marks_;  // where each was recorded last
  uint32_t next_track_ = 1;
};

}  // namespace unify::layers
