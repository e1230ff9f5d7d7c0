// Graphs: work recorded once, replayed often. Native where the backend has graphs, else a recorded list.
#pragma once

#include <memory>
#include <string>

#include "launch.h"

namespace unify {

class Device;
class Stream;

class Graph {
 public:
  // Records what is enqueued on `stream` until end(). Allocations made meanwhile come from a pool that lives as
  // long as the graph; synchronising a recording stream throws GraphError.
  static std::shared_ptr<Graph> begin(const std::shared_ptr<Stream>& stream);
  void end();           // throws GraphError and leaves the stream usable when the recording is not valid
  void abandon() noexcept;
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  // Enqueues all of it on `stream` (of the same device).
  void launch(Stream& stream);
  [[nodiscard]] size_t size() const noexcept;       // recorded operations
  [[nodiscard]] bool is_native() const noexcept;
  [[nodiscard]] std::string describe() const;       // a line per operation

 private:
  Graph();
  struct Private;
  std::unique_ptr<Private> private_;
};

}  // namespace unify
