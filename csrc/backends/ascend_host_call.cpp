// Host functions in streams. ACL has two ways: aclrtLaunchHostFunc, whose thread is ACL's own, and before it
// aclrtLaunchCallback, which wants a thread of ours that serves reports and that each stream is subscribed to.
#include <pthread.h>

#include <chrono>
#include <condition_variable>
#include <thread>

#include "ascend_backend.h"

namespace unify::ascend {

// The thread of ours, and the streams that it is subscribed to. Other libraries' only as long as calls are in them:
// their owners may destroy them then.
class Reporter {
 public:
  explicit Reporter(Device& device) : calls_(device.calls), thread_([this, &device] { serve(device.context); }) {}
  ~Reporter() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      is_ending_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  Reporter(const Reporter&) = delete;
  Reporter& operator=(const Reporter&) = delete;

  aclError subscribe(const Stream& stream) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (served_.count(stream.handle) != 0) return ACL_SUCCESS;
    const aclError code = driver.aclrtSubscribeReport(id(), stream.handle);
    // Its owner serves it: older versions of torch_npu do.
    if (code == ACL_ERROR_RT_STREAM_SUBSCRIBE && !succeeds(code)) return ACL_SUCCESS;
    if (code == ACL_SUCCESS) served_[stream.handle] = stream.is_owned;
    changed_.notify_all();
    return code;
  }
  void unsubscribe(const Stream& stream) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (served_.erase(stream.handle) != 0) (void)succeeds(driver.aclrtUnSubscribeReport(id(), stream.handle));
  }
  [[nodiscard]] std::vector<aclrtStream> foreign() {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<aclrtStream> streams;
    for (const auto& [stream, is_owned] : served_) {
      if (!is_owned) streams.push_back(stream);
    }
    return streams;
  }

 private:
  // How aclrtSubscribeReport calls the thread.
  uint64_t id() { return static_cast<uint64_t>(thread_.native_handle()); }

  void serve(aclrtContext context) {
    constexpr int32_t kMilliseconds = 100;  // the longest that the end is waited for
    (void)succeeds(driver.aclrtSetCurrentContext(context));
    std::unique_lock<std::mutex> lock(mutex_);
    while (!is_ending_) {
      if (served_.empty()) {  // ACL would answer at once
        changed_.wait(lock);
        continue;
      }
      lock.unlock();
      const aclError code = driver.aclrtProcessReport(kMilliseconds);
      const bool is_well = succeeds(code) || code == ACL_ERROR_RT_REPORT_TIMEOUT;
      lock.lock();
      if (is_well) {
        leave_idle();
      } else {
        changed_.wait_for(lock, std::chrono::milliseconds(kMilliseconds));
      }
    }
  }

  // With the mutex. A call is noted before its stream is subscribed.
  void leave_idle() {
    for (auto each = served_.begin(); each != served_.end();) {
      const bool is_idle = !each->second && !calls_.are_in(each->first);
      if (is_idle) (void)succeeds(driver.aclrtUnSubscribeReport(id(), each->first));
      each = is_idle ? served_.erase(each) : std::next(each);
    }
  }

  const StreamCalls& calls_;
  std::mutex mutex_;  // of what follows
  std::condition_variable changed_;
  std::unordered_map<aclrtStream, bool> served_;  // whether it is the backend's own
  bool is_ending_ = false;
  std::thread thread_;
};

Device::Device() = default;
Device::~Device() = default;

void stop_reporter(Device& device) { device.reporter.reset(); }

bool has_host_calls() {
  return driver.aclrtLaunchHostFunc != nullptr ||
         (driver.aclrtLaunchCallback != nullptr && driver.aclrtSubscribeReport != nullptr &&
          driver.aclrtUnSubscribeReport != nullptr && driver.aclrtProcessReport != nullptr);
}

namespace {

// It stays until a reset or the end.
Reporter* reporter_of(Device& device) {
  const std::lock_guard<std::mutex> lock(device.mutex);
  return device.reporter.get();
}

}  // namespace

void stop_serving(Stream& stream) {
  Device& device = *stream.device;
  Reporter* reporter = reporter_of(device);
  if (reporter == nullptr) return;
  if (device.calls.are_in(stream.handle)) (void)succeeds(driver.aclrtSynchronizeStream(stream.handle));
  reporter->unsubscribe(stream);
}

void finish_serving(Device& device) {
  if (device.reporter == nullptr) return;
  const Entered entered(device);
  for (const aclrtStream stream : device.reporter->foreign()) {
    if (device.calls.are_in(stream)) (void)succeeds(driver.aclrtSynchronizeStream(stream));
  }
}

namespace {

// In the device's context. One call on a stream at a time.
aclError launch(Stream& stream, aclrtCallback function, void* user) {
  if (driver.aclrtLaunchHostFunc != nullptr) return driver.aclrtLaunchHostFunc(stream.handle, function, user);
  Device& device = *stream.device;
  {
    const std::lock_guard<std::mutex> lock(device.mutex);
    if (device.reporter == nullptr) device.reporter = std::make_unique<Reporter>(device);
  }
  const aclError code = reporter_of(device)->subscribe(stream);
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
  void* call = device.calls.add(stream.handle, function, user);
  status = enqueue(stream, [&] { return launch(stream, StreamCalls::run, call); });
  return status == UNIFY_OK || !device.calls.take_back(call) ? UNIFY_OK : status;
}

}  // namespace unify::ascend
