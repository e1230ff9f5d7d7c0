// ACL's functions of the profiler. A simulated device has no times of a chip's to tell: nothing of it is written, and
// the program is told so. What a framework notes of its own host beside it goes on.
#include <cstdio>

#include "acl.h"
#include "calls.h"

struct aclprofConfig {};  // what it asks for is not there

using namespace unify::simulator;

namespace {

struct Profiler {
  bool is_initialized = false;
  const aclprofConfig* running = nullptr;
  bool has_told = false;
};

Profiler& profiler() {
  static auto* const made = new Profiler;
  return *made;
}

void tell_once() {
  if (std::exchange(profiler().has_told, true)) return;
  std::fputs(
      "The simulated device has no profile: the trace is of the host alone. `unify simulate ascend --trace` "
      "writes the order of the work on the streams.\n",
      stderr);
}

}  // namespace

UNIFY_SIMULATOR_EXPORT aclError aclprofInit(const char* path, size_t length) {
  return with_driver("aclprofInit", [&](Call&) -> Result {
    if (path == nullptr || length == 0) return ACL_ERROR_INVALID_PARAM;
    if (profiler().is_initialized) return ACL_ERROR_PROF_ALREADY_RUN;
    profiler().is_initialized = true;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclprofFinalize() {
  return with_driver("aclprofFinalize", [&](Call&) -> Result {
    if (!profiler().is_initialized) return ACL_ERROR_PROF_NOT_RUN;
    profiler().is_initialized = false;
    profiler().running = nullptr;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclprofConfig* aclprofCreateConfig(uint32_t* devices, uint32_t count, aclprofAicoreMetrics,
                                                          const aclprofAicoreEvents*, uint64_t) {
  aclprofConfig* made = nullptr;
  with_driver("aclprofCreateConfig", [&](Call&) -> Result {
    if (devices == nullptr && count > 0) return ACL_ERROR_INVALID_PARAM;
    for (uint32_t i = 0; i < count; ++i) {
      if (find_device(static_cast<int32_t>(devices[i])) == nullptr) return ACL_ERROR_RT_INVALID_DEVICEID;
    }
    made = new aclprofConfig;
    return ACL_SUCCESS;
  });
  return made;
}

UNIFY_SIMULATOR_EXPORT aclError aclprofDestroyConfig(const aclprofConfig* config) {
  return with_driver("aclprofDestroyConfig", [&](Call&) -> Result {
    if (config == nullptr || config == profiler().running) return ACL_ERROR_INVALID_PARAM;
    delete config;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclprofStart(const aclprofConfig* config) {
  return with_driver("aclprofStart", [&](Call&) -> Result {
    if (config == nullptr) return ACL_ERROR_INVALID_PARAM;
    if (!profiler().is_initialized) return ACL_ERROR_PROF_NOT_RUN;
    if (profiler().running != nullptr) return ACL_ERROR_PROF_ALREADY_RUN;
    profiler().running = config;
    tell_once();
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclprofStop(const aclprofConfig* config) {
  return with_driver("aclprofStop", [&](Call&) -> Result {
    if (config == nullptr) return ACL_ERROR_INVALID_PARAM;
    if (profiler().running != config) return ACL_ERROR_PROF_NOT_RUN;
    profiler().running = nullptr;
    return ACL_SUCCESS;
  });
}
