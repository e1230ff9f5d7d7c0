#include "trace_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "error.h"
#include "trace_json.h"

namespace unify {
namespace {

constexpr size_t kPiece = size_t{1} << 16;
std::mutex opening;
std::string* wanted_path = nullptr;

// Beside `path`, with the process in its name: "unify-trace.json" → "unify-trace.1234.json".
std::string own_path(const std::string& path) {
  const size_t slash = path.rfind('/');
  const size_t dot = path.rfind('.');
  const bool has_suffix = dot != std::string::npos && (slash == std::string::npos || dot > slash + 1) && dot > 0;
  const std::string stem = has_suffix ? path.substr(0, dot) : path;
  return stem + "." + std::to_string(::getpid()) + (has_suffix ? path.substr(dot) : std::string());
}

// -1 where it cannot be written. out_is_taken: another process does.
int open_alone(const std::string& path, bool* out_is_taken) {
  const int file = ::open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0666);
  *out_is_taken = file >= 0 && ::flock(file, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  if (file >= 0 && !*out_is_taken && ::ftruncate(file, 0) == 0) return file;
  const int why = errno;
  if (file >= 0) ::close(file);
  errno = why;
  return -1;
}

}  // namespace

std::atomic<TraceFile*> TraceFile::current_{nullptr};

void TraceFile::set_path(const std::string& path) {
  const std::lock_guard<std::mutex> lock(opening);
  if (wanted_path == nullptr) wanted_path = new std::string;
  *wanted_path = path;
}

TraceFile& TraceFile::open() {
  const std::lock_guard<std::mutex> lock(opening);
  if (current() == nullptr) {
    const bool has_path = wanted_path != nullptr && !wanted_path->empty();
    current_.store(new TraceFile(has_path ? *wanted_path : "unify-trace.json"), std::memory_order_release);
  }
  return *current();
}

TraceFile::TraceFile(const std::string& path) : process_(::getpid()), path_(path), pieces_(kTraceBegin) {
  bool is_taken = false;
  file_ = open_alone(path_, &is_taken);
  if (is_taken) {
    path_ = own_path(path);
    file_ = open_alone(path_, &is_taken);
  }
  if (file_ < 0) {
    throw Error(ErrorKind::kInvalidArgument, "layer 'trace': " + path_ + " cannot be written: " + std::strerror(errno) +
                                                 ". UNIFY_TRACE_FILE names another file.");
  }
  write();
}

void TraceFile::add_host_span(const std::string& name, const char* category, int64_t begin_ns, int64_t end_ns,
                              const std::string& args) {
  const uint32_t thread = thread_id();
  std::string event;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (named_threads_.insert(thread).second) add_track_name(event, "thread_name", 0, thread, thread_name(thread));
  add_span(event, name, category, 0, thread, begin_ns, end_ns - begin_ns, args);
  add_locked(event);
}

void TraceFile::add(const std::string& events) {
  const std::lock_guard<std::mutex> lock(mutex_);
  add_locked(events);
}

void TraceFile::add_locked(const std::string& events) {
  if (file_ < 0 || written_ + pieces_.size() + events.size() > kMaxBytes) {
    ++dropped_;
    return;
  }
  pieces_ += events;
  if (pieces_.size() >= kPiece) write();
}

void TraceFile::drop(size_t count) {
  const std::lock_guard<std::mutex> lock(mutex_);
  dropped_ += count;
}

size_t TraceFile::next_process() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return ++processes_;
}

void TraceFile::flush() {
  const std::lock_guard<std::mutex> lock(mutex_);
  write();
}

// The piece goes over the last one's end.
void TraceFile::write() {
  if (file_ < 0 || ::getpid() != process_) return;
  const std::string text = pieces_ + "\n],\"otherData\":{\"dropped\":\"" + std::to_string(dropped_) + "\"}}\n";
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t count = ::pwrite(file_, text.data() + done, text.size() - done, static_cast<off_t>(written_ + done));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      std::fprintf(stderr, "unify trace: %s: %s; the trace ends here\n", path_.c_str(), std::strerror(errno));
      ::close(file_);
      file_ = -1;
      return;
    }
    done += static_cast<size_t>(count);
  }
  written_ += pieces_.size();
  pieces_.clear();
}

}  // namespace unify
