// Graphs: work recorded once, replayed often. Native where the backend has graphs, else a recorded list.
#pragma once

#include <memory>
#include <mutex>
#include <string>

namespace unify {

class Device;
class Stream;

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
