#include "hccl_communicator.h"

#include <algorithm>
#include <utility>

#include "simulator/front.h"

namespace unify::simulator {
namespace {

constexpr int kSpins = 50;
constexpr auto kLook = std::chrono::milliseconds(100);  // between looks whether the others live

// Whether work of the stream may go on.
bool goes_on(const Task& task) {
  const Lock lock(driver().mutex);
  Operation self;
  self.context = task.stream.context;
  apply_due_faults(*self.context->device);
  return may_run(task.stream, self) && !task.comm.is_suspended && task.comm.epoch == task.epoch;
}

std::string list(const Communicator& comm, const Lacks& lacks) {
  std::string text;
  for (uint32_t rank = 0; rank < comm.size; ++rank) {
    if (lacks(rank)) text += (text.empty() ? "" : ", ") + std::to_string(rank);
  }
  return text;
}

Result run_task(Communicator& comm, const char* name, Stream& stream, Lane lane, const Numbers& numbers,
                const std::function<Result(Task&, const Numbers&)>& work) {
  {
    const Lock lock(driver().mutex);
    if (comm.is_broken || comm.is_suspended) {
      of(stream).told = comm.why;
      return comm.is_broken ? comm.result : kSuccess;
    }
  }
  const Deadline until = comm.timeout.count() == 0 ? kForever : std::chrono::steady_clock::now() + comm.timeout;
  Task task{comm, stream, name, until, lane, numbers.epoch};
  const Result result = work(task, numbers);
  if (result == kSuccess) return kSuccess;
  const Lock lock(driver().mutex);
  const bool is_agreed = result == ACL_ERROR_RT_AICPU_EXCEPTION;  // every rank ends so: the next one may succeed
  if (!is_agreed && numbers.epoch == comm.epoch) comm.is_broken = true;
  if (result == kDropped) task.why = std::string(name) + ": the stream's work was aborted";
  if (comm.failure == HCCL_SUCCESS && numbers.epoch == comm.epoch) {
    comm.result = result == kDropped ? Result{ACL_ERROR_RT_STREAM_ABORT} : result;
    comm.why = task.why;
    switch (result) {
      case kDropped:
        comm.failure = HCCL_E_SUSPENDING;
        break;
      case ACL_ERROR_RT_FFTS_PLUS_TIMEOUT:
        comm.failure = HCCL_E_TIMEOUT;
        break;
      case ACL_ERROR_RT_SUSPECT_REMOTE_ERROR:
        comm.failure = HCCL_E_REMOTE;
        break;
      case ACL_ERROR_RT_AICPU_EXCEPTION:
        comm.failure = HCCL_E_PARA;
        break;
      default:
        comm.failure = HCCL_E_MEMORY;
    }
  }
  of(stream).told = task.why;
  return result == kDropped ? kSuccess : result;
}

}  // namespace

Communicator::~Communicator() {
  if (meeting != nullptr) meeting->leave(rank);
}

void Communicator::restart() {
  is_suspended = is_broken = false;
  failure = HCCL_SUCCESS;
  result = kSuccess;
  why.clear();
  for (const Lane lane : {kByCall, kByRun}) {
    operations[lane] = 0;
    for (auto* counts : {&sent[lane], &received[lane], &sent_done[lane]}) counts->assign(size, 0);
  }
}

Communicators& communicators() {
  static auto* const state = new Communicators;
  return *state;
}

HcclResult to_hccl(Result result) noexcept {
  if (result >= 0 && result <= static_cast<Result>(HCCL_E_OOM)) return static_cast<HcclResult>(result);
  switch (result) {
    case ACL_ERROR_INVALID_PARAM:
    case ACL_ERROR_RT_PARAM_INVALID:
    case ACL_ERROR_RT_INVALID_HANDLE:
    case ACL_ERROR_RT_INVALID_DEVICEID:
      return HCCL_E_PARA;
    case ACL_ERROR_BAD_ALLOC:
    case ACL_ERROR_RT_MEMORY_ALLOCATION:
      return HCCL_E_MEMORY;
    case ACL_ERROR_RT_FEATURE_NOT_SUPPORT:
      return HCCL_E_NOT_SUPPORT;
    case ACL_ERROR_RT_INTERNAL_ERROR:
      return HCCL_E_INTERNAL;
    default:
      return HCCL_E_RUNTIME;
  }
}

Result find_communicator(HcclComm handle, std::shared_ptr<Communicator>& out) {
  if (handle == nullptr) return refuse(HCCL_E_PTR, "The communicator is null.");
  out = communicators().all.find(handle);
  return out == nullptr ? refuse(HCCL_E_PARA, "The communicator is unknown or was destroyed.") : kSuccess;
}

std::string name_of(const Communicator& comm, uint32_t rank) {
  return "rank " + std::to_string(rank) + " of " + std::to_string(comm.size) + " of communicator " + comm.name;
}

Result wait_for_ranks(Task& task, const IsReady& is_ready, const Lacks& lacks) {
  Communicator& comm = task.comm;
  Meeting& meeting = *comm.meeting;
  for (int i = 0; i < kSpins; ++i) {
    if (is_ready()) return kSuccess;
  }
  auto next_look = std::chrono::steady_clock::now() + kLook;
  for (;;) {
    const uint32_t bell = meeting.head().bell.load();
    if (is_ready()) return kSuccess;
    if (!goes_on(task)) return kDropped;
    const auto now = std::chrono::steady_clock::now();
    if (now >= task.until) {
      task.why = "EI0002: " + std::string(task.name) + ": " + name_of(comm, comm.rank) + " waited " +
                 std::to_string(comm.timeout.count()) + " s for ranks " + list(comm, lacks) + " (HCCL_EXEC_TIMEOUT)";
      return ACL_ERROR_RT_FFTS_PLUS_TIMEOUT;
    }
    if (now >= next_look) {
      for (uint32_t rank = 0; rank < comm.size; ++rank) {
        // It may have done its part just before it went.
        if (!lacks(rank) || meeting.is_there(rank) || !lacks(rank)) continue;
        const bool is_destroyed = meeting.rank(rank).is_gone.load() != 0;
        task.why = "SUSPECT REMOTE ERROR: " + std::string(task.name) + ": " + name_of(comm, comm.rank) +
                   " waits for rank " + std::to_string(rank) +
                   (is_destroyed ? ", which destroyed its communicator (process " : ", whose process ended (process ") +
                   std::to_string(meeting.rank(rank).process.load()) + ")";
        return ACL_ERROR_RT_SUSPECT_REMOTE_ERROR;
      }
      next_look = now + kLook;
    }
    meeting.sleep(bell);
  }
}

Result submit_task(Call& call, Stream& stream, const std::shared_ptr<Communicator>& comm, uint64_t bytes,
                   std::function<Numbers(Lane)> take, std::function<Result(Task&, const Numbers&)> work) {
  if (comm->is_broken || comm->is_suspended) {
    return refuse(comm->is_broken ? comm->failure : HCCL_E_SUSPENDING,
                  "Communicator " + comm->name + " has stopped: " + comm->why +
                      ". All ranks call HcclCommResume, or make another one.");
  }
  if (stream.context->device->index != comm->device) {
    return refuse(HCCL_E_PARA, "Communicator " + comm->name + " is of device " + std::to_string(comm->device) +
                                   ", the stream of device " + std::to_string(stream.context->device->index) + ".");
  }
  Operation operation;
  operation.kind = OperationKind::kKernel;
  operation.name = call.name;
  operation.bytes = bytes;
  const auto numbers = std::make_shared<Numbers>();  // known before the work can run
  const bool is_captured = stream.capture != nullptr;
  operation.run = [=, name = call.name, work = std::move(work)](Stream& on) -> Result {
    if (!is_captured) return run_task(*comm, name, on, kByCall, *numbers, work);
    Numbers taken;
    {
      const Lock lock(driver().mutex);
      taken = take(kByRun);
    }
    return run_task(*comm, name, on, kByRun, taken, work);
  };
  if (const Result result = submit(call, stream, std::move(operation)); result != kSuccess) return result;
  if (!is_captured) *numbers = take(kByCall);
  return kSuccess;
}

}  // namespace unify::simulator
