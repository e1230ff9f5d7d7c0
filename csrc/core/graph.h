// Graphs: work recorded once, replayed often. Native where the backend has graphs, else a recorded list.
#pragma once

#include <unify/backend.h>

#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "launch.h"

namespace unify {

class Device;
class Event;
class Recording;
class Storage;
class Stream;

// What a stream that records does with work in place of enqueuing it. The caller holds the stream's mutex. A fill that
// the backend has not (false) is recorded as a copy. Of copies UNIFY_OK, or UNIFY_UNSUPPORTED and nothing was recorded.
void record_launch(Recording& recording, Stream& stream, const std::shared_ptr<Function>& function,
                   const unify_launch_args& args, std::shared_ptr<void>* foreign, size_t foreign_count);
[[nodiscard]] unify_status record_copy(Recording& recording, Stream& stream, const unify_copy_args& args);
[[nodiscard]] unify_status record_copy_rows(Recording& recording, Stream& stream, const unify_copy_rows_args& args);
[[nodiscard]] bool record_fill(Recording& recording, Stream& stream, const unify_fill_args& args);
void record_host_call(Recording& recording, Stream& stream, std::function<void()> function);
// A host call of a graph, on the stream's thread; `function` is a std::function<void()> that the graph keeps.
void call_on_stream(void* function);
std::weak_ptr<Recording> record_event(Recording& recording, Stream& stream, const std::shared_ptr<Event>& event);
// Locks a stream that is to record. One that the backend records has run dry by then: it can be neither asked nor
// waited for while it records, and memory that it used before may be let go meanwhile.
[[nodiscard]] std::unique_lock<std::mutex> lock_to_record(Stream& stream);
// Work of `stream` after a wait for an event of a recording belongs to the recording too. Throws GraphError when that
// has ended, or is gone (null).
void join_recording(const std::shared_ptr<Recording>& recording, Stream& stream, unify_event event);
// Whatever runs on `stream` after the recording comes after `event`, which is none of the recording's.
void record_outside_wait(Recording& recording, Stream& stream, std::shared_ptr<Event> event);
void record_keep(Recording& recording, std::shared_ptr<void> owner);
// Keeps what `stream` uses: as long as the graph, but memory of the graph's own pool only until the recording ends, so
// that nothing is put there which another branch of the graph still uses.
void record_use(Recording& recording, const Stream& stream, std::shared_ptr<Storage> storage);
// Whether the backend records what this stream is given: it must not be asked or waited for meanwhile.
[[nodiscard]] bool records_natively(const Stream& stream) noexcept;

class Graph {
 public:
  // Records what is enqueued on `stream` until end(). Allocations made meanwhile come from a pool that lives as
  // long as the graph; synchronising a recording stream throws GraphError.
  static std::shared_ptr<Graph> begin(const std::shared_ptr<Stream>& stream);
  // As begin; from end() on, this graph does what was recorded then. Its launches under way finish as they are, and
  // until then, or if the recording fails, it stays as it was.
  void begin_update(const std::shared_ptr<Stream>& stream);
  void end();  // throws GraphError and leaves the stream usable when the recording is not valid
  void abandon() noexcept;
  ~Graph();  // what it uses ends after its launches
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  // Enqueues all of it on `stream` (of the same device), behind the launches of it before.
  void launch(Stream& stream);
  [[nodiscard]] Device& device() const noexcept;
  [[nodiscard]] size_t size() const noexcept;  // recorded operations
  [[nodiscard]] bool is_native() const noexcept;
  [[nodiscard]] std::string describe() const;  // a line per operation
  [[nodiscard]] std::string summary() const;   // "3 kernels, 1 copy"

 private:
  Graph();
  struct Private;
  static std::shared_ptr<Private> record(const std::shared_ptr<Stream>& stream);
  [[nodiscard]] std::shared_ptr<Private> current() const;
  mutable std::mutex mutex_;  // of what follows
  std::shared_ptr<Private> private_;
  std::shared_ptr<Private> newer_;  // while it is recorded again
};

}  // namespace unify
