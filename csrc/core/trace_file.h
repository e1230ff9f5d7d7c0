// The file of the layer "trace": written a piece at a time, and after each piece whole JSON, so that a program which
// dies leaves what it did until then.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <set>
#include <string>

namespace unify {

class TraceFile {
 public:
  // Beyond it events are counted only: "dropped" in the file's otherData.
  static constexpr size_t kMaxBytes = size_t{1} << 30;

  // Where it is going to be, before it is opened. Default: "unify-trace.json" in the working directory.
  static void set_path(const std::string& path);
  // Opens it at the first call. While another process writes to the path, such as the one that started this one, it
  // becomes "NAME.PID.json" beside it. Throws InvalidArgument if it cannot be written.
  static TraceFile& open();
  // Null until it is opened.
  static TraceFile* current() noexcept { return current_.load(std::memory_order_acquire); }

  // A span of the calling thread. `args` as for add_span.
  void add_host_span(const std::string& name, const char* category, int64_t begin_ns, int64_t end_ns,
                     const std::string& args = {});
  // Events as trace_json.h makes them.
  void add(const std::string& events);
  void drop(size_t count);
  // A number for a device's process in the file.
  size_t next_process();
  void flush();

 private:
  explicit TraceFile(const std::string& path);
  void add_locked(const std::string& events);
  void write();
  static std::atomic<TraceFile*> current_;
  std::mutex mutex_;
  int file_ = -1;
  int process_;  // a child that was forked does not write to its parent's file
  std::string path_;
  std::string pieces_;  // not written yet
  size_t written_ = 0;
  size_t dropped_ = 0;
  size_t processes_ = 0;
  std::set<uint32_t> named_threads_;
};

}  // namespace unify
