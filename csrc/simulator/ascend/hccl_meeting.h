// Where the ranks of a communicator meet: a memory file that all of them map. It has no name in any folder: who has a
// ticket of it opens it through the process that made it, which only its own user can.
//
// Each rank writes its own part and reads the others'. A number that only grows says how far it is.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "simulator/shared_file.h"

namespace unify::simulator {

constexpr uint32_t kMostRanks = 64;
constexpr uint32_t kMostPieces = 1024;  // of a buffer
constexpr uint32_t kSlots = 16;         // collective operations of a communicator under way at a time
constexpr uint32_t kMostGroups = 64;    // sub-communicators in the making at a time

struct Segment {
  uint64_t offset;
  uint64_t bytes;
};

// A buffer for the other ranks to read: parts of a memory file of one process.
struct SharedBuffer {
  SharedFile file;
  uint32_t count;
  Segment pieces[kMostPieces];
};

// What the ranks must agree upon.
struct Terms {
  uint64_t number = 0;  // with the phase left out: see step()
  uint32_t operation = 0;
  uint32_t type = 0;
  uint32_t reduction = 0;
  uint32_t root = 0;
  uint64_t count = 0;
};

// A rank's part in a collective operation.
struct Offer {
  std::atomic<uint64_t> step;
  Terms terms;
  Segment sends[kMostRanks];   // what each rank may take of `given`
  uint64_t takes[kMostRanks];  // the bytes that this one takes from each
  SharedBuffer given;
  SharedBuffer reduced;  // HcclAllReduce: its own part of it, for the others
};

// A message, and what its receiver says about it.
struct Letter {
  std::atomic<uint64_t> step;
  Terms terms;
  SharedBuffer given;
};
struct Receipt {
  std::atomic<uint64_t> step;
  Terms terms;
};

// Work of streams is numbered by the calls, that of graphs as it runs: each in a lane of its own.
enum Lane : uint32_t { kByCall, kByRun, kLanes };

struct SharedRank {
  std::atomic<int32_t> process;   // 0: not there yet
  std::atomic<uint32_t> is_gone;  // it destroyed its communicator
  int32_t device;
  Offer offers[kLanes][kSlots];
  Letter letters[kLanes][kMostRanks];    // to each rank
  Receipt receipts[kLanes][kMostRanks];  // of those from each rank
};

// What a meeting is found by.
struct Ticket {
  char handle[kHandleBytes];
  uint64_t key[2];
};

// A ticket for some ranks of a communicator that make one of their own.
struct Group {
  std::atomic<uint32_t> state;  // 0: free, 1: being written, 2: valid
  uint64_t id;
  uint64_t times;  // how often before these ranks made one of this id
  Ticket ticket;
};

struct SharedHead {
  char magic[8];
  uint64_t key[2];
  std::atomic<uint32_t> size;  // of the communicator; 0: no rank said it yet
  std::atomic<uint32_t> bell;
  std::atomic<uint32_t> waiting;
  Group groups[kMostGroups];
};

// The numbers of steps. An epoch begins when the ranks resume after a failure.
enum Phase : uint64_t { kNone, kOffered, kReduced, kDone };
constexpr uint64_t step(uint64_t epoch, uint64_t number, Phase phase) { return epoch << 48 | number << 2 | phase; }

class Meeting {
 public:
  ~Meeting();
  Meeting(const Meeting&) = delete;
  Meeting& operator=(const Meeting&) = delete;

  SharedHead& head() { return *head_; }
  SharedRank& rank(uint32_t rank) { return ranks_[rank]; }

  // Tells the others that something changed.
  void ring();
  // Sleeps until somebody rings after `bell` was read, or for some milliseconds.
  void sleep(uint32_t bell);

  // Takes a place. False if it is taken.
  bool join(uint32_t rank, int device);
  void leave(uint32_t rank);
  // Whether a rank's process runs, and its communicator is there. Of ranks that joined.
  bool is_there(uint32_t rank);

 private:
  friend std::shared_ptr<Meeting> open_meeting(const Ticket& ticket);
  Meeting(SharedHead* head, SharedRank* ranks) : head_(head), ranks_(ranks), watched_(kMostRanks, -1) {}
  SharedHead* head_;
  SharedRank* ranks_;
  std::vector<int> watched_;  // the processes, as descriptors
};

// False without memory or descriptors. The meeting can be opened until this process calls end_invitation, or ends.
bool make_meeting(Ticket& out);
void end_invitation(const Ticket& ticket);
// Null if the ticket is none, or the process that gave it is over.
std::shared_ptr<Meeting> open_meeting(const Ticket& ticket);

}  // namespace unify::simulator
