// ACL's functions that launch kernels, and those of the runtime under it that Huawei's own programs call besides.
#include <algorithm>
#include <cstring>

#include "acl.h"
#include "calls.h"
#include "launch.h"
#include "rt.h"

using namespace unify::simulator;

namespace {

Result check_config(const aclrtLaunchKernelCfg* config) {
  if (config == nullptr) return ACL_SUCCESS;
  if (config->numAttrs > 0 && config->attrs == nullptr) return ACL_ERROR_RT_PARAM_INVALID;
  bool has_seconds = false;
  bool has_microseconds = false;
  for (size_t i = 0; i < config->numAttrs; ++i) {
    const aclrtLaunchKernelAttrId id = config->attrs[i].id;
    if (id < ACL_RT_LAUNCH_KERNEL_ATTR_SCHEM_MODE || id > ACL_RT_LAUNCH_KERNEL_ATTR_TIMEOUT_US) {
      return refuse(ACL_ERROR_RT_PARAM_INVALID, "Launch attribute " + std::to_string(id) + ".");
    }
    if (id == ACL_RT_LAUNCH_KERNEL_ATTR_BLOCKDIM_OFFSET) {
      return refuse(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "Launches from a later block on.");
    }
    has_seconds = has_seconds || id == ACL_RT_LAUNCH_KERNEL_ATTR_TIMEOUT;
    has_microseconds = has_microseconds || id == ACL_RT_LAUNCH_KERNEL_ATTR_TIMEOUT_US;
  }
  return has_seconds && has_microseconds ? ACL_ERROR_RT_PARAM_INVALID : ACL_SUCCESS;
}

// What lies behind the arguments in the same block is reached by pointers among them: the block goes to the device.
Result place(const Stream& stream, const aclrtPlaceHolderInfo* holders, size_t count, Arguments& arguments) {
  std::vector<char>& block = arguments.host;
  Device& device = *stream.context->device;
  const uint64_t bytes = round_up(block.size(), kPage);
  const uint64_t address = device.arena.take(bytes, kPage);
  if (address == 0) return ACL_ERROR_RT_MEMORY_ALLOCATION;
  auto range = std::make_shared<Range>();
  range->block = std::make_shared<Block>(device.arena, address, bytes);
  range->address = address;
  range->bytes = range->asked_bytes = bytes;
  range->alias = device.arena.alias(address);
  range->device = device.index;
  range->access = 1U << device.index;
  for (size_t i = 0; i < count; ++i) {
    if (block.size() < 8 || holders[i].addrOffset > block.size() - 8 || holders[i].dataOffset >= block.size()) {
      return refuse(ACL_ERROR_RT_PARAM_INVALID, "A placeholder lies outside of the arguments.");
    }
    const uint64_t target = address + holders[i].dataOffset;
    std::memcpy(block.data() + holders[i].addrOffset, &target, sizeof target);
  }
  std::memcpy(range->alias, block.data(), block.size());
  driver().memory.add(range);
  // Until the launch is over, or the graph that it is in: work is let go with the mutex.
  arguments.kept = std::shared_ptr<Range>(range.get(), [range](Range*) { driver().memory.remove(range); });
  return ACL_SUCCESS;
}

Result launch_from_device(Call& call, Stream& stream, aclrtFuncHandle handle, uint32_t blocks, const void* args,
                          size_t bytes) {
  if (args == nullptr && bytes > 0) return ACL_ERROR_INVALID_PARAM;
  Arguments arguments;
  arguments.host.resize(bytes);
  arguments.device = reinterpret_cast<uintptr_t>(args);
  return submit_launch(call, stream, find_function(handle), blocks, std::move(arguments));
}

Arguments copy_of(const void* args, size_t bytes) {
  Arguments arguments;
  arguments.host.assign(static_cast<const char*>(args), static_cast<const char*>(args) + bytes);
  return arguments;
}

// The list that aclrtKernelArgsAppend makes: each argument at a multiple of 8.
struct KernelArguments {
  std::vector<char> bytes;
  std::vector<std::pair<size_t, size_t>> parts;  // offset, size
  bool is_whole = false;
};

Registry<KernelArguments>& lists() {
  static auto* const all = new Registry<KernelArguments>(0xa1000000);
  return *all;
}

// Kernels by any address that a program names them by.
std::map<const void*, aclrtFuncHandle>& stubs() {
  static auto* const all = new std::map<const void*, aclrtFuncHandle>;
  return *all;
}

}  // namespace

UNIFY_SIMULATOR_EXPORT aclError aclrtGetHardwareSyncAddr(void** out) {
  return with_context("aclrtGetHardwareSyncAddr", [&](Call& call) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    *out = reinterpret_cast<void*>(static_cast<uintptr_t>(sync_address(*call.context->device)));
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtLaunchKernel(aclrtFuncHandle function, uint32_t blocks, const void* args,
                                                  size_t bytes, aclrtStream handle) {
  return with_work("aclrtLaunchKernel", handle, [&](Call& call, Stream& stream) {
    return launch_from_device(call, stream, function, blocks, args, bytes);
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtLaunchKernelV2(aclrtFuncHandle function, uint32_t blocks, const void* args,
                                                    size_t bytes, aclrtLaunchKernelCfg* config, aclrtStream handle) {
  return with_work("aclrtLaunchKernelV2", handle, [&](Call& call, Stream& stream) -> Result {
    if (const Result result = check_config(config); result != ACL_SUCCESS) return result;
    return launch_from_device(call, stream, function, blocks, args, bytes);
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtLaunchKernelWithHostArgs(aclrtFuncHandle function, uint32_t blocks,
                                                              aclrtStream handle, aclrtLaunchKernelCfg* config,
                                                              void* args, size_t bytes, aclrtPlaceHolderInfo* holders,
                                                              size_t holder_count) {
  return with_work("aclrtLaunchKernelWithHostArgs", handle, [&](Call& call, Stream& stream) -> Result {
    if (args == nullptr || bytes == 0 || (holders == nullptr && holder_count > 0)) return ACL_ERROR_INVALID_PARAM;
    if (const Result result = check_config(config); result != ACL_SUCCESS) return result;
    Arguments arguments = copy_of(args, bytes);
    if (holder_count > 0) {
      if (const Result result = place(stream, holders, holder_count, arguments); result != ACL_SUCCESS) return result;
    }
    return submit_launch(call, stream, find_function(function), blocks, std::move(arguments));
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtLaunchKernelWithConfig(aclrtFuncHandle function, uint32_t blocks,
                                                            aclrtStream handle, aclrtLaunchKernelCfg* config,
                                                            aclrtArgsHandle list_handle, void*) {
  return with_work("aclrtLaunchKernelWithConfig", handle, [&](Call& call, Stream& stream) -> Result {
    if (const Result result = check_config(config); result != ACL_SUCCESS) return result;
    const std::shared_ptr<KernelArguments> list = lists().find(list_handle);
    if (list == nullptr || !list->is_whole)
      return refuse(ACL_ERROR_RT_PARAM_INVALID, "The arguments are not finalized.");
    Arguments arguments;
    arguments.host = list->bytes;
    lists().remove(list_handle);  // "managed by the system"
    return submit_launch(call, stream, find_function(function), blocks, std::move(arguments));
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtKernelArgsInit(aclrtFuncHandle function, aclrtArgsHandle* out) {
  return with_context("aclrtKernelArgsInit", [&](Call&) -> Result {
    if (out == nullptr) return ACL_ERROR_INVALID_PARAM;
    if (find_function(function) == nullptr) return ACL_ERROR_RT_INVALID_HANDLE;
    *out = lists().add<aclrtArgsHandle>(std::make_shared<KernelArguments>());
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtKernelArgsAppend(aclrtArgsHandle handle, void* value, size_t bytes,
                                                      aclrtParamHandle* out) {
  return with_context("aclrtKernelArgsAppend", [&](Call&) -> Result {
    const std::shared_ptr<KernelArguments> list = lists().find(handle);
    if (list == nullptr || list->is_whole) return ACL_ERROR_RT_INVALID_HANDLE;
    if (value == nullptr || bytes == 0 || out == nullptr) return ACL_ERROR_INVALID_PARAM;
    const size_t offset = list->bytes.size();
    list->bytes.resize(offset + round_up(bytes, 8));
    std::memcpy(list->bytes.data() + offset, value, bytes);
    list->parts.emplace_back(offset, bytes);
    *out = reinterpret_cast<aclrtParamHandle>(list->parts.size());
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtKernelArgsParaUpdate(aclrtArgsHandle handle, aclrtParamHandle part, void* value,
                                                          size_t bytes) {
  return with_context("aclrtKernelArgsParaUpdate", [&](Call&) -> Result {
    const std::shared_ptr<KernelArguments> list = lists().find(handle);
    const auto number = reinterpret_cast<uintptr_t>(part);
    if (list == nullptr || number == 0 || number > list->parts.size()) return ACL_ERROR_RT_INVALID_HANDLE;
    const auto [offset, size] = list->parts[number - 1];
    if (value == nullptr || bytes != size) return ACL_ERROR_RT_PARAM_INVALID;
    std::memcpy(list->bytes.data() + offset, value, bytes);
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError aclrtKernelArgsFinalize(aclrtArgsHandle handle) {
  return with_context("aclrtKernelArgsFinalize", [&](Call&) -> Result {
    const std::shared_ptr<KernelArguments> list = lists().find(handle);
    if (list == nullptr) return ACL_ERROR_RT_INVALID_HANDLE;
    list->is_whole = true;
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError rtDevBinaryRegister(const rtDevBinary_t* binary, void** out) {
  return with_context("rtDevBinaryRegister", [&](Call& call) -> Result {
    if (binary == nullptr || binary->data == nullptr || out == nullptr) return ACL_ERROR_RT_PARAM_INVALID;
    return load_binary(call, binary->data, binary->length, binary->magic, *out);
  });
}

UNIFY_SIMULATOR_EXPORT aclError rtFunctionRegister(void* binary, const void* stub, const char*, const void* name,
                                                   uint32_t) {
  return with_context("rtFunctionRegister", [&](Call&) -> Result {
    if (stub == nullptr || name == nullptr) return ACL_ERROR_RT_PARAM_INVALID;
    const uintptr_t function = function_of(binary, static_cast<const char*>(name));
    if (function == 0) return ACL_ERROR_RT_KERNEL_LOOKUP;
    stubs()[stub] = reinterpret_cast<aclrtFuncHandle>(function);
    return ACL_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT aclError rtKernelLaunch(const void* stub, uint32_t blocks, void* args, uint32_t bytes, void*,
                                               void* handle) {
  return with_work("rtKernelLaunch", handle, [&](Call& call, Stream& stream) -> Result {
    const auto found = stubs().find(stub);
    if (found == stubs().end()) return refuse(ACL_ERROR_RT_KERNEL_LOOKUP, "No kernel is registered under this stub.");
    if (args == nullptr && bytes > 0) return ACL_ERROR_RT_PARAM_INVALID;
    return submit_launch(call, stream, find_function(found->second), blocks, copy_of(args, bytes));
  });
}

UNIFY_SIMULATOR_EXPORT aclError rtGetC2cCtrlAddr(uint64_t* out, uint32_t* length) {
  return with_context("rtGetC2cCtrlAddr", [&](Call& call) -> Result {
    if (out == nullptr || length == nullptr) return ACL_ERROR_RT_PARAM_INVALID;
    *out = sync_address(*call.context->device);
    *length = 0;
    return ACL_SUCCESS;
  });
}
