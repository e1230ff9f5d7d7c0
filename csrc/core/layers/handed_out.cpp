#include "handed_out.h"

#include <array>
#include <cstdio>
#include <sstream>
#include <utility>

namespace unify::layers {
namespace {

constexpr std::array<const char*, 7> kKinds = {"device", "stream", "event", "module", "function", "graph", "memory"};
constexpr size_t kRemembered = 4096;  // handles that are gone

const char* name_of(Kind kind) { return kKinds.at(static_cast<size_t>(kind)); }

struct Refusal {
  const void* layer = nullptr;
  std::string message;
  unify_status status = UNIFY_INVALID_ARGUMENT;
};
thread_local Refusal refusal;

}  // namespace

std::string text_of(const char* name, unify_address address, size_t bytes) {
  std::ostringstream text;
  text << name << " 0x" << std::hex << address << std::dec << '+' << bytes;
  return text.str();
}

void HandedOut::begin() { refusal.layer = nullptr; }

void HandedOut::last_error(unify_error* out) {
  if (refusal.layer != this) {
    below_.last_error(out);
    return;
  }
  const size_t size = out->struct_size;
  *out = {};
  out->struct_size = size;
  out->status = refusal.status;
  out->message = refusal.message.c_str();
  out->advice = refusal.status == UNIFY_INTERNAL
                    ? "This breaks a rule of unify/backend.h: a mistake in the backend."
                    : "This breaks a rule of unify/backend.h: a mistake in unify's core, not in the backend.";
}

HandedOut::Turn::Turn(HandedOut& owner, const char* function, Thing thing) : owner_(owner), thing_(thing) {
  const std::lock_guard<std::mutex> lock(owner.mutex_);
  if (!owner.is_live(function, thing)) return;
  Live& live = owner.live_.at(thing);
  if (live.is_busy) {
    owner.refuse(std::string(function) + ": another thread is in a call on the same " + name_of(thing.kind));
    return;
  }
  live.is_busy = has_it_ = true;
  device_ = live.device;
  ++live.enqueued;
}

HandedOut::Turn::~Turn() {
  if (!has_it_) return;
  const std::lock_guard<std::mutex> lock(owner_.mutex_);
  const auto live = owner_.live_.find(thing_);
  if (live != owner_.live_.end()) live->second.is_busy = false;
}

void HandedOut::report(const std::string& what) const {
  std::fprintf(stderr, "unify validate: %s: %s\n", below_.name, what.c_str());
}

unify_status HandedOut::refuse(std::string message) {
  report(message);
  refusal = {this, std::move(message), UNIFY_INVALID_ARGUMENT};
  return UNIFY_INVALID_ARGUMENT;
}

unify_status HandedOut::blame(std::string message) {
  report(message);
  refusal = {this, std::move(message), UNIFY_INTERNAL};
  return UNIFY_INTERNAL;
}

bool HandedOut::is_there(const char* function, const char* argument, const void* pointer) {
  if (pointer == nullptr) refuse(std::string(function) + ": " + argument + " is null");
  return pointer != nullptr;
}

bool HandedOut::is_live(const char* function, Thing thing) {
  if (live_.count(thing) != 0) return true;
  std::ostringstream text;
  text << function << ": no " << name_of(thing.kind) << " 0x" << std::hex << thing.value << " of this backend lives";
  const auto gone = gone_.find(thing);
  if (gone != gone_.end()) text << ": " << gone->second << " took it";
  refuse(text.str());
  return false;
}

bool HandedOut::check(const char* function, Thing thing) {
  const std::lock_guard<std::mutex> lock(mutex_);
  return is_live(function, thing);
}

bool HandedOut::destroyed(const char* function, Thing thing) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!is_live(function, thing)) return false;
  const Live& live = live_.at(thing);
  if (live.is_busy) {
    refuse(std::string(function) + ": another thread is in a call on the same " + name_of(thing.kind));
    return false;
  }
  if (thing.kind == Kind::kStream && live.recording != 0) {
    refuse(std::string(function) + ": the stream records a graph");
    return false;
  }
  live_.erase(thing);
  if (gone_.size() >= kRemembered) gone_.clear();
  gone_[thing] = function;
  return true;
}

std::string HandedOut::remains_of(unify_device device) const {
  std::array<size_t, kKinds.size()> counts{};
  for (const auto& [thing, live] : live_) {
    const bool counts_too = thing.kind != Kind::kDevice && thing.kind != Kind::kFunction;  // a module's go with it
    if (live.device == device && counts_too) ++counts.at(static_cast<size_t>(thing.kind));
  }
  std::string text;
  const auto add = [&](size_t count, const std::string& what) {
    if (count > 0) text += (text.empty() ? "" : ", ") + std::to_string(count) + " " + what + (count == 1 ? "" : "s");
  };
  for (size_t kind = 0; kind < kKinds.size(); ++kind) add(counts.at(kind), kKinds.at(kind));
  size_t count = 0;
  size_t bytes = 0;
  for (const auto& [address, allocation] : allocations_) {
    if (allocation.device != device) continue;
    ++count;
    bytes += allocation.bytes;
  }
  add(count, "allocation");
  if (count > 0) text += " (" + std::to_string(bytes) + " bytes)";
  return text;
}

void HandedOut::pass(Thing stream, uint64_t count) {
  const auto found = live_.find(stream);
  if (found != live_.end()) found->second.passed = std::max(found->second.passed, count);
}

bool HandedOut::is_in_use(const std::map<unify_stream, uint64_t>& used) {
  for (const auto& [stream, count] : used) {
    const auto user = live_.find(stream);
    if (user == live_.end() || user->second.passed >= count || user->second.recording != 0) continue;
    if (below_.stream_query(stream) == UNIFY_NOT_READY) return true;
  }
  return false;
}

void HandedOut::forget(unify_device device) {
  for (auto it = live_.begin(); it != live_.end();) {
    const bool goes = it->second.device == device && it->first.kind != Kind::kDevice;
    it = goes ? live_.erase(it) : std::next(it);
  }
  for (auto it = allocations_.begin(); it != allocations_.end();) {
    const bool goes = it->second.device == device && it->second.kind != UNIFY_MEMORY_PINNED;
    it = goes ? allocations_.erase(it) : std::next(it);
  }
  for (auto it = reserved_.begin(); it != reserved_.end();) {
    it = it->second.first == device ? reserved_.erase(it) : std::next(it);
  }
  for (auto it = imported_.begin(); it != imported_.end();) {
    it = it->first == device ? imported_.erase(it) : std::next(it);
  }
}

bool HandedOut::is_open(uint64_t recording) const {
  return std::any_of(live_.begin(), live_.end(), [&](const auto& entry) {
    return entry.first.kind == Kind::kStream && entry.second.recording == recording;
  });
}

// A range that begins in an allocation must end in it, or in memory that was committed right behind it. What begins in
// none is the host's own where that can see it.
bool HandedOut::check_range(const char* what, unify_stream stream, unify_device device, unify_address address,
                            size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (device != nullptr && !is_live(what, device)) return false;
  if (address == 0 || address + bytes < address) {
    refuse(text_of(what, address, bytes) + " is no range");
    return false;
  }
  const bool is_host = device == nullptr || (live_.at(device).info.flags & UNIFY_DEVICE_HOST_VISIBLE) != 0;
  const auto is_around = [&](unify_address start, size_t size) { return start <= address && address < start + size; };
  auto found = allocations_.upper_bound(address);
  if (found != allocations_.begin()) --found;
  if (found == allocations_.end() || !is_around(found->first, found->second.bytes)) {
    if (is_host || live_.at(device).has_imports) return true;
    refuse(text_of(what, address, bytes) + " is not allocated, or not any more");
    return false;
  }
  auto end = found;
  unify_address whole = found->first;
  do {
    whole += end->second.bytes;
    ++end;
  } while (whole < address + bytes && found->second.is_committed && end != allocations_.end() && end->first == whole &&
           end->second.is_committed && end->second.device == found->second.device);
  if (whole < address + bytes) {
    refuse(text_of(what, address, bytes) + " goes beyond its " +
           text_of("allocation", found->first, whole - found->first));
    return false;
  }
  const Live& user = live_.at(stream);
  for (; user.recording == 0 && found != end; ++found) found->second.used[stream] = user.enqueued;
  return true;
}

}  // namespace unify::layers
