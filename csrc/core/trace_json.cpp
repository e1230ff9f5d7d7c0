#include "trace_json.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>

namespace unify {

std::string json_escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    if (static_cast<unsigned char>(c) < 0x20) {
      char code[8];
      std::snprintf(code, sizeof code, "\\u%04x", static_cast<unsigned>(c));
      result += code;
    } else {
      result += c;
    }
  }
  return result;
}

uint32_t thread_id() { return static_cast<uint32_t>(::syscall(SYS_gettid)); }  // glibc before 2.30 has no gettid

std::string thread_name(uint32_t thread) {
  return thread == static_cast<uint32_t>(::getpid()) ? "main" : "thread " + std::to_string(thread);
}

void add_span(std::string& json, const std::string& name, const char* category, size_t process, uint32_t thread,
              int64_t begin_ns, int64_t duration_ns, const std::string& args) {
  char numbers[160];
  std::snprintf(numbers, sizeof numbers,
                "\",\"cat\":\"%s\",\"ph\":\"X\",\"pid\":%zu,\"tid\":%u,\"ts\":%.3f,\"dur\":%.3f", category, process,
                thread, static_cast<double>(begin_ns) * 1e-3, static_cast<double>(duration_ns) * 1e-3);
  json += ",\n{\"name\":\"" + json_escaped(name) + numbers;
  if (!args.empty()) json += ",\"args\":{" + args + "}";
  json += '}';
}

void add_track_name(std::string& json, const char* what, size_t process, uint32_t thread, const std::string& name) {
  json += std::string(",\n{\"name\":\"") + what + "\",\"ph\":\"M\",\"pid\":" + std::to_string(process) +
          ",\"tid\":" + std::to_string(thread) + ",\"args\":{\"name\":\"" + json_escaped(name) + "\"}}";
}

}  // namespace unify
