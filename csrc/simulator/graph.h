// Captures of streams into graphs, and graphs that run. Everything is used with the driver's mutex.
#pragma once

#include <memory>
#include <thread>
#include <vector>

#include "stream.h"

namespace unify::simulator {

// Which calls that might not be safe a capture forbids: of all threads, of its own one, or none. As every vendor
// numbers them.
enum class CaptureMode : int { kGlobal = 0, kThreadLocal = 1, kRelaxed = 2 };

struct Call;

struct Node {
  Operation operation;
  std::vector<size_t> after;  // nodes before it, sorted
};
using Nodes = std::vector<Node>;

// What a graph keeps for the program, until nothing keeps it any more.
using Kept = std::vector<std::shared_ptr<void>>;

struct Graph {
  Nodes nodes;  // in an order that respects `after`
  Kept kept;
};

struct GraphExec {
  std::shared_ptr<const Nodes> nodes;  // an update replaces them; launches under way keep theirs
  Kept kept;
  MarkPtr last;  // a graph never runs beside itself
  [[nodiscard]] bool is_of(const Context& context) const;
};

// From its begin to its end, over all streams that joined by events.
struct Capture {
  CaptureMode mode;
  std::thread::id thread;
  Stream* origin;
  bool is_invalid = false;
  bool is_over = false;
  std::vector<Stream*> streams;
  std::shared_ptr<Graph> graph = std::make_shared<Graph>();  // null once it is over
};

Result begin_capture(Stream& stream, CaptureMode mode);
// The graph is null when the capture had become invalid.
Result end_capture(Stream& stream, std::shared_ptr<Graph>& out);

// Appends an operation to the capture of a stream.
Result capture(Stream& stream, Operation operation);
Result capture_record(Stream& stream, Event& event);
// `is_capturing` streams, and streams that join by waiting.
Result capture_wait(Stream& stream, const Event& event);

// What a call answers that might not be safe during a capture: it makes invalid the captures that forbid it
// (cuThreadExchangeStreamCaptureMode lists the rules).
extern thread_local CaptureMode thread_capture_mode;
Result check_unsafe();
// The same without consequences for the captures.
bool is_forbidden();
// A call on a stream or context that a capture forbids in any mode.
Result invalidate(Capture& capture, Result result);
void invalidate_captures_of(const Context& context);

// A stream that goes away takes its capture with it.
void leave_capture(Stream& stream);

// Runs all nodes, one after another. Without the mutex.
Result run_nodes(Stream& stream, const Nodes& nodes);

// Appends all nodes to a stream, as one piece of work.
Result launch(Call& call, Stream& stream, GraphExec& exec);

}  // namespace unify::simulator
