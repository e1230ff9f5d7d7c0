// What ranks do together: collective operations, and messages between two of them.
#pragma once

#include <string>
#include <vector>

#include "hccl_communicator.h"

namespace unify::simulator {

enum OperationName : uint32_t {
  kAllReduce,
  kAllGather,
  kAllGatherV,
  kReduceScatter,
  kReduceScatterV,
  kBroadcast,
  kReduce,
  kScatter,
  kAlltoAll,
  kAlltoAllV,
  kAlltoAllVC,
  kBarrier,
  kSend,
  kRecv,
};
const char* name_of(OperationName operation) noexcept;
// "HcclBroadcast(float32, count 5, root 0)".
std::string describe(const Terms& terms);
bool agrees(const Terms& a, const Terms& b);

// A rank's part in a collective operation. Who takes reads the others' memory: `takes[p]` is where in its own buffer
// goes what rank p lets it take, `sends[p]` what of its own rank p may take. With a reduction all that is taken goes to
// one place, combined.
struct Plan {
  Terms terms;
  uint64_t send = 0;
  uint64_t send_bytes = 0;
  uint64_t recv = 0;
  uint64_t recv_bytes = 0;
  std::vector<Segment> sends;
  std::vector<Segment> takes;
  bool reduces = false;
  bool is_uneven = false;  // what pairs of ranks give and take must be compared
  bool gathers = false;    // HcclAllReduce: then everybody takes everybody's part of the result
};
Result submit_plan(Call& call, Stream& stream, const std::shared_ptr<Communicator>& comm, Plan plan);

// Messages under way together.
struct Message {
  bool is_sent = false;
  uint32_t peer = 0;
  uint64_t address = 0;
  uint64_t bytes = 0;
  Terms terms;
};
Result submit_messages(Call& call, Stream& stream, const std::shared_ptr<Communicator>& comm,
                       std::vector<Message> messages);

}  // namespace unify::simulator
