// Streams of the CPU: queues, each with a thread from the first work on that cannot run at once.
#include <thread>

#include "host.h"

namespace unify::host {

void note_failure(Stream& stream, Failure failure) {
  const std::lock_guard<std::mutex> lock(stream.mutex);
  if (stream.failure == nullptr) stream.failure = std::make_shared<const Failure>(std::move(failure));
  stream.has_failed.store(true, std::memory_order_release);
}

std::shared_ptr<const Failure> failure_of(Stream& stream) {
  if (!stream.has_failed.load(std::memory_order_acquire)) return nullptr;
  const std::lock_guard<std::mutex> lock(stream.mutex);
  return stream.failure;
}

// The stream then works on, since the memory is the host's own and still there.
unify_status take_failure(Stream& stream) {
  if (!stream.has_failed.load(std::memory_order_acquire)) return UNIFY_OK;
  std::shared_ptr<const Failure> failure;
  {
    const std::lock_guard<std::mutex> lock(stream.mutex);
    failure.swap(stream.failure);
    stream.has_failed.store(false, std::memory_order_release);
  }
  return failure == nullptr ? UNIFY_OK : fail(*failure);
}

namespace {

void leave(Stream& stream) {
  Device& device = *stream.device;
  const std::lock_guard<std::mutex> lock(device.mutex);
  device.streams.erase(stream.shared_from_this());
  device.left.notify_all();
}

// What an item throws, for lack of memory say, is a failure of the stream. Not noexcept: a host call of Python may end
// its thread when the interpreter is gone (pthread_exit unwinds).
void run_item(Stream& stream, const std::function<void(Stream&)>& item) {
  try {
    item(stream);
  } catch (const std::bad_alloc&) {
    static const auto no_memory =
        std::make_shared<const Failure>(Failure{UNIFY_OUT_OF_MEMORY, "no memory to run enqueued work", 0});
    const std::lock_guard<std::mutex> lock(stream.mutex);
    if (stream.failure == nullptr) stream.failure = no_memory;
    stream.has_failed.store(true, std::memory_order_release);
  } catch (const std::exception& error) {
    note_failure(stream, {UNIFY_INTERNAL, error.what(), 0});
  }
}

void serve(const std::shared_ptr<Stream>& stream) {
  const uint32_t generation = fork_generation();
  std::unique_lock<std::mutex> lock(stream->mutex);
  for (;;) {
    stream->changed.wait(lock, [&] { return !stream->queue.empty() || stream->is_closing; });
    if (stream->queue.empty()) break;
    auto item = std::move(stream->queue.front());
    stream->queue.pop_front();
    lock.unlock();
    run_item(*stream, item);
    item = nullptr;
    if (fork_generation() != generation) return;  // a host call forked: in the child nothing of this is left
    lock.lock();
    if (stream->pending.fetch_sub(1) == 1) stream->changed.notify_all();
  }
  lock.unlock();
  leave(*stream);
}

}  // namespace

// Throws where memory or threads have run out; nothing is enqueued then.
void enqueue(Stream& stream, std::function<void(Stream&)> item) {
  const std::lock_guard<std::mutex> lock(stream.mutex);
  if (!stream.has_thread) {
    std::thread(serve, stream.shared_from_this()).detach();
    stream.has_thread = true;
  }
  stream.queue.push_back(std::move(item));
  stream.pending.fetch_add(1);
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
  const std::shared_ptr<const Failure> failure = failure_of(*of(s));
  return failure == nullptr ? UNIFY_OK : fail(*failure);
}

unify_status host_call(unify_stream s, unify_host_function function, void* user) {
  enqueue(*of(s), [function, user](Stream&) { function(user); });
  return UNIFY_OK;
}

}  // namespace

void add_streams(unify_backend& table) {
  table.stream_create = Guarded<stream_create>::call;
  table.stream_destroy = Guarded<stream_destroy>::call;
  table.stream_synchronize = Guarded<stream_synchronize>::call;
  table.stream_query = Guarded<stream_query>::call;
  table.host_call = Guarded<host_call>::call;
}

}  // namespace unify::host
