// The words of a trace file: Chrome's trace event format, which Perfetto opens. Each event begins with ",\n", so that
// they follow one another, and the first of a file follows what begins it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace unify {

// What opens a file; it names the process 0, "host". After the events comes "\n]", what else is to be said, and "}".
constexpr const char* kTraceBegin =
    "{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":0,\"tid\":0,"
    "\"args\":{\"name\":\"host\"}}";

std::string json_escaped(const std::string& text);

// The calling thread's, as tools show it.
uint32_t thread_id();
std::string thread_name(uint32_t thread);  // "main", "thread 123"

// `args`: members of an object, `"bytes":8,"status":"OK"`, or nothing.
void add_span(std::string& json, const std::string& name, const char* category, size_t process, uint32_t thread,
              int64_t begin_ns, int64_t duration_ns, const std::string& args = {});

// `what`: "process_name" or "thread_name".
void add_track_name(std::string& json, const char* what, size_t process, uint32_t thread, const std::string& name);

}  // namespace unify
