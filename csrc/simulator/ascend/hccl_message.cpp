// Messages between two ranks. The sender shows its buffer; the receiver copies it and says so; then the sender goes on.
#include "hccl_operation.h"
#include "hccl_reduce.h"

namespace unify::simulator {
namespace {

struct Transfer {
  const Message& message;
  uint64_t number;
  Buffer buffer{};
  bool is_shown = false;
  bool is_done = false;
};

struct Exchange {
  Task& task;
  const Numbers& numbers;
  uint32_t wrong_bits;
  Communicator& comm = task.comm;
  std::vector<Transfer> transfers{};
  Result result = kSuccess;

  [[nodiscard]] uint64_t at(uint64_t number, Phase phase) const { return step(numbers.epoch, number, phase); }
  Receipt& receipt(uint32_t from, uint32_t to) { return comm.meeting->rank(to).receipts[task.lane][from]; }
  Letter& letter(uint32_t from, uint32_t to) { return comm.meeting->rank(from).letters[task.lane][to]; }

  Result find_buffers() {
    const Lock lock(driver().mutex);
    std::string why;
    for (Transfer& each : transfers) {
      if (each.buffer.find(*task.stream.context->device, each.message.address, each.message.bytes, why)) continue;
      task.why = std::string(task.name) + ": " + name_of(comm, comm.rank) + ": a buffer changed since the call: " + why;
      return ACL_ERROR_RT_SYS_DMA;
    }
    return kSuccess;
  }

  void disagree(uint32_t from, const Terms& sent, uint32_t to, const Terms& received) {
    if (result != kSuccess) return;
    task.why = std::string(task.name) + ": " + name_of(comm, comm.rank) + ": EI0005: the ranks disagree: rank " +
               std::to_string(from) + " calls " + describe(sent) + ", rank " + std::to_string(to) + " calls " +
               describe(received);
    result = ACL_ERROR_RT_AICPU_EXCEPTION;
  }

  static bool fit(const Terms& sent, const Terms& received) {
    return sent.type == received.type && sent.count == received.count;
  }

  // Whether it is the next one of those to its receiver. Others are, on other streams.
  bool is_next(const Transfer& each) {
    const Lock lock(driver().mutex);
    return comm.sent_done[task.lane][each.message.peer] + 1 == each.number;
  }

  void note_sent(const Transfer& each) {
    const Lock lock(driver().mutex);
    if (comm.epoch == numbers.epoch) comm.sent_done[task.lane][each.message.peer] = each.number;
  }

  // Does what can be done of a transfer. Whether that was anything.
  bool advance_sent(Transfer& each) {
    Receipt& theirs = receipt(comm.rank, each.message.peer);
    if (!each.is_shown) {
      if (!is_next(each)) return false;
      Letter& own = letter(comm.rank, each.message.peer);
      own.terms = each.message.terms;
      each.buffer.show(own.given);
      own.step.store(at(each.number, kOffered), std::memory_order_release);
      comm.meeting->ring();
      return each.is_shown = true;
    }
    if (theirs.step.load(std::memory_order_acquire) < at(each.number, kDone)) return false;
    if (!fit(each.message.terms, theirs.terms)) {
      disagree(comm.rank, each.message.terms, each.message.peer, theirs.terms);
    }
    note_sent(each);
    return each.is_done = true;
  }

  bool advance_received(Transfer& each) {
    Receipt& own = receipt(each.message.peer, comm.rank);
    const Letter& theirs = letter(each.message.peer, comm.rank);
    if (each.number > 1 && own.step.load(std::memory_order_acquire) < at(each.number - 1, kDone)) return false;
    if (theirs.step.load(std::memory_order_acquire) < at(each.number, kOffered)) return false;
    if (!fit(theirs.terms, each.message.terms)) {
      disagree(each.message.peer, theirs.terms, comm.rank, each.message.terms);
    } else if (!take(each, theirs.given)) {
      return each.is_done = true;
    }
    own.terms = each.message.terms;
    own.step.store(at(each.number, kDone), std::memory_order_release);
    comm.meeting->ring();
    return each.is_done = true;
  }

  bool take(const Transfer& each, const SharedBuffer& theirs) {
    Spans given;
    if (!comm.files.find(theirs, given) || given.bytes() < each.message.bytes) {
      task.why = std::string(task.name) + ": " + name_of(comm, comm.rank) + ": the memory of rank " +
                 std::to_string(each.message.peer) + " cannot be read: it is another user's, or without descriptors";
      result = ACL_ERROR_RT_SYS_DMA;
      return false;
    }
    const Spans to = each.buffer.spans();
    copy(to, 0, given, 0, each.message.bytes);
    if (wrong_bits > 0 && to.bytes() > 0) {
      char& byte = *to.part(to.bytes() / 2, 1).at;
      byte = static_cast<char>(byte ^ 1);
    }
    return true;
  }

  bool advance() {
    bool any = false;
    for (Transfer& each : transfers) {
      if (!each.is_done && (each.message.is_sent ? advance_sent(each) : advance_received(each))) any = true;
    }
    return any;
  }

  [[nodiscard]] bool is_done() const {
    for (const Transfer& each : transfers) {
      if (!each.is_done) return false;
    }
    return true;
  }

  Result run() {
    if (const Result found = find_buffers(); found != kSuccess) return found;
    const auto lacks = [&](uint32_t rank) {
      for (const Transfer& each : transfers) {
        if (each.is_done || each.message.peer != rank) continue;
        const uint64_t reached =
            each.message.is_sent ? receipt(comm.rank, rank).step.load() : letter(rank, comm.rank).step.load();
        if (reached < at(each.number, each.message.is_sent ? kDone : kOffered)) return true;
      }
      return false;
    };
    const auto is_ready = [&] { return advance() || is_done(); };
    while (!is_done()) {
      if (const Result waited = wait_for_ranks(task, is_ready, lacks); waited != kSuccess) return waited;
    }
    return result;
  }

  Result finish() {
    const Result end = run();
    const Lock lock(driver().mutex);  // the last reference to memory that was freed meanwhile is let go with the mutex
    transfers.clear();
    return end;
  }
};

}  // namespace

Result submit_messages(Call& call, Stream& stream, const std::shared_ptr<Communicator>& comm,
                       std::vector<Message> messages) {
  uint64_t bytes = 0;
  for (const Message& each : messages) {
    Buffer buffer;
    std::string why;
    bytes += each.bytes;
    if (buffer.find(*stream.context->device, each.address, each.bytes, why)) continue;
    return refuse(HCCL_E_PARA, (each.is_sent ? "sendBuf: " : "recvBuf: ") + why + ".");
  }
  const uint32_t wrong_bits = call.fault.kind == Fault::Kind::kCorrupt ? call.fault.bits : 0;
  const auto take = [comm, messages](Lane lane) {
    Numbers numbers{comm->epoch, {}};
    for (const Message& each : messages) {
      auto& count = each.is_sent ? comm->sent[lane] : comm->received[lane];
      numbers.all.push_back(++count[each.peer]);
    }
    return numbers;
  };
  const auto work = [messages, wrong_bits](Task& task, const Numbers& numbers) {
    Exchange exchange{task, numbers, wrong_bits};
    for (size_t i = 0; i < messages.size(); ++i) exchange.transfers.push_back({messages[i], numbers.all[i]});
    return exchange.finish();
  };
  return submit_task(call, stream, comm, bytes, take, work);
}

}  // namespace unify::simulator
