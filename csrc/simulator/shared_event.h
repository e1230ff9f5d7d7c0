// Events that several processes share: two counters in a page of memory that all of them map.
#pragma once

#include <functional>
#include <memory>

#include "shared_file.h"
#include "stream.h"

namespace unify::simulator {

struct SharedEvent;

// Null without memory or descriptors.
std::shared_ptr<SharedEvent> make_shared_event();
// Opens what `export_event` wrote in another process, or in this one. Null if it is gone or was never such an event.
std::shared_ptr<SharedEvent> import_event(const char (&handle)[kHandleBytes]);
void export_event(const SharedEvent& event, char (&out)[kHandleBytes]);

[[nodiscard]] bool is_shared_done(const SharedEvent& event);
// A record: the work that ends it, and what counts it once that was enqueued, with the mutex still held.
struct SharedRecord {
  Run run;
  std::function<void()> count;
};
SharedRecord record_shared(const std::shared_ptr<SharedEvent>& event);
// Work that waits for the records so far, no longer than the context lives. Fails if the process of the last of them
// ends before it: what a chip does then is not documented.
Run wait_for_shared(const std::shared_ptr<SharedEvent>& event, std::shared_ptr<Context> context);
// The same at once, on this thread. Called without the mutex.
Result wait_on_host(const SharedEvent& event, const Context& context);

}  // namespace unify::simulator
