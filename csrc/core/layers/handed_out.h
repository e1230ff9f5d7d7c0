// What a backend handed out and did not get back, for the layer "validate": handles, ranges of memory, and how far the
// work on them got. A call that it refuses is reported on stderr and answered with INVALID_ARGUMENT.
#pragma once

#include <unify/backend.h>

#include <algorithm>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <string>

#include "layer.h"

namespace unify::layers {

// A range as errors call it: "dst 0x7f00+4096".
std::string text_of(const char* name, unify_address address, size_t bytes);

// What a struct had in version 1.0: a caller may know no more.
template <typename Arguments>
constexpr size_t kLeastSize = sizeof(Arguments);
template <>
inline constexpr size_t kLeastSize<unify_launch_args> = offsetof(unify_launch_args, block);
template <>
inline constexpr size_t kLeastSize<unify_device_info> = offsetof(unify_device_info, name);

class HandedOut {
 public:
  void begin();  // of a call: there is no refusal
  void last_error(unify_error* out);

 protected:
  explicit HandedOut(const unify_backend& table) : below_(table) {}

  struct Live {
    unify_device device = nullptr;
    unify_module module = nullptr;          // functions
    unify_device_info info{};               // devices
    bool has_imports = false;               // devices: some of its memory is another process's, of unknown size
    bool is_busy = false;                   // streams and graphs: a call on it runs
    uint64_t enqueued = 0;                  // streams: calls are counted, so that "passed" can be compared
    uint64_t passed = 0;                    //
    uint64_t recording = 0;                 // streams and events: the number of the one it belongs to, or 0
    unify_stream stream = nullptr;          // events: what the last record marked
    uint64_t mark = 0;                      //
    uint32_t flags = 0;                     // events: UNIFY_EVENT_*
    std::map<unify_stream, uint64_t> used;  // modules, by launches: up to which call of the stream
  };
  struct Allocation {
    size_t bytes = 0;
    unify_device device = nullptr;
    unify_memory_kind kind = UNIFY_MEMORY_DEVICE;
    bool is_committed = false;              // by virtual_commit
    std::map<unify_stream, uint64_t> used;  // by copies and fills
  };

  // One call that changes a stream or a graph: at most one at a time.
  class Turn {
   public:
    Turn(HandedOut& owner, const char* function, Thing thing);
    ~Turn();
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    explicit operator bool() const { return has_it_; }
    [[nodiscard]] unify_device device() const { return device_; }

   private:
    HandedOut& owner_;
    Thing thing_;
    unify_device device_ = nullptr;
    bool has_it_ = false;
  };

  void report(const std::string& what) const;
  unify_status refuse(std::string message);
  unify_status blame(std::string message);  // the backend, for what it answered

  // Whether the struct that `function` was given can be read.
  template <typename Arguments>
  bool is_whole(const char* function, const Arguments* args) {
    if (args == nullptr) {
      refuse(std::string(function) + ": its arguments are null");
    } else if (args->struct_size < kLeastSize<Arguments>) {
      refuse(std::string(function) + ": its arguments have " + std::to_string(args->struct_size) +
             " bytes, version 1.0 has " + std::to_string(kLeastSize<Arguments>));
    } else {
      return true;
    }
    return false;
  }
  bool is_there(const char* function, const char* argument, const void* pointer);

  // With the lock.
  bool is_live(const char* function, Thing thing);
  std::string remains_of(unify_device device) const;  // "2 streams, 1 allocation (4096 bytes)", or empty
  void pass(Thing stream, uint64_t count);
  // Whether work that nobody waited for still uses it.
  bool is_in_use(const std::map<unify_stream, uint64_t>& used);
  void forget(unify_device device);
  bool is_open(uint64_t recording) const;

  // Without it.
  bool check(const char* function, Thing thing);
  bool check_range(const char* what, unify_stream stream, unify_device device, unify_address address, size_t bytes);
  template <typename Handle>
  unify_status made(unify_device device, Handle handle, unify_status status, uint32_t flags = 0) {
    if (status != UNIFY_OK) return status;
    const std::lock_guard<std::mutex> lock(mutex_);
    gone_.erase(handle);
    Live live;
    live.device = device;
    live.flags = flags;
    live_[handle] = live;
    return status;
  }
  bool destroyed(const char* function, Thing thing);

  const unify_backend below_;
  std::mutex mutex_;
  std::map<Thing, Live> live_;
  std::map<Thing, const char*> gone_;  // by which call; some
  std::map<unify_address, Allocation> allocations_;
  std::map<unify_address, std::pair<unify_device, size_t>> reserved_;  // by virtual_reserve
  std::multiset<std::pair<unify_device, uint64_t>> imported_;          // one address may be opened more than once
  uint64_t next_recording_ = 1;
};

}  // namespace unify::layers
