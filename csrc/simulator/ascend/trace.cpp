#include "trace.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <mutex>
#include <string>

#include "configure.h"
#include "json.h"
#include "parts.h"

namespace unify::simulator {
namespace {

constexpr size_t kPart = size_t{64} << 10;  // what a thread keeps before it writes

struct Part {
  std::mutex mutex;
  std::string lines;
};
Parts<Part>& parts() {
  static auto* const all = new Parts<Part>;
  return *all;
}

std::atomic<int> file{-1};

// In one call where it can be: lines of several threads must not mix. The file is open for appending.
void flush(Part& part) {
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  size_t done = 0;
  while (done < part.lines.size()) {
    const ssize_t written = write(file.load(), part.lines.data() + done, part.lines.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) break;
    done += static_cast<size_t>(written);
  }
  if (done < part.lines.size()) {
    std::perror("the trace of the simulated device");
    file.store(-1);
  }
  part.lines.clear();
}

int64_t nanoseconds(Time time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}

}  // namespace

bool is_tracing() noexcept { return file.load(std::memory_order_relaxed) >= 0; }

void start_trace() {
  const std::string folder = variable("UNIFY_SIMULATED_TRACE");
  if (folder.empty()) return;
  const std::string path = folder + "/" + std::to_string(getpid()) + ".jsonl";
  file.store(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600));
  if (!is_tracing()) std::perror(path.c_str());
}

void flush_trace() {
  if (!is_tracing()) return;
  parts().for_each([](Part& part) {
    const std::lock_guard<std::mutex> lock(part.mutex);
    flush(part);
  });
}

void trace(const TraceEvent& event) {
  thread_local Part* const part = parts().add();
  const int64_t begin = nanoseconds(event.begin);
  const std::lock_guard<std::mutex> lock(part->mutex);
  std::string& out = part->lines;
  out += "{\"name\":";
  append_json(out, event.name);
  out += ",\"device\":" + std::to_string(event.device) + ",\"stream\":" + std::to_string(event.stream) +
         ",\"begin\":" + std::to_string(begin) + ",\"ns\":" + std::to_string(nanoseconds(event.end) - begin);
  if (event.bytes != 0) out += ",\"bytes\":" + std::to_string(event.bytes);
  if (event.result != kSuccess) out += ",\"result\":" + std::to_string(event.result);
  out += "}\n";
  if (out.size() >= kPart) flush(*part);
}

}  // namespace unify::simulator
