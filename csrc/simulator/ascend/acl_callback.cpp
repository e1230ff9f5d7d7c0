// ACL's functions that let streams call functions of the host: on a thread of the simulator's, or on one of the
// program's that serves reports.
#include <pthread.h>

#include <deque>

#include "acl.h"
#include "calls.h"

using namespace unify::simulator;

namespace {

struct Report {
  aclrtCallback function;
  void* data;
  MarkPtr done;
};

// A thread of the program that streams are subscribed to.
struct Server {
  std::deque<Report> reports;
  std::vector<std::weak_ptr<Stream>> streams;
};

// By pthread_self, with the mutex.
std::map<uint64_t, std::shared_ptr<Server>>& servers() {
  static auto* const all = new std::map<uint64_t, std::shared_ptr<Server>>;
  return *all;
}

std::shared_ptr<Server> server_of(const Stream& stream) {
  for (const auto& [thread, server] : servers()) {
    for (const auto& each : server->streams) {
      if (each.lock().get() == &stream) return server;
    }
  }
  return nullptr;
}

// Gives the function to the thread, and waits for it if the stream shall.
Run report(const std::shared_ptr<Server>& server, aclrtCallback function, void* data, bool blocks,
           const std::shared_ptr<Context>& context) {
  return [server, function, data, blocks, context](Stream& on) -> Result {
    Lock lock(driver().mutex);
    const auto done = std::make_shared<Mark>();
    server->reports.push_back({function, data, done});
    driver().progress.notify_all();
    while (blocks && !done->is_done && result_of(*context) == kSuccess && !of(on).is_aborting) {
      driver().progress.wait_until(lock, Clock::now() + std::chrono::milliseconds(20));
    }
    return ACL_SUCCESS;
  };
}

}  // namespace

UNIFY_SIMULATOR_EXPORT aclError aclrtLaunchHostFunc(aclrtStream handle, aclrtHostFunc function, void* data) {
  return with_work("aclrtLaunchHostFunc", handle, [&](Call& call, Stream& stream) -> Result {
    if (function == nullptr) return ACL_ERROR_INVALID_PARAM;
    Operation operation;
    operation.kind = OperationKind::kHostCall;
    operation.run = call_host(function, data);
    return submit(call, stream, std::move(operation));
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtLaunchCallback(aclrtCallback function, void* data, aclrtCallbackBlockType type,
                                                    aclrtStream handle) {
  return with_work("aclrtLaunchCallback", handle, [&](Call& call, Stream& stream) -> Result {
    if (function == nullptr || type > ACL_CALLBACK_BLOCK) return ACL_ERROR_INVALID_PARAM;
    const std::shared_ptr<Server> server = server_of(stream);
    if (server == nullptr) return refuse(ACL_ERROR_RT_STREAM_NO_CB_REG, "No thread is subscribed to the stream.");
    Operation operation;
    operation.kind = OperationKind::kHostCall;
    operation.run = report(server, function, data, type == ACL_CALLBACK_BLOCK, stream.context);
    return submit(call, stream, std::move(operation));
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtSubscribeReport(uint64_t thread, aclrtStream handle) {
  return with_driver("aclrtSubscribeReport", [&](Call& call) -> Result {
    std::shared_ptr<Stream> stream;
    if (const Result result = find_stream(handle, stream); result != ACL_SUCCESS) return result;
    if (const Result result = admit(call, stream->context); result != ACL_SUCCESS) return result;
    if (server_of(*stream) != nullptr) return refuse(ACL_ERROR_RT_STREAM_SUBSCRIBE, "A thread is subscribed already.");
    std::shared_ptr<Server>& server = servers()[thread];
    if (server == nullptr) server = std::make_shared<Server>();
    server->streams.push_back(stream);
    driver().progress.notify_all();
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtUnSubscribeReport(uint64_t thread, aclrtStream handle) {
  return with_stream("aclrtUnSubscribeReport", handle, [&](Call&, const Stream& stream) -> Result {
    const auto found = servers().find(thread);
    if (found == servers().end()) return ACL_ERROR_RT_THREAD_SUBSCRIBE;
    auto& streams = found->second->streams;
    for (auto each = streams.begin(); each != streams.end(); ++each) {
      if (each->lock().get() != &stream) continue;
      streams.erase(each);
      if (streams.empty()) servers().erase(found);
      driver().progress.notify_all();
      return ACL_SUCCESS;
    }
    return ACL_ERROR_RT_STREAM_SUBSCRIBE;
  });
}

// Calls one function of a stream that this thread is subscribed to, once there is one.
UNIFY_SIMULATOR_EXPORT aclError aclrtProcessReport(int32_t timeout) {
  return with_driver("aclrtProcessReport", [&](Call& call) -> Result {
    Deadline until;
    if (!read_timeout(timeout, until)) return ACL_ERROR_RT_PARAM_INVALID;
    const auto self = static_cast<uint64_t>(pthread_self());
    for (;;) {
      const auto found = servers().find(self);
      if (found == servers().end())
        return refuse(ACL_ERROR_RT_THREAD_SUBSCRIBE, "The thread is subscribed to no stream.");
      const std::shared_ptr<Server> server = found->second;
      if (!server->reports.empty()) {
        const Report report = server->reports.front();
        server->reports.pop_front();
        call.lock.unlock();
        run_on_host(report.function, report.data);
        call.lock.lock();
        report.done->is_done = true;
        driver().progress.notify_all();
        return ACL_SUCCESS;
      }
      if (std::chrono::steady_clock::now() >= until) return ACL_ERROR_RT_REPORT_TIMEOUT;
      driver().progress.wait_until(call.lock, Clock::now() + std::chrono::milliseconds(20));
    }
  });
}
