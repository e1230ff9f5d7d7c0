// The rules of ACL that the shared half asks for (simulator/front.h).
#include <cstdio>
#include <cstring>
#include <iterator>
#include <utility>

#include "calls.h"
#include "hccl.h"
#include "recovery.h"
#include "simulator/front.h"
#include "simulator/graph.h"

namespace unify::simulator {

constexpr Results make_results() {
  Results results{};
  results.invalid_value = ACL_ERROR_RT_PARAM_INVALID;
  results.out_of_memory = ACL_ERROR_RT_MEMORY_ALLOCATION;
  results.no_resources = ACL_ERROR_RT_RESOURCE_ALLOC_FAIL;
  results.context_is_over = ACL_ERROR_RT_CONTEXT_NULL;
  results.device_is_lost = ACL_ERROR_RT_LOST_HEARTBEAT;
  results.peer_is_gone = ACL_ERROR_RT_SUSPECT_REMOTE_ERROR;
  results.illegal_copy = ACL_ERROR_RT_SYS_DMA;
  // Of kernels on vector cores: launch.cpp.
  results.illegal_address = ACL_ERROR_RT_AICORE_EXCEPTION;
  results.illegal_instruction = ACL_ERROR_RT_AICORE_EXCEPTION;
  results.arithmetic = ACL_ERROR_RT_AICORE_EXCEPTION;
  results.assertion = ACL_ERROR_RT_AICORE_TRAP_EXCEPTION;
  results.capture_twice = ACL_ERROR_RT_STREAM_CAPTURED;
  results.not_capturing = ACL_ERROR_RT_STREAM_NOT_CAPTURED;
  results.capture_of_another_stream = ACL_ERROR_RT_STREAM_CAPTURE_UNMATCHED;
  results.capture_of_another_thread = ACL_ERROR_RT_STREAM_CAPTURE_WRONG_THREAD;
  results.capture_is_invalid = ACL_ERROR_RT_STREAM_CAPTURE_INVALIDATED;
  results.capture_is_not_joined = ACL_ERROR_RT_STREAM_UNJOINED;
  results.capture_depends_on_others = ACL_ERROR_RT_CAPTURE_DEPENDENCY;
  results.captures_would_merge = ACL_ERROR_STREAM_CAPTURE_CONFLICT;
  results.capture_forbids = ACL_ERROR_RT_CAPTURE_MODE_NOT_SUPPORT;
  results.event_is_captured = ACL_ERROR_RT_EVENT_CAPTURED;
  return results;
}
constexpr Results kResults = make_results();

bool find_result(const std::string& name, Result& out) {
  struct Name {
    const char* text;
    Result result;
  };
  static constexpr Name kNames[] = {
#define RESULT(name, value, text) {#name, name},
#include "acl_results.inc"
#include "hccl_results.inc"
#undef RESULT
      {"aicore", ACL_ERROR_RT_AICORE_EXCEPTION},         {"vector_core", ACL_ERROR_RT_VECTOR_CORE_EXCEPTION},
      {"ecc", ACL_ERROR_RT_HBM_MULTI_BIT_ECC_ERROR},     {"timeout", ACL_ERROR_RT_AICORE_TIMEOUT},
      {"out_of_memory", ACL_ERROR_RT_MEMORY_ALLOCATION}, {"link", ACL_ERROR_RT_LINK_ERROR},
  };
  for (const Name& each : kNames) {
    if (name != each.text) continue;
    out = each.result;
    return true;
  }
  return false;
}

const char* known_faults() noexcept {
  return "an aclError, an HcclResult nor one of lost, aicore, vector_core, ecc, timeout, out_of_memory, link, hang, "
         "corrupt";
}

// ACL's default stream is one like the others.
Result order_implicitly(const Stream&, std::vector<MarkPtr>&) { return ACL_SUCCESS; }

bool may_run(const Stream& stream, const Operation& operation) {
  return result_of(*operation.context) == ACL_SUCCESS && !static_cast<const AclStream&>(stream).is_aborting;
}

namespace {

// Errors after which the vendor's runtime lets no context of the device go on: of memory and of links.
bool is_of_device(Result result) {
  switch (result) {
    case ACL_ERROR_RT_LOST_HEARTBEAT:
    case ACL_ERROR_RT_DEVICE_MEM_ERROR:
    case ACL_ERROR_RT_HBM_MULTI_BIT_ECC_ERROR:
    case ACL_ERROR_RT_SUSPECT_DEVICE_MEM_ERROR:
    case ACL_ERROR_RT_LINK_ERROR:
    case ACL_ERROR_RT_SUSPECT_REMOTE_ERROR:
    case ACL_ERROR_RT_L3_PORT_ERROR:
      return true;
    default:
      return false;
  }
}

std::string words(AclStream& stream, const Operation& operation) {
  std::string text = "Task run failed, device_id=" + std::to_string(stream.context->device->index) +
                     ", stream_id=" + std::to_string(stream.id) + ", task_id=" + std::to_string(stream.tasks);
  if (!operation.name.empty()) text += ", fault kernel_name=" + operation.name;
  const std::string told = std::exchange(stream.told, {});
  return told.empty() ? text + "." : text + ": " + told + ".";
}

}  // namespace

void fail_work(Lock& lock, Stream& stream, const Operation& operation, Result result) {
  AclStream& self = of(stream);
  self.failure = result;
  self.why = words(self, operation);
  if (const std::string reason = take_reason(); !reason.empty()) self.why += " " + reason;
  Device& device = *operation.context->device;
  remember_fault(device, result);
  const auto stop = [&](AclContext& context) {
    if (context.result == kSuccess) context.why = self.why;
    end_context(context, result);
  };
  if (is_of_device(result)) {
    for (const auto& context : contexts_of(device)) stop(*context);
  } else if (of(*operation.context).stops_on_failure) {
    stop(of(*operation.context));
  }
  tell_of_fault(lock, device, self, result);
}

void fail_device(Device& device, Result result) {
  remember_fault(device, result);
  for (const auto& context : contexts_of(device)) end_context(*context, result);
}

// The vendor's runtime writes it into its log on the host.
void report_fault(const std::string& kernel, const unify_host_fault& fault) {
  std::fprintf(
      stderr, "%s:%u: %s: program [%u,%u,%u] %s `%s`.\n", fault.file == nullptr ? "?" : fault.file, fault.line,
      kernel.c_str(), fault.program[0], fault.program[1], fault.program[2],
      fault.kind == 1 ? "Assertion failed:" : "Access out of bounds:", fault.message == nullptr ? "" : fault.message);
}

}  // namespace unify::simulator
