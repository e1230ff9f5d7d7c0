// ACL's functions for binaries and their kernels.
#include <cstdio>
#include <cstring>
#include <memory>

#include "acl.h"
#include "calls.h"
#include "launch.h"

using namespace unify::simulator;

namespace {

bool is_magic(uint32_t value) {
  return value == ACL_RT_BINARY_MAGIC_ELF_AICORE || value == ACL_RT_BINARY_MAGIC_ELF_VECTOR_CORE ||
         value == ACL_RT_BINARY_MAGIC_ELF_CUBE_CORE;
}

Result read_options(const aclrtBinaryLoadOptions* options, uint32_t& magic) {
  magic = ACL_RT_BINARY_MAGIC_ELF_AICORE;
  if (options == nullptr) return ACL_SUCCESS;
  if (options->numOpt > 0 && options->options == nullptr) return ACL_ERROR_RT_PARAM_INVALID;
  for (size_t i = 0; i < options->numOpt; ++i) {
    const aclrtBinaryLoadOption& option = options->options[i];
    switch (option.type) {
      case ACL_RT_BINARY_LOAD_OPT_LAZY_LOAD:
        break;
      case ACL_RT_BINARY_LOAD_OPT_MAGIC:
        if (!is_magic(option.value.magic)) return refuse(ACL_ERROR_RT_PARAM_INVALID, "The magic of the binary.");
        magic = option.value.magic;
        break;
      case ACL_RT_BINARY_LOAD_OPT_CPU_KERNEL_MODE:
        return refuse(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "Kernels for AI CPUs.");
      default:
        return ACL_ERROR_RT_PARAM_INVALID;
    }
  }
  return ACL_SUCCESS;
}

template <typename Work>
aclError with_function(const char* name, aclrtFuncHandle handle, Work&& work) {
  return with_driver(name, [&](Call& call) -> Result {
    const std::shared_ptr<AclFunction> function = find_function(handle);
    if (handle == nullptr || function == nullptr) return refuse(ACL_ERROR_RT_INVALID_HANDLE, "The kernel is unknown.");
    if (const Result result = admit(call, function->context); result != ACL_SUCCESS) return result;
    return work(*function);
  });
}

}  // namespace

UNIFY_SIMULATOR_EXPORT aclError aclrtBinaryLoadFromData(const void* data, size_t bytes,
                                                        const aclrtBinaryLoadOptions* options, aclrtBinHandle* out) {
  return with_context("aclrtBinaryLoadFromData", [&](Call& call) -> Result {
    uint32_t magic = 0;
    if (data == nullptr || bytes == 0 || out == nullptr) return ACL_ERROR_INVALID_PARAM;
    if (const Result result = read_options(options, magic); result != ACL_SUCCESS) return result;
    return load_binary(call, data, bytes, magic, *out);
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtBinaryLoadFromFile(const char* path, aclrtBinaryLoadOptions* options,
                                                        aclrtBinHandle* out) {
  return with_context("aclrtBinaryLoadFromFile", [&](Call& call) -> Result {
    uint32_t magic = 0;
    if (path == nullptr || out == nullptr) return ACL_ERROR_INVALID_PARAM;
    if (const Result result = read_options(options, magic); result != ACL_SUCCESS) return result;
    const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path, "rb"), std::fclose);
    if (file == nullptr) return refuse(ACL_ERROR_RT_FILE_OPEN, path);
    std::vector<char> content;
    char part[65536];
    for (size_t got = 0; (got = std::fread(part, 1, sizeof part, file.get())) > 0;) {
      content.insert(content.end(), part, part + got);
    }
    return load_binary(call, content.data(), content.size(), magic, *out);
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtBinaryUnLoad(aclrtBinHandle handle) {
  return with_context("aclrtBinaryUnLoad", [&](Call&) -> Result {
    const std::shared_ptr<Module> module = driver().modules.find(handle);
    if (handle == nullptr || module == nullptr) return refuse(ACL_ERROR_RT_INVALID_HANDLE, "The binary is unknown.");
    for (const uintptr_t function : module->handles) driver().functions.remove(function);
    driver().modules.remove(handle);  // launches under way hold what they run
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtBinaryGetFunction(const aclrtBinHandle handle, const char* name,
                                                       aclrtFuncHandle* out) {
  return with_context("aclrtBinaryGetFunction", [&](Call&) -> Result {
    if (name == nullptr || out == nullptr) return ACL_ERROR_INVALID_PARAM;
    if (handle == nullptr || driver().modules.find(handle) == nullptr) return ACL_ERROR_RT_INVALID_HANDLE;
    const uintptr_t function = function_of(handle, name);
    if (function == 0)
      return refuse(ACL_ERROR_RT_KERNEL_LOOKUP, std::string("The binary has no kernel '") + name + "'.");
    *out = reinterpret_cast<aclrtFuncHandle>(function);
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtGetFunctionAddr(aclrtFuncHandle handle, void** cube, void** vector) {
  return with_function("aclrtGetFunctionAddr", handle, [&](const AclFunction& function) -> Result {
    if (cube == nullptr || vector == nullptr) return ACL_ERROR_INVALID_PARAM;
    void* const address = reinterpret_cast<void*>(static_cast<uintptr_t>(function.code->address));
    *cube = function.magic == ACL_RT_BINARY_MAGIC_ELF_VECTOR_CORE ? nullptr : address;
    *vector = function.magic == ACL_RT_BINARY_MAGIC_ELF_CUBE_CORE ? nullptr : address;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtGetFunctionName(aclrtFuncHandle handle, uint32_t most, char* out) {
  return with_function("aclrtGetFunctionName", handle, [&](const AclFunction& function) -> Result {
    const std::string& name = function.kernel.name;
    if (out == nullptr || most <= name.size()) return ACL_ERROR_RT_PARAM_INVALID;
    std::memcpy(out, name.c_str(), name.size() + 1);
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtGetFunctionAttribute(aclrtFuncHandle handle, aclrtFuncAttribute attribute,
                                                          int64_t* out) {
  return with_function("aclrtGetFunctionAttribute", handle, [&](const AclFunction& function) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    if (attribute != ACL_FUNC_ATTR_KERNEL_TYPE) {
      return refuse(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "Kernel attribute " + std::to_string(attribute) + ".");
    }
    *out = function.magic == ACL_RT_BINARY_MAGIC_ELF_VECTOR_CORE ? ACL_KERNEL_TYPE_VECTOR
           : function.magic == ACL_RT_BINARY_MAGIC_ELF_CUBE_CORE ? ACL_KERNEL_TYPE_CUBE
                                                                 : ACL_KERNEL_TYPE_MIX;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtFunctionGetBinary(const aclrtFuncHandle handle, aclrtBinHandle* out) {
  return with_function("aclrtFunctionGetBinary", handle, [&](const AclFunction& function) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    *out = reinterpret_cast<aclrtBinHandle>(function.module);
    return ACL_SUCCESS;
  });
}
