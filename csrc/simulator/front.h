// What each front defines for the shared half: the rules in which the vendors differ.
#pragma once

#include <unify/host_kernel.h>

#include <string>
#include <vector>

#include "stream.h"

namespace unify::simulator {

struct Device;
struct Settings;

// What there is before anybody configures it.
Settings default_settings();

// A code by its name in the vendor's manual, or by a name that its faults have besides. For plans of faults.
bool find_result(const std::string& name, Result& out);
// What a plan may say, for the message that it says something else.
const char* known_faults() noexcept;

// What the work on a stream waits for besides the stream, or why it may not be enqueued.
Result order_implicitly(const Stream& stream, std::vector<MarkPtr>& after);

// Whether an operation that is the stream's next may still run, and what becomes of the device if it then fails.
bool may_run(const Stream& stream, const Operation& operation);
void fail_work(Stream& stream, const Operation& operation, Result result);

// A fault that is due by time, or at a call whose work is not enqueued.
void fail_device(Device& device, Result result);

// Says where the vendor says it what a kernel found wrong by itself: an assertion, an access out of bounds.
void report_fault(const std::string& kernel, const unify_host_fault& fault);

}  // namespace unify::simulator
