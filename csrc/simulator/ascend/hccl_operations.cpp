// HCCL's functions that enqueue operations: what each rank gives and takes in them.
#include <algorithm>

#include "hccl_operation.h"
#include "hccl_reduce.h"

using namespace unify::simulator;

namespace {

uint64_t address(const void* memory) { return reinterpret_cast<uintptr_t>(memory); }

// Bytes by counts of elements, for one operation. Remembers what is too much.
struct Measure {
  uint64_t element;
  bool is_too_much = false;
  uint64_t operator()(uint64_t count) {
    uint64_t bytes = 0;
    if (__builtin_mul_overflow(count, element, &bytes) || bytes > INT64_MAX / kMostRanks) is_too_much = true;
    return is_too_much ? 0 : bytes;
  }
};

struct Made {
  Plan plan;
  Measure measure;
  uint32_t rank;
  uint32_t size;
};

uint64_t end_of(const std::vector<Segment>& segments) {
  uint64_t end = 0;
  for (const Segment& each : segments) {
    if (each.bytes > 0) end = std::max(end, each.offset + each.bytes);
  }
  return end;
}

std::vector<Segment> in_turn(uint32_t size, uint64_t bytes) {
  std::vector<Segment> segments(size);
  for (uint32_t rank = 0; rank < size; ++rank) segments[rank] = {rank * bytes, bytes};
  return segments;
}

// Counts and displacements are arrays on the host, of uint64_t.
std::vector<Segment> by_counts(Made& made, const void* counts, const void* displacements) {
  std::vector<Segment> segments(made.size);
  for (uint32_t rank = 0; rank < made.size; ++rank) {
    segments[rank] = {made.measure(static_cast<const uint64_t*>(displacements)[rank]),
                      made.measure(static_cast<const uint64_t*>(counts)[rank])};
  }
  return segments;
}

// Parts of whole cache lines, so that no two ranks write to one.
std::vector<Segment> shares(uint32_t size, uint64_t bytes) {
  const uint64_t part = round_up((bytes + size - 1) / size, 64);
  std::vector<Segment> segments(size);
  for (uint32_t rank = 0; rank < size; ++rank) {
    const uint64_t begin = std::min(rank * part, bytes);
    segments[rank] = {begin, std::min(part, bytes - begin)};
  }
  return segments;
}

Result check(HcclDataType type, bool is_reduced, uint64_t send, uint64_t recv) {
  if (bytes_of(type) == 0) return refuse(HCCL_E_PARA, "EI0003: dataType=" + std::to_string(type) + " is unknown.");
  if (!is_reduced) return kSuccess;
  if (!is_reducible(type)) {
    return refuse(HCCL_E_NOT_SUPPORT, std::string("EI0003: ") + name_of(type) + " is not reduced, only moved.");
  }
  if (send % bytes_of(type) == 0 && recv % bytes_of(type) == 0) return kSuccess;
  return refuse(HCCL_E_PARA, std::string("EI0003: a buffer is not aligned to its elements of ") + name_of(type) + ".");
}

// An operation in which all ranks take part. `fill(made)` says what this one gives and takes.
template <typename Fill>
HcclResult collective(OperationName operation, const void* send, const void* recv, uint64_t count, HcclDataType type,
                      int reduction, uint32_t root, HcclComm handle, aclrtStream stream, Fill&& fill) {
  return to_hccl(with_work(name_of(operation), stream, [&](Call& call, Stream& on) -> Result {
    std::shared_ptr<Communicator> comm;
    if (const Result result = find_communicator(handle, comm); result != kSuccess) return result;
    if (const Result result = check(type, reduction >= 0, address(send), address(recv)); result != kSuccess) {
      return result;
    }
    if (reduction > static_cast<int>(HCCL_REDUCE_MIN))
      return refuse(HCCL_E_PARA, "EI0003: op=" + std::to_string(reduction) + ".");
    if (root >= comm->size) {
      return refuse(HCCL_E_PARA, "EI0003: root=" + std::to_string(root) + ", of " + std::to_string(comm->size) + ".");
    }
    Made made{{}, {bytes_of(type)}, comm->rank, comm->size};
    Plan& plan = made.plan;
    plan.terms.operation = operation;
    plan.terms.type = type;
    plan.terms.reduction = reduction < 0 ? 0 : static_cast<uint32_t>(reduction);
    plan.terms.root = root;
    plan.terms.count = count;
    plan.reduces = reduction >= 0;
    plan.send = address(send);
    plan.recv = address(recv);
    plan.sends.resize(comm->size);
    plan.takes.resize(comm->size);
    if (const Result result = fill(made); result != kSuccess) return result;
    if (made.measure.is_too_much) return refuse(HCCL_E_PARA, "EI0003: a count is too large.");
    plan.send_bytes = end_of(plan.sends);
    plan.recv_bytes = plan.gathers ? plan.send_bytes : end_of(plan.takes);
    if ((plan.send_bytes > 0 && send == nullptr) || (plan.recv_bytes > 0 && recv == nullptr)) {
      return refuse(HCCL_E_PTR, "A buffer is null.");
    }
    return submit_plan(call, on, comm, std::move(plan));
  }));
}

}  // namespace

UNIFY_SIMULATOR_EXPORT HcclResult HcclAllReduce(void* send, void* recv, uint64_t count, HcclDataType type,
                                                HcclReduceOp op, HcclComm comm, aclrtStream stream) {
  return collective(kAllReduce, send, recv, count, type, static_cast<int>(op), 0, comm, stream,
                    [&](Made& made) -> Result {
                      made.plan.sends = shares(made.size, made.measure(count));
                      made.plan.takes[made.rank] = made.plan.sends[made.rank];
                      made.plan.gathers = true;
                      return kSuccess;
                    });
}

UNIFY_SIMULATOR_EXPORT HcclResult HcclReduce(void* send, void* recv, uint64_t count, HcclDataType type, HcclReduceOp op,
                                             uint32_t root, HcclComm comm, aclrtStream stream) {
  return collective(kReduce, send, recv, count, type, static_cast<int>(op), root, comm, stream,
                    [&](Made& made) -> Result {
                      made.plan.sends[root] = {0, made.measure(count)};
                      if (made.rank == root) made.plan.takes[root] = {0, made.measure(count)};
                      return kSuccess;
                    });
}

UNIFY_SIMULATOR_EXPORT HcclResult HcclReduceScatter(void* send, void* recv, uint64_t count, HcclDataType type,
                                                    HcclReduceOp op, HcclComm comm, aclrtStream stream) {
  return collective(kReduceScatter, send, recv, count, type, static_cast<int>(op), 0, comm, stream,
                    [&](Made& made) -> Result {
                      made.plan.sends = in_turn(made.size, made.measure(count));
                      made.plan.takes[made.rank] = {0, made.measure(count)};
                      return kSuccess;
                    });
}

UNIFY_SIMULATOR_EXPORT HcclResult HcclReduceScatterV(void* send, const void* counts, const void* displacements,
                                                     void* recv, uint64_t count, HcclDataType type, HcclReduceOp op,
                                                     HcclComm comm, aclrtStream stream) {
  return collective(kReduceScatterV, send, recv, 0, type, static_cast<int>(op), 0, comm, stream,
                    [&](Made& made) -> Result {
                      if (counts == nullptr || displacements == nullptr) return HCCL_E_PTR;
                      made.plan.sends = by_counts(made, counts, displacements);
                      for (Segment& each : made.plan.takes) each = {0, made.measure(count)};
                      made.plan.is_uneven = true;
                      return kSuccess;
                    });
}

UNIFY_SIMULATOR_EXPORT HcclResult HcclAllGather(void* send, void* recv, uint64_t count, HcclDataType type,
                                                HcclComm comm, aclrtStream stream) {
  return collective(kAllGather, send, recv, count, type, -1, 0, comm, stream, [&](Made& made) -> Result {
    for (Segment& each : made.plan.sends) each = {0, made.measure(count)};
    made.plan.takes = in_turn(made.size, made.measure(count));
    return kSuccess;
  });
}

UNIFY_SIMULATOR_EXPORT HcclResult HcclAllGatherV(void* send, uint64_t count, void* recv, const void* counts,
                                                 const void* displacements, HcclDataType type, HcclComm comm,
                                                 aclrtStream stream) {
  return collective(kAllGatherV, send, recv, 0, type, -1, 0, comm, stream, [&](Made& made) -> Result {
    if (counts == nullptr || displacements == nullptr) return HCCL_E_PTR;
    for (Segment& each : made.plan.sends) each = {0, made.measure(count)};
    made.plan.takes = by_counts(made, counts, displacements);
    made.plan.is_uneven = true;
    return kSuccess;
  });
}

UNIFY_SIMULATOR_EXPORT HcclResult HcclBroadcast(void* memory, uint64_t count, HcclDataType type, uint32_t root,
                                                HcclComm comm, aclrtStream stream) {
  return collective(kBroadcast, memory, memory, count, type, -1, root, comm, stream, [&](Made& made) -> Result {
    for (uint32_t rank = 0; rank < made.size; ++rank) {
      if (made.rank == root && rank != root) made.plan.sends[rank] = {0, made.measure(count)};
    }
    if (made.rank != root) made.plan.takes[root] = {0, made.measure(count)};
    return kSuccess;
  });
}

UNIFY_SIMULATOR_EXPORT HcclResult HcclScatter(void* send, void* recv, uint64_t count, HcclDataType type, uint32_t root,
                                              HcclComm comm, aclrtStream stream) {
  return collective(kScatter, send, recv, count, type, -1, root, comm, stream, [&](Made& made) -> Result {
    if (made.rank == root) made.plan.sends = in_turn(made.size, made.measure(count));
    made.plan.takes[root] = {0, made.measure(count)};
    return kSuccess;
  });
}

UNIFY_SIMULATOR_EXPORT HcclResult HcclAlltoAll(const void* send, uint64_t send_count, HcclDataType send_type,
                                               const void* recv, uint64_t recv_count, HcclDataType recv_type,
                                               HcclComm comm, aclrtStream stream) {
  return collective(kAlltoAll, send, recv, send_count, send_type, -1, 0, comm, stream, [&](Made& made) -> Result {
    if (send_type != recv_type || send_count != recv_count) {
      return refuse(HCCL_E_PARA, "EI0003: sendCount and recvCount, and the types, must be the same.");
    }
    made.plan.sends = in_turn(made.size, made.measure(send_count));
    made.plan.takes = made.plan.sends;
    return kSuccess;
  });
}

UNIFY_SIMULATOR_EXPORT HcclResult HcclAlltoAllV(const void* send, const void* send_counts, const void* send_displs,
                                                HcclDataType send_type, const void* recv, const void* recv_counts,
                                                const void* recv_displs, HcclDataType recv_type, HcclComm comm,
                                                aclrtStream stream) {
  return collective(kAlltoAllV, send, recv, 0, send_type, -1, 0, comm, stream, [&](Made& made) -> Result {
    if (send_counts == nullptr || send_displs == nullptr || recv_counts == nullptr || recv_displs == nullptr) {
      return HCCL_E_PTR;
    }
    if (send_type != recv_type) return refuse(HCCL_E_PARA, "EI0003: sendType and recvType must be the same.");
    made.plan.sends = by_counts(made, send_counts, send_displs);
    made.plan.takes = by_counts(made, recv_counts, recv_displs);
    made.plan.is_uneven = true;
    return kSuccess;
  });
}

// The counts of all ranks: from each, to each. What there is lies without gaps.
UNIFY_SIMULATOR_EXPORT HcclResult HcclAlltoAllVC(const void* send, const void* matrix, HcclDataType send_type,
                                                 const void* recv, HcclDataType recv_type, HcclComm comm,
                                                 aclrtStream stream) {
  return collective(kAlltoAllVC, send, recv, 0, send_type, -1, 0, comm, stream, [&](Made& made) -> Result {
    if (matrix == nullptr) return HCCL_E_PTR;
    if (send_type != recv_type) return refuse(HCCL_E_PARA, "EI0003: sendType and recvType must be the same.");
    const auto* counts = static_cast<const uint64_t*>(matrix);
    uint64_t given = 0;
    uint64_t taken = 0;
    for (uint32_t rank = 0; rank < made.size; ++rank) {
      made.plan.sends[rank] = {given, made.measure(counts[made.rank * made.size + rank])};
      made.plan.takes[rank] = {taken, made.measure(counts[rank * made.size + made.rank])};
      given += made.plan.sends[rank].bytes;
      taken += made.plan.takes[rank].bytes;
    }
    made.plan.is_uneven = true;
    return kSuccess;
  });
}

UNIFY_SIMULATOR_EXPORT HcclResult HcclBarrier(HcclComm comm, aclrtStream stream) {
  return collective(kBarrier, nullptr, nullptr, 0, HCCL_DATA_TYPE_INT8, -1, 0, comm, stream,
                    [](const Made&) -> Result { return kSuccess; });
}
