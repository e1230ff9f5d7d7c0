// HCCL's functions for messages between two ranks: one at a time, several at once, and groups of calls.
#include "hccl_operation.h"
#include "hccl_reduce.h"

using namespace unify::simulator;

namespace {

struct Described {
  bool is_sent;
  void* memory;
  uint64_t count;
  HcclDataType type;
  uint32_t peer;
};

Result describe_message(const Communicator& comm, const Described& asked, Message& out) {
  const uint64_t element = bytes_of(asked.type);
  if (element == 0) return refuse(HCCL_E_PARA, "EI0003: dataType=" + std::to_string(asked.type) + " is unknown.");
  if (__builtin_mul_overflow(asked.count, element, &out.bytes) || asked.peer >= comm.size) {
    return refuse(HCCL_E_PARA, "EI0003: count=" + std::to_string(asked.count) + ", rank=" + std::to_string(asked.peer) +
                                   " of " + std::to_string(comm.size) + ".");
  }
  if (asked.memory == nullptr && out.bytes > 0) return refuse(HCCL_E_PTR, "A buffer is null.");
  out.is_sent = asked.is_sent;
  out.peer = asked.peer;
  out.address = reinterpret_cast<uintptr_t>(asked.memory);
  out.terms.operation = asked.is_sent ? kSend : kRecv;
  out.terms.type = asked.type;
  out.terms.count = asked.count;
  return kSuccess;
}

// What a thread called since HcclGroupStart, by communicator and stream.
struct Pending {
  HcclComm comm;
  aclrtStream stream;
  std::shared_ptr<AclContext> context;
  Fault fault;  // the first that was planned for one of the calls
  std::vector<Message> messages;
};
struct CallGroup {
  uint32_t depth = 0;
  std::vector<Pending> pending;
};
thread_local CallGroup group;

Result postpone(const Call& call, HcclComm comm, aclrtStream stream, const Message& message) {
  std::shared_ptr<AclContext> context;
  if (const Result result = current_context(context); result != kSuccess) return result;
  Pending* found = nullptr;
  for (Pending& each : group.pending) {
    if (each.comm == comm && each.stream == stream && each.context == context) found = &each;
  }
  if (found == nullptr) {
    group.pending.push_back({comm, stream, context, {}, {}});
    found = &group.pending.back();
  }
  if (found->fault.kind == Fault::Kind::kNone) found->fault = call.fault;
  found->messages.push_back(message);
  return kSuccess;
}

HcclResult message(HcclComm handle, aclrtStream stream, const Described& asked) {
  return to_hccl(with_work(asked.is_sent ? "HcclSend" : "HcclRecv", stream, [&](Call& call, Stream& on) -> Result {
    std::shared_ptr<Communicator> comm;
    if (const Result result = find_communicator(handle, comm); result != kSuccess) return result;
    Message made;
    if (const Result result = describe_message(*comm, asked, made); result != kSuccess) return result;
    if (group.depth > 0) return postpone(call, handle, stream, made);
    if (asked.peer == comm->rank) return refuse(HCCL_E_PARA, "EI0003: a rank has nothing to send to itself.");
    return submit_messages(call, on, comm, {made});
  }));
}

// Enqueues them in the context of their calls.
HcclResult submit_pending(Pending& pending) {
  std::shared_ptr<AclContext> before;
  (void)current_context(before);
  set_current(pending.context);
  const HcclResult result = to_hccl(with_work("HcclGroupEnd", pending.stream, [&](Call& call, Stream& on) -> Result {
    std::shared_ptr<Communicator> comm;
    if (const Result found = find_communicator(pending.comm, comm); found != kSuccess) return found;
    if (call.fault.kind == Fault::Kind::kNone) call.fault = pending.fault;
    return submit_messages(call, on, comm, std::move(pending.messages));
  }));
  set_current(before);
  return result;
}

}  // namespace

UNIFY_SIMULATOR_EXPORT HcclResult HcclSend(void* memory, uint64_t count, HcclDataType type, uint32_t peer,
                                           HcclComm comm, aclrtStream stream) {
  return message(comm, stream, {true, memory, count, type, peer});
}

UNIFY_SIMULATOR_EXPORT HcclResult HcclRecv(void* memory, uint64_t count, HcclDataType type, uint32_t peer,
                                           HcclComm comm, aclrtStream stream) {
  return message(comm, stream, {false, memory, count, type, peer});
}

UNIFY_SIMULATOR_EXPORT HcclResult HcclBatchSendRecv(HcclSendRecvItem* items, uint32_t count, HcclComm handle,
                                                    aclrtStream stream) {
  return to_hccl(with_work("HcclBatchSendRecv", stream, [&](Call& call, Stream& on) -> Result {
    std::shared_ptr<Communicator> comm;
    if (const Result result = find_communicator(handle, comm); result != kSuccess) return result;
    if (items == nullptr || count == 0) return refuse(items == nullptr ? HCCL_E_PTR : HCCL_E_PARA, "No items.");
    std::vector<Message> messages(count);
    for (uint32_t i = 0; i < count; ++i) {
      const HcclSendRecvItem& item = items[i];
      if (item.sendRecvType > HCCL_RECV) {
        return refuse(HCCL_E_PARA, "EI0003: sendRecvType=" + std::to_string(item.sendRecvType) + " in item " +
                                       std::to_string(i) + ".");
      }
      const Described asked{item.sendRecvType == HCCL_SEND, item.buf, item.count, item.dataType, item.remoteRank};
      if (const Result result = describe_message(*comm, asked, messages[i]); result != kSuccess) return result;
    }
    return submit_messages(call, on, comm, std::move(messages));
  }));
}

UNIFY_SIMULATOR_EXPORT HcclResult HcclGroupStart() {
  ++group.depth;
  return HCCL_SUCCESS;
}

// Collective operations are enqueued by their own calls: every rank has them in the same order.
UNIFY_SIMULATOR_EXPORT HcclResult HcclGroupEnd() {
  if (group.depth == 0) return to_hccl(finish("HcclGroupEnd", refuse(HCCL_E_PARA, "No group was started.")));
  if (--group.depth > 0) return HCCL_SUCCESS;
  HcclResult result = HCCL_SUCCESS;
  for (Pending& each : std::exchange(group.pending, {})) {
    if (const HcclResult one = submit_pending(each); result == HCCL_SUCCESS) result = one;
  }
  return result;
}
