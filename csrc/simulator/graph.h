// Captures of streams into graphs, and graphs that run. Everything is used with the driver's mutex.
#pragma once

#include <memory>
#include <thread>
#include <vector>

#include "stream.h"

namespace unify::simulator {

struct Node {
  Operation operation;
  std::vector<size_t> after;  // nodes before it, sorted
};
using Nodes = std::vector<Node>;

struct Graph {
  Nodes nodes;  // in an order that respects `after`
};

struct GraphExec {
  std::shared_ptr<const Nodes> nodes;  // an update replaces them; launches under way keep theirs
  MarkPtr last;                        // a graph never runs beside itself
  [[nodiscard]] bool is_of(const Context& context) const;
};

// From cuStreamBeginCapture to cuStreamEndCapture, over all streams that joined by events.
struct Capture {
  CUstreamCaptureMode mode;
  std::thread::id thread;
  Stream* origin;
  bool is_invalid = false;
  bool is_over = false;
  std::vector<Stream*> streams;
  Nodes nodes;
};

CUresult begin_capture(Stream& stream, CUstreamCaptureMode mode);
// The graph is null when the capture had become invalid.
CUresult end_capture(Stream& stream, std::shared_ptr<Graph>& out);

// Appends an operation to the capture of a stream.
CUresult capture(Stream& stream, Operation operation);
CUresult capture_record(Stream& stream, Event& event);
// `is_capturing` streams, and streams that join by waiting.
CUresult capture_wait(Stream& stream, const Event& event);

// Whether enqueueing here would tie the legacy default stream to a stream that captures.
CUresult check_implicit_order(const Stream& stream);
// What a call answers that might not be safe during a capture: it makes invalid the captures that forbid it
// (cuThreadExchangeStreamCaptureMode lists the rules; every thread is in the default mode here).
extern thread_local CUstreamCaptureMode thread_capture_mode;
CUresult check_unsafe();
// A call on a stream or context that a capture forbids in any mode.
CUresult invalidate(Capture& capture, CUresult result);
void invalidate_captures_of(const Context& context);

// A stream that goes away takes its capture with it.
void leave_capture(Stream& stream);

// Runs all nodes, one after another. Without the mutex.
CUresult run_nodes(const Nodes& nodes);

// Puts the nodes of `graph` in place of those of `exec` if it differs in parameters only.
CUgraphExecUpdateResult update(GraphExec& exec, const Graph& graph);

}  // namespace unify::simulator
