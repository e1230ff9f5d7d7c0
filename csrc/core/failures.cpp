#include "failures.h"

#include <algorithm>

#include "device.h"
#include "stream.h"

namespace unify {
void Failures::note(uint32_t stream, unify_status status, const char* what) noexcept {
  try {
    Error error = error_of(device_, stream == kNoStream ? std::string() : stream_name(stream), status, what);
    if (device_.state() != UNIFY_DEVICE_HEALTHY) return;  // the next call says so
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto is_same = [&](const Entry& entry) {
      return entry.error.operation == error.operation && (error.operation != 0 || entry.stream == stream);
    };
    // The same failure of a stream comes back from each event behind it.
    if (is_told(error.operation) || std::any_of(noted_.begin(), noted_.end(), is_same)) return;
    noted_.push_back({stream, std::move(error)});
    is_any_.store(true, std::memory_order_release);
  } catch (...) {  // no memory for the text of an error
  }
}

bool Failures::is_told(uint64_t operation) const noexcept {
  return operation != 0 && std::find(told_.begin(), told_.end(), operation) != told_.end();
}

void Failures::was_told(const Error& error) noexcept {
  if (device_.state() != UNIFY_DEVICE_HEALTHY) device_.was_told();
  if (error.operation == 0) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto is_same = [&](const Entry& entry) { return entry.error.operation == error.operation; };
  noted_.erase(std::remove_if(noted_.begin(), noted_.end(), is_same), noted_.end());
  is_any_.store(!noted_.empty(), std::memory_order_release);
  if (!is_told(error.operation)) told_[next_told_++ % told_.size()] = error.operation;
}

void Failures::raise_first(uint32_t stream, bool is_any) {
  std::unique_lock<std::mutex> lock(mutex_);
  const auto is_due = [&](const Entry& entry) { return is_any || entry.stream == stream || entry.stream == kNoStream; };
  const auto found = std::find_if(noted_.begin(), noted_.end(), is_due);
  if (found == noted_.end()) return;
  const Error error = std::move(found->error);
  noted_.erase(found);
  is_any_.store(!noted_.empty(), std::memory_order_release);
  lock.unlock();
  was_told(error);
  throw error;
}

void Failures::stream_ended(uint32_t stream) noexcept {
  if (!is_any_.load(std::memory_order_acquire)) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  for (Entry& entry : noted_) {
    if (entry.stream == stream) entry.stream = kNoStream;
  }
}

void Failures::forget() noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  noted_.clear();
  told_.fill(0);
  is_any_.store(false, std::memory_order_release);
}

}  // namespace unify
