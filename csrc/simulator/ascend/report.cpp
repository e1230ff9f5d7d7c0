#include "report.h"

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <fstream>
#include <map>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "calls.h"
#include "chips.h"
#include "json.h"
#include "parts.h"
#include "trace.h"

namespace unify::simulator {
namespace {

constexpr auto kBetweenSaves = std::chrono::milliseconds(200);

struct Work {
  uint64_t count = 0;
  uint64_t failed = 0;
  uint64_t bytes = 0;
  uint64_t nanoseconds = 0;

  void add(const Work& other) {
    count += other.count;
    failed += other.failed;
    bytes += other.bytes;
    nanoseconds += other.nanoseconds;
  }
};

using Works = std::map<std::string, Work, std::less<>>;
using Counts = std::map<std::string, uint64_t, std::less<>>;

// What one thread counts.
struct Part {
  std::mutex mutex;
  Works kernels;
  Works copies;  // fills too
  Works others;  // graphs, functions of the host
  Counts calls;
  std::map<std::pair<std::string, Result>, uint64_t> failures;
};
Parts<Part>& parts() {
  static auto* const all = new Parts<Part>;
  return *all;
}
Part& mine() {
  thread_local Part* const part = parts().add();
  return *part;
}

// Of the file; empty: none is asked for. Never destroyed: it is written after the end of such objects.
std::string& path() {
  static auto* const made = new std::string;
  return *made;
}
pid_t owner = 0;  // who writes it: no child of fork
bool is_set = false;

const char* name_of(Direction direction) {
  switch (direction) {
    case Direction::kHostToHost:
      return "host to host";
    case Direction::kHostToDevice:
      return "host to device";
    case Direction::kDeviceToHost:
      return "device to host";
    case Direction::kWithinDevice:
      return "within a device";
    case Direction::kBetweenDevices:
      return "between devices";
  }
  return "";
}

const char* name_of(const Operation& operation) {
  switch (operation.kind) {
    case OperationKind::kKernel:
      return operation.name.c_str();
    case OperationKind::kCopy:
      return name_of(operation.direction);
    case OperationKind::kFill:
      return "fill";
    case OperationKind::kGraph:
      return "graph";
    case OperationKind::kHostCall:
      return "function on the host";
    case OperationKind::kEmpty:
      return "wait";
  }
  return "";
}

void count_work(const Operation& operation, Time begin, Time end, Result result) {
  Part& part = mine();
  const std::lock_guard<std::mutex> lock(part.mutex);
  const bool is_copy = operation.kind == OperationKind::kCopy || operation.kind == OperationKind::kFill;
  Works& works = operation.kind == OperationKind::kKernel ? part.kernels : is_copy ? part.copies : part.others;
  const auto taken = std::chrono::duration_cast<std::chrono::nanoseconds>(end - begin).count();
  const char* name = name_of(operation);
  auto found = works.find(name);
  if (found == works.end()) found = works.emplace(name, Work{}).first;
  found->second.add({1, result == kSuccess ? 0U : 1U, operation.bytes, static_cast<uint64_t>(taken)});
}

void see(int device, int stream, const Operation& operation, Time begin, Time end, Result result) {
  if (is_reporting.load(std::memory_order_relaxed)) count_work(operation, begin, end, result);
  if (is_tracing()) trace({device, stream, name_of(operation), begin, end, operation.bytes, result});
}

void look(const Stream& stream, const Operation& operation, Time begin, Time end, Result result) {
  see(stream.context->device->index, static_cast<const AclStream&>(stream).id, operation, begin, end, result);
}

// ---------------------------------------------------------------- the file

void write(Json& json, const char* key, const Works& works) {
  json.begin_object(key);
  for (const auto& [name, work] : works) {
    json.begin_object(name);
    json.add("count", work.count);
    json.add("failed", work.failed);
    json.add("bytes", work.bytes);
    json.add("nanoseconds", work.nanoseconds);
    json.end_object();
  }
  json.end_object();
}

void write_counts(Json& json) {
  Part all;
  parts().for_each([&](Part& part) {
    const std::lock_guard<std::mutex> lock(part.mutex);
    for (const auto& [name, work] : part.kernels) all.kernels[name].add(work);
    for (const auto& [name, work] : part.copies) all.copies[name].add(work);
    for (const auto& [name, work] : part.others) all.others[name].add(work);
    for (const auto& [name, count] : part.calls) all.calls[name] += count;
    for (const auto& [failure, count] : part.failures) all.failures[failure] += count;
  });
  write(json, "kernels", all.kernels);
  write(json, "copies", all.copies);
  write(json, "others", all.others);
  json.begin_object("calls");
  for (const auto& [name, count] : all.calls) json.add(name, count);
  json.end_object();
  json.begin_array("failures");
  for (const auto& [failure, count] : all.failures) {
    json.begin_object();
    json.add("call", failure.first);
    json.add("result", static_cast<uint64_t>(failure.second));
    json.add("reason", std::string(reason_of(failure.second)));
    json.add("count", count);
    json.end_object();
  }
  json.end_array();
}

// The process ends: whoever holds the mutex may be gone for good.
bool lock_at_end(Lock& lock) {
  for (int i = 0; i < 100 && !lock.try_lock(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  return lock.owns_lock();
}

void write_devices(Json& json) {
  Lock lock(driver().mutex, std::defer_lock);
  if (!lock_at_end(lock)) return;
  json.add("chip", std::string(chip_at(driver().settings.chip).model));
  json.begin_array("devices");
  for (const auto& device : driver().devices) {
    json.begin_object();
    json.add("memory_bytes", device->arena.total());
    json.add("peak_bytes", device->arena.peak());
    json.end_object();
  }
  json.end_array();
  json.begin_array("faults_left");
  for (const auto& device : driver().devices) {
    for (const std::string& plan : device->faults.left()) json.add(std::to_string(device->index) + ":" + plan);
  }
  json.end_array();
}

std::string command_line() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  while (!text.empty() && text.back() == '\0') text.pop_back();
  for (char& each : text) each = each == '\0' ? ' ' : each;
  return text;
}

// What cannot be written is said: who reads it takes an empty file for a process that was killed.
bool write_report(bool is_end) {
  Json json;
  json.begin_object();
  json.add("pid", static_cast<uint64_t>(owner));
  json.add("command", command_line());
  json.add("ended", static_cast<uint64_t>(is_end));
  write_devices(json);
  write_counts(json);
  json.end_object();
  const std::string unfinished = path() + ".part";
  std::ofstream file(unfinished, std::ios::binary);
  file << json.text() << '\n';
  file.close();
  const bool is_written = file && std::rename(unfinished.c_str(), path().c_str()) == 0;
  if (!is_written) std::perror(path().c_str());
  return is_written;
}

// Returns whether there is more to come.
bool save(bool is_end) {
  static std::mutex mutex;
  static bool is_over = false;
  const std::lock_guard<std::mutex> lock(mutex);
  if (is_over) return false;
  is_over = is_end;
  flush_trace();
  if (!path().empty() && !write_report(is_end)) is_over = true;
  return !is_over;
}

// A thread to which no signal of the program's goes.
void save_now_and_then() {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    std::thread([] {
      do {
        std::this_thread::sleep_for(kBetweenSaves);
      } while (save(false));
    }).detach();
  } catch (const std::system_error&) {  // then at the end only
    std::perror("the report of the simulated device");
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

// The vendor's programs end after the functions that they registered with atexit, and this after them: a library's
// destructors follow those of the libraries that need it.
__attribute__((destructor)) void on_exit() {
  if (owner == getpid()) save(true);
}

}  // namespace

void start_report() {
  if (std::exchange(is_set, true)) return;
  owner = getpid();
  if (const std::string folder = variable("UNIFY_SIMULATED_REPORT"); !folder.empty()) {
    path() = folder + "/" + std::to_string(owner) + ".json";
    if (const int file = open(path().c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600); file >= 0) {
      close(file);
      is_reporting.store(true);
    } else {
      std::perror(path().c_str());
      path().clear();
    }
  }
  start_trace();
  if (!is_reporting && !is_tracing()) return;
  observer.store(look);
  save_now_and_then();
}

void add_call(const char* name) {
  Part& part = mine();
  const std::lock_guard<std::mutex> lock(part.mutex);
  auto found = part.calls.find(name);  // without a string of its own
  if (found == part.calls.end()) found = part.calls.emplace(name, 0).first;
  ++found->second;
}

void add_failure(const char* call, Result result) {
  Part& part = mine();
  const std::lock_guard<std::mutex> lock(part.mutex);
  ++part.failures[{call, result}];
}

Result watch(const Context& context, const Operation& operation) {
  if (observer.load(std::memory_order_relaxed) == nullptr) return operation.run(*context.legacy);
  const Time begin = std::chrono::steady_clock::now();
  const Result result = operation.run(*context.legacy);
  see(context.device->index, -1, operation, begin, std::chrono::steady_clock::now(), result);
  return result;
}

}  // namespace unify::simulator
