// What is not served, by name; and what reports to the profiler, which never turns it on: acl_profiler.cpp.
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string_view>

#include "hccl.h"
#include "messages.h"

using namespace unify::simulator;

namespace {

// torch_npu looks for one of the older operators where it finds no aclnn function.
aclError refuse_operator(const char* name) noexcept {
  char text[128];
  std::snprintf(text, sizeof text, "operator %s", name);
  return refuse_call(text);
}

}  // namespace

// Their arguments are not looked at: in C a caller may pass more than a function takes.
#define REFUSED(name) \
  UNIFY_SIMULATOR_EXPORT aclError name() { return refuse_call(#name); }
#define REFUSED_POINTER(name)           \
  UNIFY_SIMULATOR_EXPORT void* name() { \
    refuse_call(#name);                 \
    return nullptr;                     \
  }
#define REFUSED_NUMBER(name, type, value) \
  UNIFY_SIMULATOR_EXPORT type name() {    \
    refuse_call(#name);                   \
    return value;                         \
  }
#define REFUSED_OPERATOR(name)                                                     \
  UNIFY_SIMULATOR_EXPORT aclError name(const char* operation) {                    \
    return operation == nullptr ? refuse_call(#name) : refuse_operator(operation); \
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
