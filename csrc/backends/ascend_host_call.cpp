// Host functions in streams. ACL has two ways: aclrtLaunchHostFunc, whose thread is ACL's own, and before it
// aclrtLaunchCallback, which wants a thread of ours that serves reports and that each stream is subscribed to.
#include <pthread.h>

#include <condition_variable>
#include <system_error>
#include <thread>

#include "ascend_backend.h"

namespace unify::ascend {

class Reporter {
 public:
  explicit Reporter(aclrtContext context) : thread_([this, context] { serve(context); }) {}
  ~Reporter() {
    is_ending_ = true;
    thread_.join();
  }
  Reporter(const Reporter&) = delete;
  Reporter& operator=(const Reporter&) = delete;
  // How aclrtSubscribeReport calls the thread.
  [[nodiscard]] uint64_t id() { return static_cast<uint64_t>(thread_.native_handle()); }

 private:
  void serve(aclrtContext context) const {
    constexpr int32_t kMilliseconds = 100;  // the longest that the end is waited for
    driver.aclrtSetCurrentContext(context);
    // Without a subscription it fails at once, rather than wait.
    while (!is_ending_) {
      if (driver.aclrtProcessReport(kMilliseconds) != ACL_SUCCESS) std::this_thread::yield();
    }
  }

  std::atomic<bool> is_ending_{false};
  std::thread thread_;
};

Device::Device() = default;
Device::~Device() = default;

void stop_reporter(Device& device) { device.reporter.reset(); }

struct HostCall {
  Device* device;
  unify_host_function function;
  void* user;

  // By ACL. Who takes the call out of the device's list runs it: a failed context forgets its calls, or does not.
  static void run(void* self) {
    auto* call = static_cast<HostCall*>(self);
    {
      const std::lock_guard<std::mutex> lock(call->device->mutex);
      const auto found = std::find(call->device->host_calls.begin(), call->device->host_calls.end(), call);
      if (found == call->device->host_calls.end()) return;
      call->device->host_calls.erase(found);
    }
    call->function(call->user);
    delete call;
  }
};

void run_forgotten_calls(Device& device) {
  std::list<HostCall*> calls;
  {
    const std::lock_guard<std::mutex> lock(device.mutex);
    calls.swap(device.host_calls);
  }
  if (calls.empty()) return;
  // They are not freed: ACL may still come to them.
  const auto run_all = [calls = std::move(calls)] {
    for (HostCall* call : calls) call->function(call->user);
  };
  try {
    std::thread(run_all).detach();
  } catch (const std::system_error&) {
    run_all();
  }
}

bool has_host_calls() {
  return driver.aclrtLaunchHostFunc != nullptr ||
         (driver.aclrtLaunchCallback != nullptr && driver.aclrtSubscribeReport != nullptr &&
          driver.aclrtUnSubscribeReport != nullptr && driver.aclrtProcessReport != nullptr);
}

void stop_serving(Stream& stream) {
  if (!std::exchange(stream.has_reporter, false) || stream.device->reporter == nullptr) return;
  driver.aclrtUnSubscribeReport(stream.device->reporter->id(), stream.handle);
}

namespace {

aclError subscribe(Stream& stream) {
  if (stream.has_reporter) return ACL_SUCCESS;
  Device& device = *stream.device;
  uint64_t thread = 0;
  {
    const std::lock_guard<std::mutex> lock(device.mutex);
    if (device.reporter == nullptr) device.reporter = std::make_unique<Reporter>(device.context);
    thread = device.reporter->id();
  }
  const aclError code = driver.aclrtSubscribeReport(thread, stream.handle);
  stream.has_reporter = code == ACL_SUCCESS;
  return code;
}

// In the device's context. One call on a stream at a time.
aclError launch(Stream& stream, aclrtCallback function, void* user) {
  if (driver.aclrtLaunchHostFunc != nullptr) return driver.aclrtLaunchHostFunc(stream.handle, function, user);
  const aclError code = subscribe(stream);
  if (code != ACL_SUCCESS) return code;
  return driver.aclrtLaunchCallback(function, user, ACL_CALLBACK_BLOCK, stream.handle);
}

}  // namespace

unify_status host_call(unify_stream handle, unify_host_function function, void* user) {
  Stream& stream = *of(handle);
  Device& device = *stream.device;
  bool records = false;
  unify_status status = run(device, [&] { return is_recording(stream, records); });
  if (status != UNIFY_OK) return status;
  if (records) return run(device, [&] { return launch(stream, function, user); });  // which may run often
  auto* call = new HostCall{&device, function, user};
  {
    const std::lock_guard<std::mutex> lock(device.mutex);
    device.host_calls.push_back(call);
  }
  status = run(device, [&] { return launch(stream, HostCall::run, call); });
  if (status == UNIFY_OK) return status;
  const std::lock_guard<std::mutex> lock(device.mutex);
  const auto found = std::find(device.host_calls.begin(), device.host_calls.end(), call);
  if (found == device.host_calls.end()) return UNIFY_OK;  // it runs, as one that was forgotten
  device.host_calls.erase(found);
  delete call;
  return status;
}

}  // namespace unify::ascend
