// Collective operations as streams run them. In the first step every rank shows its buffer and its terms; it then reads
// the others', and says so in the last step, for which all wait: until then nobody's buffer changes.
#include <algorithm>

#include "hccl_operation.h"
#include "hccl_reduce.h"

namespace unify::simulator {
namespace {

struct Collective {
  Task& task;
  const Plan& plan;
  const Numbers& numbers;
  uint32_t wrong_bits;
  uint64_t number = numbers.all.front();
  Communicator& comm = task.comm;
  Buffer send{};
  Buffer recv{};

  Offer& offer(uint32_t rank) { return comm.offer(rank, task.lane, number); }

  Result wait(uint64_t until) {
    const auto lacks = [&](uint32_t rank) { return offer(rank).step.load(std::memory_order_acquire) < until; };
    const auto is_ready = [&] {
      for (uint32_t rank = 0; rank < comm.size; ++rank) {
        if (lacks(rank)) return false;
      }
      return true;
    };
    return wait_for_ranks(task, is_ready, lacks);
  }

  void reach(Phase phase) {
    offer(comm.rank).step.store(step(numbers.epoch, number, phase), std::memory_order_release);
    comm.meeting->ring();
  }

  Result fail(Result result, const std::string& why) {
    task.why = std::string(task.name) + ": " + name_of(comm, comm.rank) + ": " + why;
    return result;
  }

  Result find_buffers() {
    const Lock lock(driver().mutex);
    const Device& device = *task.stream.context->device;
    std::string why;
    if (!send.find(device, plan.send, plan.send_bytes, why) || !recv.find(device, plan.recv, plan.recv_bytes, why)) {
      return fail(ACL_ERROR_RT_SYS_DMA, "a buffer changed since the call: " + why);
    }
    return kSuccess;
  }

  void show() {
    Offer& own = offer(comm.rank);
    own.terms = plan.terms;
    own.terms.number = step(numbers.epoch, number, kNone);
    for (uint32_t rank = 0; rank < comm.size; ++rank) {
      own.sends[rank] = plan.sends[rank];
      own.takes[rank] = plan.takes[rank].bytes;
    }
    send.show(own.given);
    if (plan.gathers) recv.show(own.reduced);
  }

  // Why the ranks cannot do this together; the same on every rank. Empty if they can.
  std::string disagreement() {
    const Terms& first = offer(0).terms;
    for (uint32_t rank = 1; rank < comm.size; ++rank) {
      const Terms& other = offer(rank).terms;
      if (agrees(first, other)) continue;
      if (first.number != other.number) return "only rank 0 or rank " + std::to_string(rank) + " called HcclCommResume";
      return "rank 0 calls " + describe(first) + ", rank " + std::to_string(rank) + " calls " + describe(other);
    }
    if (!plan.is_uneven) return {};
    for (uint32_t from = 0; from < comm.size; ++from) {
      for (uint32_t to = 0; to < comm.size; ++to) {
        const uint64_t given = offer(from).sends[to].bytes;
        const uint64_t taken = offer(to).takes[from];
        if (given == taken) continue;
        return "rank " + std::to_string(from) + " has " + std::to_string(given) + " bytes for rank " +
               std::to_string(to) + ", which takes " + std::to_string(taken);
      }
    }
    return {};
  }

  Result check() {
    const std::string why = disagreement();
    if (why.empty()) return kSuccess;
    return fail(ACL_ERROR_RT_AICPU_EXCEPTION,
                "EI0005: the ranks disagree in operation " + std::to_string(number) + " of the communicator: " + why);
  }

  // The memory that a rank shows.
  Result open(uint32_t rank, bool is_reduced, Spans& out) {
    if (rank == comm.rank) {
      out = is_reduced ? recv.spans() : send.spans();
      return kSuccess;
    }
    Offer& other = offer(rank);
    if (comm.files.find(is_reduced ? other.reduced : other.given, out)) return kSuccess;
    return fail(ACL_ERROR_RT_SYS_DMA, "the memory of rank " + std::to_string(rank) + " cannot be read: it is another " +
                                          "user's, or without descriptors");
  }

  Result take_each(bool is_reduced) {
    const Spans to = recv.spans();
    for (uint32_t i = 0; i < comm.size; ++i) {
      const uint32_t rank = (comm.rank + i) % comm.size;  // not all from one at a time
      const Segment from = is_reduced ? share(rank) : offer(rank).sends[comm.rank];
      const Segment place = is_reduced ? from : plan.takes[rank];
      if (place.bytes == 0) continue;
      Spans given;
      if (const Result result = open(rank, is_reduced, given); result != kSuccess) return result;
      copy(to, place.offset, given, from.offset, place.bytes);
    }
    return kSuccess;
  }

  // The part of the whole that a rank reduces.
  Segment share(uint32_t rank) { return plan.sends[rank]; }

  Result reduce_all() {
    const Segment place = plan.takes[comm.rank];
    const auto type = static_cast<HcclDataType>(plan.terms.type);
    const size_t element = bytes_of(type);
    if (place.bytes == 0) return kSuccess;
    std::vector<Spans> given(comm.size);
    for (uint32_t rank = 0; rank < comm.size; ++rank) {
      if (const Result result = open(rank, false, given[rank]); result != kSuccess) return result;
    }
    const Spans to = recv.spans();
    std::vector<const char*> from(comm.size);
    for (uint64_t done = 0; done < place.bytes;) {
      Spans::Part part = to.part(place.offset + done, std::min(place.bytes - done, kMostReduced * element));
      for (uint32_t rank = 0; rank < comm.size; ++rank) {
        const Spans::Part each = given[rank].part(offer(rank).sends[comm.rank].offset + done, part.bytes);
        from[rank] = each.at;
        part.bytes = each.bytes;
      }
      if (part.bytes < element) return fail(ACL_ERROR_RT_SYS_DMA, "a buffer is shorter than its rank says");
      const size_t count = part.bytes / element;
      reduce(part.at, from, count, type, static_cast<HcclReduceOp>(plan.terms.reduction));
      done += count * element;
    }
    return kSuccess;
  }

  void flip_bit() {
    const Spans to = recv.spans();
    if (wrong_bits == 0 || to.bytes() == 0) return;
    char& byte = *to.part(to.bytes() / 2, 1).at;
    byte = static_cast<char>(byte ^ 1);
  }

  Result run() {
    if (number > kSlots) {  // this slot's operation of before
      if (const Result result = wait(step(numbers.epoch, number - kSlots, kDone)); result != kSuccess) return result;
    }
    if (const Result result = find_buffers(); result != kSuccess) return result;
    show();
    reach(kOffered);
    if (const Result result = wait(step(numbers.epoch, number, kOffered)); result != kSuccess) return result;
    Result result = check();
    if (result == kSuccess) result = plan.reduces ? reduce_all() : take_each(false);
    if (result == kSuccess && plan.gathers) {
      reach(kReduced);
      result = wait(step(numbers.epoch, number, kReduced));
      if (result == kSuccess) result = take_each(true);
    }
    if (result != kSuccess && result != ACL_ERROR_RT_AICPU_EXCEPTION) return result;
    reach(kDone);
    const Result end = wait(step(numbers.epoch, number, kDone));
    if (result == kSuccess) flip_bit();
    return end == kSuccess ? result : end;
  }

  Result finish() {
    const Result result = run();
    const Lock lock(driver().mutex);  // the last reference to memory that was freed meanwhile is let go with the mutex
    send = {};
    recv = {};
    return result;
  }
};

}  // namespace

Result submit_plan(Call& call, Stream& stream, const std::shared_ptr<Communicator>& comm, Plan plan) {
  const Device& device = *stream.context->device;
  Buffer buffer;
  std::string why;
  if (!buffer.find(device, plan.send, plan.send_bytes, why)) return refuse(HCCL_E_PARA, "sendBuf: " + why + ".");
  if (!buffer.find(device, plan.recv, plan.recv_bytes, why)) return refuse(HCCL_E_PARA, "recvBuf: " + why + ".");
  const uint32_t wrong_bits = call.fault.kind == Fault::Kind::kCorrupt ? call.fault.bits : 0;
  const uint64_t bytes = plan.send_bytes + plan.recv_bytes;
  const auto take = [comm](Lane lane) { return Numbers{comm->epoch, {++comm->operations[lane]}}; };
  const auto work = [plan = std::move(plan), wrong_bits](Task& task, const Numbers& numbers) {
    return Collective{task, plan, numbers, wrong_bits}.finish();
  };
  return submit_task(call, stream, comm, bytes, take, work);
}

}  // namespace unify::simulator
