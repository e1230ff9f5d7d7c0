// What a graph is recorded into: launches with their arguments, copies, fills, host calls, and what they use.
#pragma once

#include <unify/backend.h>

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace unify {

class Event;
class Storage;
class Stream;
struct Function;

// What was enqueued while recording, in that order: one valid order of the whole graph, since what another stream
// did before an event was enqueued before it. So the emulated replay needs one stream and no events.
class Recording : public std::enable_shared_from_this<Recording> {
 public:
  struct Launch {
    std::shared_ptr<Function> function;
    unify_launch_args args;
    size_t offset;  // of its arguments in `packed`
  };
  using Node = std::variant<Launch, unify_copy_args, unify_copy_rows_args, unify_fill_args, std::function<void()>>;

  explicit Recording(bool is_native) : is_native(is_native) {}

  const bool is_native;
  std::atomic<const void*> pool{nullptr};  // of its allocations
  std::mutex mutex;  // of what follows: several streams record at once. Taken after a stream's and an event's
  bool is_open = true;
  std::vector<Node> nodes;
  std::vector<char> packed;
  std::vector<std::shared_ptr<void>> owners;
  std::vector<std::shared_ptr<void>> used_by_branches;  // until the end of the recording
  std::vector<std::shared_ptr<Stream>> streams;         // all that record, the first one first
  std::vector<std::pair<std::shared_ptr<Stream>, std::shared_ptr<Event>>> outside_waits;  // made up for at the end
};

// Throws GraphError: "device, stream: `what`".
[[noreturn]] void throw_graph(const Stream& stream, const std::string& what);

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

}  // namespace unify
