// Faults on demand: what a device shall do at which of its calls, or when.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "result.h"

namespace unify::simulator {

using Clock = std::chrono::system_clock;

struct Fault {
  enum class Kind {
    kNone,
    kResult,   // the call, or the work that it enqueues, ends in `result`
    kLost,     // the device is gone
    kHang,     // the work stops until it is released
    kCorrupt,  // `bits` bits of the bytes copied are wrong
  };
  Kind kind = Kind::kNone;
  Result result = kSuccess;
  uint32_t bits = 0;
};

// The plans of one device. Used with the driver's mutex.
class Faults {
 public:
  // "CALL:AFTER:WHAT": the call of that name ("*": any) that comes after AFTER others of it; "time:SECONDS:WHAT".
  // WHAT: lost, hang, corrupt, or a result by its name (find_result). False with `why` if it is not such a plan.
  bool add(const std::string& plan, std::string& why);
  void clear() { plans_.clear(); }
  // What this call shall do; its plan is then used up.
  Fault take(const char* call);
  // What became due by time.
  Fault take_due();
  [[nodiscard]] bool is_empty() const noexcept { return plans_.empty(); }
  // The plans, as they were added, that were not used up.
  [[nodiscard]] std::vector<std::string> left() const;

  double copy_bytes_per_second = 0;  // 0: as fast as the machine
  uint64_t releases = 0;             // how often hung work was released

 private:
  struct Plan {
    std::string text;
    std::string call;  // empty: by time
    uint64_t after = 0;
    Clock::time_point due;
    Fault fault;
  };
  std::vector<Plan> plans_;
};

}  // namespace unify::simulator
