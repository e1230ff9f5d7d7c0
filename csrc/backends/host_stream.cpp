// Streams of the CPU: queues, each with a thread from the first work on that cannot run at once.
#include <thread>

#include "host.h"

namespace unify::host {

void note_failure(Stream& stream, Failure failure) {
  const std::lock_guard<std::mutex> lock(stream.mutex);
  if (stream.failure.status == UNIFY_OK) stream.failure = std::move(failure);
  stream.has_failed = true;
}

// Tells of a failure once; the stream then works again, since the memory is the host's own and still there.
unify_status take_failure(Stream& stream) {
  if (!stream.has_failed.load(std::memory_order_acquire)) return UNIFY_OK;
  Failure failure;
  {
    const std::lock_guard<std::mutex> lock(stream.mutex);
    std::swap(failure, stream.failure);
    stream.has_failed = false;
  }
  if (failure.status == UNIFY_OK) return UNIFY_OK;
  return fail(failure.status, failure.message, nullptr, failure.operation);
}

namespace {

void leave(Stream& stream) {
  Device& device = *stream.device;
  const std::lock_guard<std::mutex> lock(device.mutex);
  device.streams.erase(stream.shared_from_this());
  device.left.notify_all();
}

void serve(const std::shared_ptr<Stream>& stream) {
  std::unique_lock<std::mutex> lock(stream->mutex);
  for (;;) {
    stream->changed.wait(lock, [&] { return !stream->queue.empty() || stream->is_closing; });
    if (stream->queue.empty()) break;
    auto item = std::move(stream->queue.front());
    stream->queue.pop_front();
    lock.unlock();
    item(*stream);
    item = nullptr;
    lock.lock();
    if (stream->pending.fetch_sub(1) == 1) stream->changed.notify_all();
  }
  lock.unlock();
  leave(*stream);
}

}  // namespace

void enqueue(Stream& stream, std::function<void(Stream&)> item) {
  const std::lock_guard<std::mutex> lock(stream.mutex);
  stream.queue.push_back(std::move(item));
  stream.pending.fetch_add(1);
  if (!stream.has_thread) {
    stream.has_thread = true;
    std::thread(serve, stream.shared_from_this()).detach();
  }
  stream.changed.notify_all();
}

void wait_until_dry(Stream& stream) {
  if (stream.pending.load(std::memory_order_acquire) == 0) return;
  std::unique_lock<std::mutex> lock(stream.mutex);
  stream.changed.wait(lock, [&] { return stream.pending.load() == 0; });
}

namespace {

unify_status stream_create(unify_device d, unify_stream_args* args, unify_stream* out) {
  if (args->native != nullptr) return fail(UNIFY_UNSUPPORTED, "the CPU has no native streams to wrap");
  if (args->priority != 0) return fail(UNIFY_INVALID_ARGUMENT, "the CPU has one stream priority, 0");
  auto stream = std::make_shared<Stream>();
  stream->device = of(d);
  stream->is_default = args->is_default != 0;
  {
    const std::lock_guard<std::mutex> lock(of(d)->mutex);
    of(d)->streams.insert(stream);
  }
  *out = reinterpret_cast<unify_stream>(stream.get());
  return UNIFY_OK;
}

unify_status stream_destroy(unify_stream s) {
  Stream* stream = of(s);
  const unify_status status = take_failure(*stream);
  std::unique_lock<std::mutex> lock(stream->mutex);
  stream->is_closing = true;
  const bool has_thread = stream->has_thread;
  stream->changed.notify_all();
  lock.unlock();
  if (!has_thread) leave(*stream);
  return status;
}

unify_status stream_synchronize(unify_stream s) {
  wait_until_dry(*of(s));
  return take_failure(*of(s));
}

unify_status stream_query(unify_stream s) {
  if (of(s)->pending.load(std::memory_order_acquire) != 0) return UNIFY_NOT_READY;
  return take_failure(*of(s));
}

unify_status host_call(unify_stream s, unify_host_function function, void* user) {
  enqueue(*of(s), [function, user](Stream&) { function(user); });
  return UNIFY_OK;
}

}  // namespace

void add_streams(unify_backend& table) {
  table.stream_create = stream_create;
  table.stream_destroy = stream_destroy;
  table.stream_synchronize = stream_synchronize;
  table.stream_query = stream_query;
  table.host_call = host_call;
}

}  // namespace unify::host
