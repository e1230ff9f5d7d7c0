// ACL's functions for the runtime itself: start and end, versions, options, errors.
#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "acl.h"
#include "calls.h"
#include "chips.h"

using namespace unify::simulator;

namespace {

constexpr char kCannVersion[] = "9.0.0";                 // what torch_npu 2.13, whose headers say 1.17.0, is made for
constexpr char kDriverVersion[] = "25.5.0 (simulated)";  // the one place where ACL says what a device is
constexpr int kAclVersion[] = {1, 17, 0};

bool is_package(const char* name) {
  for (const char* known : {"CANN", "runtime", "compiler", "hccl", "toolkit", "opp", "opp_kernel"}) {
    if (std::strcmp(name, known) == 0) return true;
  }
  return false;
}

std::map<int, std::string>& compile_options() {
  static auto* const all = new std::map<int, std::string>;
  return *all;
}

Result check_option(aclSysParamOpt option, int64_t value) {
  if (option > ACL_OPT_STRONG_CONSISTENCY) return ACL_ERROR_INVALID_PARAM;
  const int64_t most = option == ACL_OPT_DETERMINISTIC ? 3 : 1;  // levels of determinism; off or on
  return value < 0 || value > most ? ACL_ERROR_RT_PARAM_INVALID : ACL_SUCCESS;
}

}  // namespace

// Of the file, which turns on dumps and profiles, nothing is done here. The vendor asks for this call before all
// others, and says that what goes without it may go wrong; its runtime (src/acl/aclrt_impl) looks only before dumps
// whether it was made, and goes on after aclFinalize. So does this.
UNIFY_SIMULATOR_EXPORT aclError aclInit(const char*) {
  return with_driver("aclInit", [&](Call&) -> Result {
    note_start();
    return ++acl().initialized == 1 ? ACL_SUCCESS : ACL_ERROR_REPEAT_INITIALIZE;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclFinalize() {
  return with_driver("aclFinalize", [&](Call&) -> Result {
    if (acl().initialized == 0) return ACL_ERROR_REPEAT_FINALIZE;
    acl().initialized = 0;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclFinalizeReference(uint64_t* out) {
  return with_driver("aclFinalizeReference", [&](Call&) -> Result {
    if (acl().initialized == 0) return ACL_ERROR_REPEAT_FINALIZE;
    --acl().initialized;
    if (out != nullptr) *out = acl().initialized;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtGetVersion(int32_t* major, int32_t* minor, int32_t* patch) {
  return with_driver("aclrtGetVersion", [&](Call&) -> Result {
    if (major == nullptr || minor == nullptr || patch == nullptr) return ACL_ERROR_INVALID_PARAM;
    *major = kAclVersion[0];
    *minor = kAclVersion[1];
    *patch = kAclVersion[2];
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclsysGetVersionStr(char* package, char* out) {
  return with_driver("aclsysGetVersionStr", [&](Call&) -> Result {
    if (package == nullptr || out == nullptr) return ACL_ERROR_INVALID_PARAM;
    const bool is_driver = std::strcmp(package, "driver") == 0;
    if (!is_driver && !is_package(package)) return ACL_ERROR_INVALID_FILE;  // it is not installed
    std::snprintf(out, ACL_PKG_VERSION_MAX_SIZE, "%s", is_driver ? kDriverVersion : kCannVersion);
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclsysGetCANNVersion(aclCANNPackageName name, aclCANNPackageVersion* out) {
  return with_driver("aclsysGetCANNVersion", [&](Call&) -> Result {
    if (out == nullptr || name > ACL_PKG_NAME_DRIVER) return ACL_ERROR_INVALID_PARAM;
    *out = {};
    const bool is_driver = name == ACL_PKG_NAME_DRIVER;
    std::snprintf(out->version, sizeof out->version, "%s", is_driver ? kDriverVersion : kCannVersion);
    std::snprintf(out->majorVersion, sizeof out->majorVersion, "%s", is_driver ? "25" : "9");
    std::snprintf(out->minorVersion, sizeof out->minorVersion, is_driver ? "5" : "0");
    std::snprintf(out->releaseVersion, sizeof out->releaseVersion, "0");
    return ACL_SUCCESS;
  });
}

// As it is: torch_npu looks it up in a list.
UNIFY_SIMULATOR_EXPORT const char* aclrtGetSocName() {
  if (availability() != ACL_SUCCESS) return nullptr;
  const Lock lock(driver().mutex);
  return open_devices() == ACL_SUCCESS ? chip_at(driver().settings.chip).soc : nullptr;
}

UNIFY_SIMULATOR_EXPORT aclError aclrtGetRunMode(aclrtRunMode* out) {
  return with_driver("aclrtGetRunMode", [&](Call&) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    *out = ACL_HOST;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT const char* aclGetRecentErrMsg() { return take_messages(); }

UNIFY_SIMULATOR_EXPORT aclError aclrtPeekAtLastError(aclrtLastErrLevel level) {
  return level == ACL_RT_THREAD_LEVEL ? last_error(false) : ACL_ERROR_INVALID_PARAM;
}

UNIFY_SIMULATOR_EXPORT aclError aclrtGetLastError(aclrtLastErrLevel level) {
  return level == ACL_RT_THREAD_LEVEL ? last_error(true) : ACL_ERROR_INVALID_PARAM;
}

// What the chips that are simulated have all of: infinities and NaN, bf16, kernels compiled at run time.
UNIFY_SIMULATOR_EXPORT aclError aclGetCannAttribute(aclCannAttr attribute, int32_t* out) {
  return with_driver("aclGetCannAttribute", [&](Call&) -> Result {
    if (out == nullptr || attribute < ACL_CANN_ATTR_INF_NAN || attribute > ACL_CANN_ATTR_JIT_COMPILE) {
      return ACL_ERROR_INVALID_PARAM;
    }
    *out = 1;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtSetSysParamOpt(aclSysParamOpt option, int64_t value) {
  return with_driver("aclrtSetSysParamOpt", [&](Call&) -> Result {
    if (const Result result = check_option(option, value); result != ACL_SUCCESS) return result;
    acl().options[option] = value;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtGetSysParamOpt(aclSysParamOpt option, int64_t* out) {
  return with_driver("aclrtGetSysParamOpt", [&](Call&) -> Result {
    if (out == nullptr || option > ACL_OPT_STRONG_CONSISTENCY) return ACL_ERROR_INVALID_PARAM;
    *out = acl().options[option];
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtCtxSetSysParamOpt(aclSysParamOpt option, int64_t value) {
  return with_context("aclrtCtxSetSysParamOpt", [&](Call& call) -> Result {
    if (const Result result = check_option(option, value); result != ACL_SUCCESS) return result;
    of(*call.context).options[option] = acl().options[option] = value;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtCtxGetSysParamOpt(aclSysParamOpt option, int64_t* out) {
  return with_context("aclrtCtxGetSysParamOpt", [&](Call& call) -> Result {
    if (out == nullptr || option > ACL_OPT_STRONG_CONSISTENCY) return ACL_ERROR_INVALID_PARAM;
    const auto& options = of(*call.context).options;
    const auto found = options.find(option);
    if (found == options.end()) return ACL_ERROR_RT_SYSPARAMOPT_NOT_SET;
    *out = found->second;
    return ACL_SUCCESS;
  });
}

// Of the compiler of operators, which is not here: they are kept for who asks again.
UNIFY_SIMULATOR_EXPORT aclError aclSetCompileopt(aclCompileOpt option, const char* value) {
  return with_driver("aclSetCompileopt", [&](Call&) -> Result {
    if (value == nullptr) return ACL_ERROR_INVALID_PARAM;
    compile_options()[static_cast<int>(option)] = value;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclGetCompileopt(aclCompileOpt option, char* out, size_t length) {
  return with_driver("aclGetCompileopt", [&](Call&) -> Result {
    const std::string& value = compile_options()[static_cast<int>(option)];
    if (out == nullptr || length <= value.size()) return ACL_ERROR_INVALID_PARAM;
    std::memcpy(out, value.c_str(), value.size() + 1);
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT size_t aclGetCompileoptSize(aclCompileOpt option) {
  size_t size = 0;
  with_driver("aclGetCompileoptSize", [&](Call&) -> Result {
    size = compile_options()[static_cast<int>(option)].size() + 1;
    return ACL_SUCCESS;
  });
  return size;
}

// Without the vendor's log on the host, what is an error goes to stderr and the rest nowhere.
UNIFY_SIMULATOR_EXPORT void aclAppLog(aclLogLevel level, const char* function, const char* file, uint32_t line,
                                      const char* format, ...) {
  if (level < ACL_ERROR || format == nullptr) return;
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  std::fprintf(stderr, "%s:%u: %s: %s\n", file == nullptr ? "?" : file, line, function == nullptr ? "?" : function,
               text);
}
