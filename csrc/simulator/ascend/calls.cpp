#include "calls.h"

#include <algorithm>
#include <cstring>

#include "simulator/front.h"

namespace unify::simulator {
namespace {

thread_local std::weak_ptr<AclContext> current;

// Whether the call only enqueues: what goes wrong in the work shows at a later call.
bool is_enqueued(const char* name) {
  const size_t length = std::strlen(name);
  if (length > 5 && std::strcmp(name + length - 5, "Async") == 0) return true;
  if (std::strncmp(name, "aclnn", 5) == 0) return true;  // operators
  if (std::strncmp(name, "Hccl", 4) == 0) {              // operations; not those that make communicators
    return std::strncmp(name, "HcclComm", 8) != 0 && std::strncmp(name, "HcclCreate", 10) != 0;
  }
  for (const char* other :
       {"aclrtLaunchKernel", "aclrtLaunchKernelV2", "aclrtLaunchKernelWithHostArgs", "aclrtLaunchKernelWithConfig",
        "rtKernelLaunch", "aclrtRecordEvent", "aclrtResetEvent", "aclrtStreamWaitEvent", "aclrtLaunchHostFunc",
        "aclrtLaunchCallback", "aclrtValueWrite", "aclrtValueWait"}) {
    if (std::strcmp(name, other) == 0) return true;
  }
  return false;
}

// Whether a code is the end of work on the chip: what rt_error_codes.h has from 507010 on, timeouts of waits on the
// host apart.
bool is_of_work(Result result) {
  return result >= ACL_ERROR_RT_LOST_HEARTBEAT && result <= ACL_ERROR_RT_CCU_EXCEPTION &&
         result != ACL_ERROR_RT_REPORT_TIMEOUT && result != ACL_ERROR_RT_STREAM_SYNC_TIMEOUT &&
         result != ACL_ERROR_RT_EVENT_SYNC_TIMEOUT && result != ACL_ERROR_RT_DRV_INTERNAL_ERROR;
}

// About the failure that a stream has, or that stopped its context.
std::string words_of(Stream& stream) { return of(stream).why.empty() ? of(*stream.context).why : of(stream).why; }

}  // namespace

Acl& acl() {
  static auto* const state = new Acl;
  return *state;
}

Result current_context(std::shared_ptr<AclContext>& out) {
  out = current.lock();
  return out == nullptr || out->is_over ? ACL_ERROR_RT_CONTEXT_NULL : ACL_SUCCESS;
}

void set_current(const std::shared_ptr<AclContext>& context) { current = context; }
void forget_current() { current.reset(); }

Result availability() noexcept {
  if (is_forked()) return refuse(ACL_ERROR_RT_DEV_SETUP_ERROR, "The process is the child of a fork.");
  if (is_ending()) return refuse(ACL_ERROR_RT_DEV_SETUP_ERROR, "The process ends.");
  return ACL_SUCCESS;
}

std::shared_ptr<AclContext> make_context(Device& device) {
  auto context = std::make_shared<AclContext>(&device);
  const auto stream = make_stream(context, 0, 0);
  stream->handle = acl().default_streams.add<uintptr_t>(stream);
  context->legacy = stream;
  context->handle = acl().contexts.add<uintptr_t>(context);
  note_start();
  return context;
}

void destroy_context(Lock& lock, const std::shared_ptr<AclContext>& context) {
  acl().contexts.remove(context->handle);
  acl().default_streams.remove(context->legacy->handle);
  wait_for_context(lock, *context);
  Driver& state = driver();
  const auto is_owned = [&](const auto& object) { return object.context == context; };
  state.functions.remove_if(is_owned);
  state.modules.remove_if(is_owned);
  close_context(lock, context);
  forget_graphs(*context);
}

std::vector<std::shared_ptr<AclContext>> contexts_of(const Device& device) {
  std::vector<std::shared_ptr<AclContext>> found;
  for (const auto& [handle, context] : acl().contexts) {
    if (context->device == &device) found.push_back(context);
  }
  return found;
}

std::shared_ptr<AclStream> make_stream(const std::shared_ptr<AclContext>& context, uint32_t flags, int priority) {
  auto stream = std::make_shared<AclStream>();
  stream->id = acl().next_stream++;
  stream->flags = flags;
  open_stream(context, stream, priority);
  return stream;
}

Result admit(Call& call, const std::shared_ptr<Context>& context) {
  call.context = context;
  if (is_in_host_call()) {
    return refuse(ACL_ERROR_RT_NO_PERMISSION, "A host function in a stream may not call this.");
  }
  Device& device = *context->device;
  apply_due_faults(device);
  if (context->is_over) return ACL_ERROR_RT_CONTEXT_NULL;
  if (device.is_lost) return kResults.device_is_lost;
  if (device.faults.is_empty()) return ACL_SUCCESS;
  const Fault fault = device.faults.take(call.name);
  switch (fault.kind) {
    case Fault::Kind::kNone:
      break;
    case Fault::Kind::kHang:
    case Fault::Kind::kCorrupt:
      call.fault = fault;
      break;
    case Fault::Kind::kLost:
      apply(device, fault);
      return kResults.device_is_lost;
    case Fault::Kind::kResult:
      if (!is_of_work(fault.result) || !is_enqueued(call.name)) return refuse(fault.result, "As planned.");
      call.fault = fault;
      break;
  }
  return ACL_SUCCESS;
}

Result find_stream(aclrtStream handle, std::shared_ptr<Stream>& out) {
  if (handle == nullptr) {
    std::shared_ptr<AclContext> context;
    if (const Result result = current_context(context); result != ACL_SUCCESS) return result;
    out = context->legacy;
    return ACL_SUCCESS;
  }
  out = driver().streams.find(handle);
  if (out == nullptr) out = acl().default_streams.find(handle);
  return out == nullptr ? refuse(ACL_ERROR_RT_INVALID_HANDLE, "The stream is unknown or was destroyed.") : ACL_SUCCESS;
}

Result check_stream(Stream& stream) {
  std::shared_ptr<AclContext> context;
  if (const Result result = current_context(context); result != ACL_SUCCESS) return result;
  if (stream.context != context) {
    return refuse(ACL_ERROR_RT_STREAM_CONTEXT,
                  "Stream " + std::to_string(of(stream).id) + " is not in the current context.");
  }
  if (of(stream).is_aborting) return ACL_ERROR_RT_STREAM_ABORT;
  if (const Result result = result_of(*stream.context); result != ACL_SUCCESS) {
    return refuse(result, "The context has stopped: " + words_of(stream));
  }
  return ACL_SUCCESS;
}

Result take_failure(Stream& stream) {
  AclStream& self = of(stream);
  const Result failure = std::exchange(self.failure, kSuccess);
  return failure == kSuccess ? ACL_SUCCESS : refuse(failure, std::exchange(self.why, {}));
}

Result wait_for_work(Lock& lock, Stream& stream, const MarkPtr& mark, Deadline until) {
  const std::shared_ptr<Context> context = stream.context;  // the stream may be destroyed meanwhile
  const uint64_t aborts = of(*context).aborts;
  const uint64_t stream_aborts = of(stream).aborts;
  const Result result = wait_for(lock, mark, *context, until);
  if (of(*context).aborts != aborts) return ACL_ERROR_RT_DEVICE_TASK_ABORT;
  if (of(stream).aborts != stream_aborts) return ACL_ERROR_RT_STREAM_ABORT;
  if (result != kSuccess) return refuse(result, words_of(stream));
  return mark->is_done ? take_failure(stream) : ACL_ERROR_RT_STREAM_SYNC_TIMEOUT;
}

bool read_timeout(int32_t milliseconds, Deadline& out) {
  if (milliseconds < -1 || milliseconds == 0) return false;
  out = milliseconds == -1 ? kForever : std::chrono::steady_clock::now() + std::chrono::milliseconds(milliseconds);
  return true;
}

Result hang_here(Call& call) {
  if (call.fault.kind != Fault::Kind::kHang) return ACL_SUCCESS;
  const Device& device = *call.context->device;
  const uint64_t before = device.faults.releases;
  while (device.faults.releases == before && result_of(*call.context) == kSuccess) {
    driver().progress.wait_until(call.lock, Clock::now() + std::chrono::milliseconds(20));
    apply_due_faults(*call.context->device);
  }
  return result_of(*call.context);
}

}  // namespace unify::simulator
