#include "messages.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <iterator>
#include <mutex>
#include <set>
#include <utility>

#include "hccl.h"
#include "report.h"

namespace unify::simulator {
namespace {

struct Reason {
  Result result;
  const char* text;
};
constexpr Reason kReasons[] = {
#define RESULT(name, value, text) {name, text},
#include "acl_results.inc"
#include "hccl_results.inc"
#undef RESULT
    {161001, "ACLNN_ERR_PARAM_NULLPTR"},  // of the library of operators: aclnn_base.h
    {161002, "ACLNN_ERR_PARAM_INVALID"},
};

// A thread that never asks does not collect texts without end.
constexpr size_t kMostBytes = 16384;

thread_local Result last = kSuccess;
thread_local std::string detail;
thread_local std::string messages;
thread_local std::string given;

// The number that the vendor's messages begin with (error code reference of the runtime).
const char* prefix_of(Result result) noexcept {
  switch (result) {
    case ACL_ERROR_RT_MEMORY_ALLOCATION:
    case ACL_ERROR_RT_DEVICE_OOM:
      return "EL0004: Failed to allocate memory.";
    case ACL_ERROR_RT_PARAM_INVALID:
    case ACL_ERROR_INVALID_PARAM:
    case ACL_ERROR_RT_INVALID_DEVICEID:
    case ACL_ERROR_RT_INVALID_HANDLE:
      return "EE1001: The argument is invalid.";
    case ACL_ERROR_RT_FEATURE_NOT_SUPPORT:
    case ACL_ERROR_API_NOT_SUPPORT:
      return "EE1006: Not supported.";
    case ACL_ERROR_RT_AICORE_EXCEPTION:
    case ACL_ERROR_RT_AICORE_TIMEOUT:
    case ACL_ERROR_RT_VECTOR_CORE_EXCEPTION:
    case ACL_ERROR_RT_VECTOR_CORE_TIMEOUT:
      return "EZ9999: Inner Error!";
    default:
      return "EE9999: Inner Error!";
  }
}

// Questions to which there may be no answer: the vendor's runtime says nothing more of that.
bool is_question(const std::string& call) {
  return call == "aclrtGetDevice" || call == "aclrtGetCurrentContext" || call == "aclrtCtxGetSysParamOpt" ||
         call == "aclsysGetVersionStr";
}

std::string compose(const char* call, Result result) {
  const time_t now = std::time(nullptr);
  tm local{};
  localtime_r(&now, &local);
  char when[40];
  std::strftime(when, sizeof when, "%Y-%m-%d-%H:%M:%S", &local);
  std::string text = prefix_of(result);
  text += "\n        [PID: " + std::to_string(getpid()) + "] " + when + " (simulated device)";
  if (!detail.empty()) text += " " + detail;
  text += "\n        TraceBack (most recent call last):\n       " + std::string(call) + " execute failed, reason=[" +
          reason_of(result) + "]\n";
  return text;
}

}  // namespace

const char* reason_of(Result result) noexcept {
  const auto* found =
      std::find_if(std::begin(kReasons), std::end(kReasons), [&](const Reason& each) { return each.result == result; });
  return found == std::end(kReasons) ? "unknown error" : found->text;
}

Result refuse(Result result, std::string why) {
  detail = std::move(why);
  return result;
}

std::string take_reason() { return std::exchange(detail, {}); }

Result finish(const char* call, Result result) noexcept {
  if (result == kSuccess) return result;
  last = result;
  try {
    if (is_question(call)) return result;
    count_failure(call, result);
    messages = compose(call, result) + messages;
    if (messages.size() > kMostBytes) messages.resize(kMostBytes);
    detail.clear();
  } catch (const std::exception&) {  // without memory, without a text
  }
  return result;
}

Result refuse_call(const char* call) noexcept {
  try {
    static std::mutex mutex;
    static auto* const named = new std::set<std::string>;
    {
      const std::lock_guard<std::mutex> lock(mutex);
      if (named->insert(call).second) std::fprintf(stderr, "%s is not served by the simulated device\n", call);
    }
    return finish(
        call, refuse(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, std::string(call) + " is not served by the simulated device"));
  } catch (const std::exception&) {
    return ACL_ERROR_RT_FEATURE_NOT_SUPPORT;
  }
}

Result last_error(bool forgets) noexcept {
  const Result result = last;
  if (forgets) last = kSuccess;
  return result;
}

const char* take_messages() noexcept {
  given.swap(messages);
  messages.clear();
  return given.empty() ? nullptr : given.c_str();
}

}  // namespace unify::simulator
