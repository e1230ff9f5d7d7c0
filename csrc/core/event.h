// Events: marks in a stream. Handles come from a pool, since vendors make them slowly.
#pragma once

#include <unify/backend.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "host_time.h"

namespace unify {

class Device;
class Recording;
class Stream;

// Makes an event of the backend; without UNIFY_EVENT_TIMING where it tells no times.
[[nodiscard]] unify_status make_event(Device& device, uint32_t flags, unify_event* out) noexcept;

// The events by which the core itself waits for work, used again and again: making one costs more than recording it.
class EventPool {
 public:
  explicit EventPool(Device& device) : device_(device) {}
  ~EventPool();
  // Records an event behind the work of `stream` so far. The caller holds the stream's mutex.
  [[nodiscard]] unify_status mark(Stream& stream, unify_event* out) noexcept;
  void give_back(unify_event event, uint32_t generation) noexcept;  // whether it has passed or not
  void forget() noexcept;                                           // after a reset: handles are gone already

 private:
  Device& device_;
  std::mutex mutex_;
  std::vector<unify_event> idle_;
};

// A mark of the core's own behind the work of a stream so far, for what may end only after that work.
class Mark {
 public:
  Mark() = default;               // of nothing: has passed
  explicit Mark(Stream& stream);  // the caller holds its mutex. Of nothing where the stream has run dry
  ~Mark() { release(); }
  Mark(Mark&& other) noexcept { *this = std::move(other); }
  Mark& operator=(Mark&& other) noexcept;

  [[nodiscard]] Device* device() const noexcept { return device_; }  // null: of nothing
  [[nodiscard]] bool is_of_nothing() const noexcept { return event_ == nullptr && unmarked_ == nullptr; }
  [[nodiscard]] bool has_passed() noexcept;  // asks, never waits
  // Whether it cannot pass before another library ends a recording.
  [[nodiscard]] bool is_held_up() const noexcept;
  // Whether it can never pass by itself: its stream answers no more, as one that its owner destroyed.
  [[nodiscard]] bool is_orphan() const noexcept;
  // Later work of `stream` waits for it. The caller holds its mutex.
  [[nodiscard]] unify_status hold_back(Stream& stream) const noexcept;

 private:
  void release() noexcept;
  Device* device_ = nullptr;  // the registry keeps them all
  unify_event event_ = nullptr;
  uint32_t generation_ = 0;
  uint32_t stream_ = 0;
  std::shared_ptr<Stream> unmarked_;  // no event can be recorded: asked itself
};

class Event : public std::enable_shared_from_this<Event> {
 public:
  // A shared one can be given to other processes; it has no timing.
  static std::shared_ptr<Event> create(const std::shared_ptr<Device>& device, bool timing, bool is_shared = false);
  // One of another process: `import` closes the handle, and is kept while streams use it.
  static std::shared_ptr<Event> create_over(const std::shared_ptr<Device>& device, unify_event handle,
                                            uint32_t generation, std::shared_ptr<void> import);
  ~Event();
  Event(const Event&) = delete;  // it owns its handle
  Event& operator=(const Event&) = delete;

  void record(Stream& stream);
  void synchronize(double timeout_s = -1);
  [[nodiscard]] bool query();                     // true when passed, or never recorded
  [[nodiscard]] double elapsed_ms(Event& later);  // both made with timing, recorded and passed
  [[nodiscard]] Device& device() const noexcept { return *device_; }
  [[nodiscard]] unify_event handle() const noexcept { return handle_; }
  [[nodiscard]] bool has_timing() const noexcept { return (flags_ & UNIFY_EVENT_TIMING) != 0; }
  [[nodiscard]] bool is_shared() const noexcept { return (flags_ & UNIFY_EVENT_IPC) != 0; }
  [[nodiscard]] bool is_imported() const noexcept { return import_ != nullptr; }
  void require_current() const;  // throws DeviceLost after a reset

 private:
  friend class Stream;
  Event() = default;
  void used_on(Stream& stream);  // the caller holds its mutex
  [[nodiscard]] bool is_of_graph();
  void require_no_graph(const char* what);
  // In ns. Statuses are event_elapsed's and event_query's; throws where there is no time.
  [[nodiscard]] unify_status elapsed(Event& later, int64_t* out);
  [[nodiscard]] unify_status host_time(int64_t* out);
  [[noreturn]] void throw_no_time(const char* why) const;
  std::shared_ptr<Device> device_;
  unify_event handle_ = nullptr;
  uint32_t flags_ = 0;
  uint32_t generation_ = 0;
  std::shared_ptr<void> import_;  // of another process's, else null
  std::mutex mutex_;  // of what follows, and of calls of the backend that move or read the mark; after a stream's
  bool is_of_graph_ = false;            // the last record became part of a graph,
  std::weak_ptr<Recording> recording_;  // of this one,
  bool is_of_other_graph_ = false;      // or of one that another library records
  HostTime time_;                       // of the last record, where the backend tells no times
};

}  // namespace unify
