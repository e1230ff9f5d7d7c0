#include "host_time.h"

#include <chrono>
#include <new>

#include "device.h"
#include "stream.h"

namespace unify {
namespace {

using Time = std::shared_ptr<std::atomic<int64_t>>;

void read_now(void* user) {
  const std::unique_ptr<Time> time(static_cast<Time*>(user));
  (*time)->store(now_ns(), std::memory_order_release);
}

}  // namespace

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

unify_status read_clock(Stream& stream, HostTime* out) noexcept try {
  const unify_backend& table = stream.device().table();
  auto time = std::make_unique<Time>(std::make_shared<std::atomic<int64_t>>(0));
  *out = *time;
  if (table.host_call == nullptr) {
    const unify_status status = table.stream_synchronize(stream.handle());
    if (status == UNIFY_OK) read_now(time.release());
    return status;
  }
  const unify_status status = table.host_call(stream.handle(), read_now, time.get());
  if (status == UNIFY_OK) time.release();  // read_now's
  return status;
} catch (const std::bad_alloc&) {
  return UNIFY_OUT_OF_MEMORY;
}

}  // namespace unify
