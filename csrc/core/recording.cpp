#include "recording.h"

#include <cstring>

#include "allocator.h"
#include "device.h"
#include "error.h"
#include "event.h"
#include "module.h"
#include "reclaim.h"
#include "stream.h"

namespace unify {

void throw_graph(const Stream& stream, const std::string& what) {
  throw Error(ErrorKind::kGraph, stream.device().name() + ", " + stream.name() + ": " + what);
}

void call_on_stream(void* function) {
  const InHostCall inside;
  (*static_cast<const std::function<void()>*>(function))();
}

void record_launch(Recording& recording, Stream& stream, const std::shared_ptr<Function>& function,
                   const unify_launch_args& args, std::shared_ptr<void>* foreign, size_t foreign_count) {
  const std::lock_guard<std::mutex> lock(recording.mutex);
  if (recording.is_native) {
    check(stream.device(), &stream, stream.device().table().launch(stream.handle(), function->handle, &args),
          "recording a launch");
  }
  constexpr size_t kAlignment = 16;
  const size_t offset = (recording.packed.size() + kAlignment - 1) / kAlignment * kAlignment;
  recording.packed.resize(offset + args.args_bytes);
  if (args.args_bytes > 0) std::memcpy(recording.packed.data() + offset, args.args, args.args_bytes);
  recording.nodes.emplace_back(Recording::Launch{function, args, offset});
  for (size_t i = 0; i < foreign_count; ++i) recording.owners.push_back(foreign[i]);
}

namespace {

template <typename Args>
unify_status record_by(unify_status (*unify_backend::*entry)(unify_stream, const Args*), Recording& recording,
                       Stream& stream, const Args& args) {
  const std::lock_guard<std::mutex> lock(recording.mutex);
  if (recording.is_native) {
    const unify_status status = (stream.device().table().*entry)(stream.handle(), &args);
    if (status == UNIFY_UNSUPPORTED) return status;
    check(stream.device(), &stream, status, "recording a copy");
  }
  recording.nodes.emplace_back(args);
  return UNIFY_OK;
}

}  // namespace

unify_status record_copy(Recording& recording, Stream& stream, const unify_copy_args& args) {
  return record_by(&unify_backend::copy, recording, stream, args);
}

unify_status record_copy_rows(Recording& recording, Stream& stream, const unify_copy_rows_args& args) {
  return record_by(&unify_backend::copy_rows, recording, stream, args);
}

bool record_fill(Recording& recording, Stream& stream, const unify_fill_args& args) {
  const std::lock_guard<std::mutex> lock(recording.mutex);
  if (recording.is_native) {
    const unify_status status = stream.device().table().fill(stream.handle(), &args);
    if (status == UNIFY_UNSUPPORTED) return false;
    check(stream.device(), &stream, status, "recording a fill");
  }
  recording.nodes.emplace_back(args);
  return true;
}

void record_host_call(Recording& recording, Stream& stream, std::function<void()> function) {
  const std::lock_guard<std::mutex> lock(recording.mutex);
  recording.nodes.emplace_back(std::move(function));
  if (!recording.is_native) return;
  const unify_backend& table = stream.device().table();
  if (table.host_call == nullptr) throw_graph(stream, "this backend records no host calls.");
  // The graph owns the function and may run it often.
  auto owned = std::make_shared<std::function<void()>>(std::get<std::function<void()>>(recording.nodes.back()));
  recording.owners.push_back(owned);
  check(stream.device(), &stream, table.host_call(stream.handle(), call_on_stream, owned.get()),
        "recording a host call");
}

std::weak_ptr<Recording> record_event(Recording& recording, Stream& stream, const std::shared_ptr<Event>& event) {
  const std::lock_guard<std::mutex> lock(recording.mutex);
  if (recording.is_native) {
    check(stream.device(), &stream, stream.device().table().event_record(event->handle(), stream.handle()),
          "recording an event");
  }
  recording.owners.push_back(event);
  return recording.weak_from_this();
}

void record_use(Recording& recording, const Stream& stream, std::shared_ptr<Storage> storage) {
  const std::lock_guard<std::mutex> lock(recording.mutex);
  if (storage->pool() == nullptr || storage->pool() != recording.pool) {
    recording.owners.push_back(std::move(storage));
  } else if (!storage->is_of(stream)) {
    recording.used_by_branches.push_back(std::move(storage));
  }
}

std::unique_lock<std::mutex> lock_to_record(Stream& stream) {
  const unify_backend& table = stream.device().table();
  for (;;) {
    std::unique_lock<std::mutex> lock(stream.mutex());
    if (table.capture_begin == nullptr || stream.recording() != nullptr || stream.is_dry()) return lock;
    if (!stream.can_be_asked())
      throw_graph(stream, "its owner records a graph on it. Record this one before or after.");
    lock.unlock();  // a host call on the stream may use it
    stream.wait_for_work("waiting for work before a recording");
  }
}

void join_recording(const std::shared_ptr<Recording>& recording, Stream& stream, unify_event event) {
  if (recording == nullptr) throw_graph(stream, "it cannot wait for an event of a graph that is gone.");
  const std::lock_guard<std::mutex> lock(recording->mutex);
  if (!recording->is_open) throw_graph(stream, "it cannot wait for an event of a graph that was recorded already.");
  const bool is_new = stream.recording() != recording.get();
  if (is_new && stream.recording() != nullptr) throw_graph(stream, "it records another graph already.");
  const unify_backend& table = stream.device().table();
  if (recording->is_native) {
    check(stream.device(), &stream, table.stream_wait_event(stream.handle(), event), "recording a wait");
  }
  if (!is_new) return;
  stream.set_recording(recording.get());
  recording->streams.push_back(stream.shared_from_this());
}

void record_outside_wait(Recording& recording, Stream& stream, std::shared_ptr<Event> event) {
  const std::lock_guard<std::mutex> lock(recording.mutex);
  recording.outside_waits.emplace_back(stream.shared_from_this(), std::move(event));
}

void record_keep(Recording& recording, std::shared_ptr<void> owner) {
  const std::lock_guard<std::mutex> lock(recording.mutex);
  recording.owners.push_back(std::move(owner));
}

bool records_natively(const Stream& stream) noexcept {
  const Recording* recording = stream.recording();
  return recording != nullptr && recording->is_native;
}

}  // namespace unify
