// What is not served, by name; and what reports to the profiler, which never turns it on: acl_profiler.cpp.
#include <chrono>
#include <functional>
#include <string_view>

#include "hccl.h"
#include "messages.h"

using namespace unify::simulator;

// Their arguments are not looked at: in C a caller may pass more than a function takes.
#define REFUSED(name) \
  UNIFY_SIMULATOR_EXPORT aclError name() { return refuse_call(#name); }
#define REFUSED_NUMBER(name, type, value) \
  UNIFY_SIMULATOR_EXPORT type name() {    \
    refuse_call(#name);                   \
    return value;                         \
  }
#include "refused.inc"

// A profiler would call the function back to say that it is on.
UNIFY_SIMULATOR_EXPORT int32_t MsprofRegisterCallback(uint32_t, void*) { return 0; }

UNIFY_SIMULATOR_EXPORT uint64_t MsprofGetHashId(const char* text, size_t length) {
  return text == nullptr ? 0 : std::hash<std::string_view>()({text, length});
}

UNIFY_SIMULATOR_EXPORT uint64_t MsprofSysCycleTime() {
  return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}
