#include "stream.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>

#include "driver.h"
#include "front.h"
#include "observer.h"

namespace unify::simulator {
namespace {

thread_local bool in_host_call = false;

// How long a thread sleeps before it looks again for what became due by time.
constexpr auto kTick = std::chrono::milliseconds(20);

bool is_done(const MarkPtr& mark) { return mark->is_done; }

// Waits until the stream's next piece of work may begin; no longer than the context lives. False if it is not the next
// one any more: a reset empties the queue.
bool wait_for_others(Lock& lock, const Stream& stream) {
  const MarkPtr next = stream.queue.front().done;
  const auto is_next = [&] { return !stream.queue.empty() && stream.queue.front().done == next; };
  const auto may_begin = [&] {
    const Work& work = stream.queue.front();
    return result_of(*work.operation.context) != kSuccess || std::all_of(work.after.begin(), work.after.end(), is_done);
  };
  while (is_next() && !may_begin()) driver().progress.wait_until(lock, Clock::now() + kTick);
  return is_next();
}

// A stream's thread. Its parameter is a reference of its own to the stream.
void* serve(void* parameter) {
  const std::unique_ptr<std::shared_ptr<Stream>> held(static_cast<std::shared_ptr<Stream>*>(parameter));
  Stream& stream = **held;
  Lock lock(driver().mutex);
  for (;;) {
    stream.arrived.wait(lock, [&] { return !stream.queue.empty() || stream.is_closing; });
    if (stream.queue.empty()) break;
    if (wait_for_others(lock, stream)) {
      const Work work = std::move(stream.queue.front());
      stream.queue.pop_front();
      stream.running = work.operation.kind;
      lock.unlock();
      run_operation(stream, work.operation);
      lock.lock();
      stream.running = OperationKind::kEmpty;
      work.done->when = std::chrono::steady_clock::now();
      work.done->is_done = true;
      if (stream.queue.empty()) driver().memory.close(stream.context->device->index);
      driver().progress.notify_all();
    }
  }
  lock.unlock();
  return nullptr;
}

bool start_thread(const std::shared_ptr<Stream>& stream) {
  auto held = std::make_unique<std::shared_ptr<Stream>>(stream);
  sigset_t all;
  sigset_t before;
  sigfillset(&all);  // signals to the process are for the program's own threads
  for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) sigdelset(&all, fault);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  // No std::thread: a host function in Python may end its thread when the interpreter is over, by pthread_exit.
  pthread_t thread;
  const bool is_started = pthread_create(&thread, nullptr, serve, held.get()) == 0;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (!is_started) return false;
  pthread_detach(thread);
  (void)held.release();
  stream->has_thread = true;
  return true;
}

}  // namespace

Result enqueue(Stream& stream, Operation operation, std::vector<MarkPtr> after) {
  if (const Result result = order_implicitly(stream, after); result != kSuccess) return result;
  if (!stream.has_thread) {
    const auto& all = stream.context->streams;
    const auto self = std::find_if(all.begin(), all.end(), [&](const auto& each) { return each.get() == &stream; });
    if (self == all.end() || !start_thread(*self)) return kResults.out_of_memory;
  }
  stream.tail = std::make_shared<Mark>();
  stream.queue.push_back({std::move(operation), std::move(after), stream.tail});
  stream.arrived.notify_one();
  return kSuccess;
}

void run_operation(Stream& stream, const Operation& operation) {
  if (operation.run == nullptr) return;
  {
    const Lock lock(driver().mutex);
    apply_due_faults(*operation.context->device);
    if (!may_run(stream, operation)) return;
  }
  const Observer look = observer.load(std::memory_order_relaxed);
  const Time begin = look == nullptr ? Time{} : std::chrono::steady_clock::now();
  const Result result = operation.run(stream);
  if (look != nullptr) look(stream, operation, begin, std::chrono::steady_clock::now(), result);
  if (result != kSuccess) {
    Lock lock(driver().mutex);
    fail_work(lock, stream, operation, result);
  }
}

Result wait_for(Lock& lock, const MarkPtr& mark, const Context& context, Deadline until) {
  while (!mark->is_done && result_of(context) == kSuccess && std::chrono::steady_clock::now() < until) {
    driver().progress.wait_until(lock, Clock::now() + kTick);
    apply_due_faults(*context.device);
  }
  return result_of(context);
}

Result wait_for_stream(Lock& lock, Stream& stream) {
  const std::shared_ptr<Context> context = stream.context;  // the stream may be destroyed meanwhile
  const MarkPtr tail = stream.tail;
  return wait_for(lock, tail, *context);
}

Result wait_for_context(Lock& lock, Context& context) {
  std::vector<MarkPtr> tails;
  for (const auto& stream : context.streams) tails.push_back(stream->tail);
  for (const MarkPtr& tail : tails) {
    if (const Result result = wait_for(lock, tail, context); result != kSuccess) return result;
  }
  return result_of(context);
}

bool is_idle(const Stream& stream) { return stream.tail->is_done; }

void close_stream(Stream& stream) {
  stream.is_closing = true;
  stream.arrived.notify_one();
  auto& all = stream.context->streams;
  all.erase(std::remove_if(all.begin(), all.end(), [&](const auto& each) { return each.get() == &stream; }), all.end());
}

bool drain(Lock& lock, const std::vector<std::shared_ptr<Stream>>& streams, Deadline until) {
  for (const auto& stream : streams) {
    for (const Work& work : stream->queue) work.done->is_done = true;
    stream->queue.clear();
  }
  driver().progress.notify_all();
  const auto is_at_work = [](const auto& stream) {
    return stream->running != OperationKind::kEmpty && stream->running != OperationKind::kHostCall;
  };
  const auto is_idle = [&] { return std::none_of(streams.begin(), streams.end(), is_at_work); };
  while (!is_idle()) {
    if (std::chrono::steady_clock::now() >= until) return false;
    driver().progress.wait_until(lock, Clock::now() + kTick);
  }
  return true;
}

bool is_in_host_call() noexcept { return in_host_call; }

void run_on_host(void (*function)(void*), void* data) {
  in_host_call = true;
  function(data);
  in_host_call = false;
}

Run call_host(void (*function)(void*), void* data) {
  return [function, data](Stream&) {
    run_on_host(function, data);
    return kSuccess;
  };
}

}  // namespace unify::simulator
