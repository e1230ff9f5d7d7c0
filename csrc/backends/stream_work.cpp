#include "stream_work.h"

#include <algorithm>
#include <condition_variable>
#include <list>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace unify {

struct StreamCalls::State {
  std::mutex mutex;
  std::condition_variable ended;
  std::list<Call*> waiting;          // in the order of their making
  std::vector<const void*> running;  // the streams of those that run, and of those that were forgotten and will

  // With the mutex.
  void note_end(const void* stream) {
    running.erase(std::find(running.begin(), running.end(), stream));
    ended.notify_all();
  }
};

struct StreamCalls::Call {
  std::shared_ptr<State> state;
  const void* stream;
  unify_host_function function;
  void* user;

  void make() const {
    function(user);
    const std::lock_guard<std::mutex> lock(state->mutex);
    state->note_end(stream);
  }
};

StreamCalls::StreamCalls() : state_(std::make_shared<State>()) {}
StreamCalls::~StreamCalls() = default;

void* StreamCalls::add(const void* stream, unify_host_function function, void* user) {
  auto* call = new Call{state_, stream, function, user};
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->waiting.push_back(call);
  return call;
}

bool StreamCalls::take_back(void* call) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  const auto found = std::find(state_->waiting.begin(), state_->waiting.end(), call);
  if (found == state_->waiting.end()) return false;
  delete *found;
  state_->waiting.erase(found);
  return true;
}

// Who takes a call out of the list runs it.
void StreamCalls::run(void* self) {
  auto* call = static_cast<Call*>(self);
  {
    State& state = *call->state;
    const std::lock_guard<std::mutex> lock(state.mutex);
    const auto found = std::find(state.waiting.begin(), state.waiting.end(), call);
    if (found == state.waiting.end()) return;
    state.waiting.erase(found);
    state.running.push_back(call->stream);
  }
  call->make();
  delete call;
}

bool StreamCalls::are_in(const void* stream) const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return std::find(state_->running.begin(), state_->running.end(), stream) != state_->running.end() ||
         std::any_of(state_->waiting.begin(), state_->waiting.end(),
                     [stream](const Call* call) { return call->stream == stream; });
}

void StreamCalls::run_forgotten() {
  std::list<Call*> calls;
  {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    calls.swap(state_->waiting);
    for (const Call* call : calls) state_->running.push_back(call->stream);
  }
  if (calls.empty()) return;
  // They are not freed: the driver may still come to them.
  const auto run_all = [calls = std::move(calls)] {
    for (const Call* call : calls) call->make();
  };
  try {
    std::thread(run_all).detach();
  } catch (const std::system_error&) {
    run_all();
  }
}

bool StreamCalls::are_running() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return !state_->running.empty();
}

void StreamCalls::wait() const {
  std::unique_lock<std::mutex> lock(state_->mutex);
  state_->ended.wait(lock, [this] { return state_->running.empty(); });
}

}  // namespace unify
