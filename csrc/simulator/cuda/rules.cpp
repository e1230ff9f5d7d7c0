// The rules of CUDA that the shared half asks for (simulator/front.h).
#include <cstdio>

#include "calls.h"
#include "chips.h"
#include "simulator/front.h"
#include "simulator/graph.h"

namespace unify::simulator {

constexpr Results make_results() {
  Results results{};
  results.invalid_value = CUDA_ERROR_INVALID_VALUE;
  results.out_of_memory = CUDA_ERROR_OUT_OF_MEMORY;
  results.no_resources = CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
  results.context_is_over = CUDA_ERROR_CONTEXT_IS_DESTROYED;
  // What programs report whose GPU has fallen off the bus (Xid 79), from every call.
  results.device_is_lost = CUDA_ERROR_UNKNOWN;
  results.peer_is_gone = CUDA_ERROR_UNKNOWN;
  results.illegal_copy = CUDA_ERROR_ILLEGAL_ADDRESS;
  results.illegal_address = CUDA_ERROR_ILLEGAL_ADDRESS;
  results.illegal_instruction = CUDA_ERROR_ILLEGAL_INSTRUCTION;
  results.arithmetic = CUDA_ERROR_LAUNCH_FAILED;
  results.assertion = CUDA_ERROR_ASSERT;
  results.capture_twice = CUDA_ERROR_ILLEGAL_STATE;
  results.not_capturing = CUDA_ERROR_ILLEGAL_STATE;
  results.capture_of_another_stream = CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
  results.capture_of_another_thread = CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
  results.capture_is_invalid = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  results.capture_is_not_joined = CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
  results.capture_depends_on_others = CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
  results.captures_would_merge = CUDA_ERROR_STREAM_CAPTURE_MERGE;
  results.capture_forbids = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  results.event_is_captured = CUDA_ERROR_CAPTURED_EVENT;
  return results;
}
constexpr Results kResults = make_results();

Settings default_settings() {
  Settings settings;
  settings.chip = 90;
  settings.name = name_of(*find_chip(settings.chip), nullptr);
  return settings;
}

bool find_result(const std::string& name, Result& out) {
  struct Name {
    const char* text;
    Result result;
  };
  static constexpr Name kNames[] = {
#define RESULT(name, value, text) {#name, name},
#include "cuda_results.inc"
#undef RESULT
      {"ecc", CUDA_ERROR_ECC_UNCORRECTABLE},
      {"launch_failure", CUDA_ERROR_LAUNCH_FAILED},
  };
  for (const Name& each : kNames) {
    if (name != each.text) continue;
    out = each.result;
    return true;
  }
  return false;
}

const char* known_faults() noexcept { return "a CUresult nor one of lost, ecc, launch_failure, hang, corrupt"; }

namespace {

void add_tail(std::vector<MarkPtr>& after, const Stream& stream) {
  if (!stream.tail->is_done) after.push_back(stream.tail);
}

}  // namespace

namespace {

// The capture of another stream that the legacy default stream would come after, or null.
Capture* tied_capture(const Stream& stream) {
  if (!stream.is_legacy) return nullptr;
  for (const auto& other : stream.context->streams) {
    if (other->is_blocking && other->capture != nullptr) return other->capture.get();
  }
  return nullptr;
}

}  // namespace

bool is_tied_to_capture(const Stream& stream) { return tied_capture(stream) != nullptr; }

Result check_implicit_order(const Stream& stream) {
  Capture* capture = tied_capture(stream);
  return capture == nullptr ? CUDA_SUCCESS : invalidate(*capture, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
}

// What the legacy default stream waits for, and what waits for it (CUDA driver API, "Stream synchronization behavior").
Result order_implicitly(const Stream& stream, std::vector<MarkPtr>& after) {
  if (const Result result = check_implicit_order(stream); result != CUDA_SUCCESS) return result;
  const Context& context = *stream.context;
  if (stream.is_legacy) {
    for (const auto& other : context.streams) {
      if (other->is_blocking && other.get() != &stream) add_tail(after, *other);
    }
  } else if (stream.is_blocking && context.legacy != nullptr) {
    add_tail(after, *context.legacy);
  }
  return CUDA_SUCCESS;
}

// A context ends with its first failed work, and all its streams with it.
bool may_run(const Stream&, const Operation& operation) { return result_of(*operation.context) == CUDA_SUCCESS; }
void fail_work(Lock&, Stream&, const Operation& operation, Result result) { end_context(*operation.context, result); }

void fail_device(Device& device, Result result) {
  if (device.context != nullptr) end_context(*device.context, result);
}

// The driver says it on stderr too: the text of a device-side assertion is in no result.
void report_fault(const std::string& kernel, const unify_host_fault& fault) {
  std::fprintf(
      stderr, "%s:%u: %s: block: [%u,%u,%u] %s `%s`.\n", fault.file == nullptr ? "?" : fault.file, fault.line,
      kernel.c_str(), fault.program[0], fault.program[1], fault.program[2],
      fault.kind == 1 ? "Assertion failed:" : "Access out of bounds:", fault.message == nullptr ? "" : fault.message);
}

}  // namespace unify::simulator
