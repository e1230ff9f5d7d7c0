// Communicators: the ranks' meeting, what is numbered, what failed, and how work of a stream waits for other ranks.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "calls.h"
#include "hccl.h"
#include "hccl_buffer.h"
#include "hccl_meeting.h"

namespace unify::simulator {

struct Communicator {
  ~Communicator();
  uint32_t rank = 0;
  uint32_t size = 0;
  int device = 0;
  std::string name;
  std::chrono::seconds timeout{};  // of an operation; 0: none
  std::shared_ptr<Meeting> meeting;
  Files files;

  // With the driver's mutex.
  bool is_suspended = false;
  bool is_broken = false;             // an operation ended in the middle of it
  HcclResult failure = HCCL_SUCCESS;  // the first one
  Result result = kSuccess;           // what its work ends in, once it is broken
  std::string why;
  uint64_t epoch = 1;                       // how often the ranks resumed, and once more
  uint64_t operations[kLanes] = {};         // numbered so far
  std::vector<uint64_t> sent[kLanes];       // to each rank
  std::vector<uint64_t> received[kLanes];   // from each rank
  std::vector<uint64_t> sent_done[kLanes];  // of those, how many are done
  std::map<uint64_t, uint64_t> groups;      // by their id: how often one was made

  // Begins to number anew.
  void restart();
  Offer& offer(uint32_t of, Lane lane, uint64_t number) { return meeting->rank(of).offers[lane][number % kSlots]; }
};

struct Communicators {
  Registry<Communicator> all{0xcc000000};
  std::map<HcclConfig, int32_t> settings{{HCCL_DETERMINISTIC, 0}};
};
// With the driver's mutex.
Communicators& communicators();

// Results of HCCL and of the runtime are one type here: HCCL's are below all of the runtime's.
HcclResult to_hccl(Result result) noexcept;

// What a call says of a communicator: unknown, failed, of another device.
Result find_communicator(HcclComm handle, std::shared_ptr<Communicator>& out);

// An operation as a stream runs it.
struct Task {
  Communicator& comm;
  Stream& stream;
  const char* name;
  Deadline until;
  Lane lane;
  uint64_t epoch;
  std::string why{};  // what it says about its failure
};
constexpr Result kDropped = -1;  // the stream's work was aborted: nobody is told

// Waits on the stream's thread until `is_ready()`. Otherwise a failure: a rank that it `lacks(rank)` is gone, the time
// is over, or the stream may not go on.
using IsReady = std::function<bool()>;
using Lacks = std::function<bool(uint32_t rank)>;
Result wait_for_ranks(Task& task, const IsReady& is_ready, const Lacks& lacks);

// Enqueues an operation on so many bytes. `take()` takes its numbers: with the mutex, when the call has succeeded or,
// in a graph, whenever it runs. `work` is run with them.
struct Numbers {
  uint64_t epoch = 0;
  std::vector<uint64_t> all;
};
Result submit_task(Call& call, Stream& stream, const std::shared_ptr<Communicator>& comm, uint64_t bytes,
                   std::function<Numbers(Lane)> take, std::function<Result(Task&, const Numbers&)> work);

// "rank 1 of communicator x".
std::string name_of(const Communicator& comm, uint32_t rank);

}  // namespace unify::simulator
