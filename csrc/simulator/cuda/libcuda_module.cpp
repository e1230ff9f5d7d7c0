// The driver's functions for modules and launches.
#include <cstdio>
#include <cstring>

#include "calls.h"
#include "cubin.h"
#include "launch.h"
#include "libcuda.h"
#include "simulator/graph.h"

using namespace unify::simulator;

namespace {

// Every function of this driver is one.
std::shared_ptr<CudaFunction> find_function(CUfunction handle) {
  return std::static_pointer_cast<CudaFunction>(driver().functions.find(handle));
}

template <typename Work>
CUresult with_function(const char* name, CUfunction handle, Work&& work) {
  return with_driver(name, [&](Call& call) -> Result {
    const std::shared_ptr<CudaFunction> function = find_function(handle);
    if (function == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (const Result result = admit(call, function->context); result != CUDA_SUCCESS) return result;
    return work(*function);
  });
}

// The options CU_JIT_INFO_LOG_BUFFER (3) and CU_JIT_ERROR_LOG_BUFFER (5), with their sizes (4 and 6).
void write_log(const std::string& why, unsigned count, const CUjit_option* options, void** values) {
  constexpr int kErrorLog = 5;
  constexpr int kErrorLogBytes = 6;
  char* log = nullptr;
  size_t bytes = 0;
  for (unsigned i = 0; i < count; ++i) {
    if (static_cast<int>(options[i]) == kErrorLog) log = static_cast<char*>(values[i]);
    if (static_cast<int>(options[i]) == kErrorLogBytes) bytes = reinterpret_cast<uintptr_t>(values[i]);
  }
  if (log != nullptr && bytes > 0) std::snprintf(log, bytes, "%s", why.c_str());
}

}  // namespace

UNIFY_SIMULATOR_EXPORT CUresult cuModuleLoadDataEx(CUmodule* out, const void* image, unsigned count,
                                                   CUjit_option* options, void** values) {
  return with_context("cuModuleLoadDataEx", [&](Call& call) -> Result {
    if (out == nullptr || image == nullptr || (count > 0 && (options == nullptr || values == nullptr))) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    if (const Result result = check_unsafe(); result != CUDA_SUCCESS) return result;
    std::vector<CubinKernel> kernels;
    std::string why;
    const CUresult result = read_image(image, call.context->device->chip, kernels, why);
    if (result != CUDA_SUCCESS) {
      write_log(why, count, options, values);
      return result;
    }
    auto module = std::make_shared<Module>();
    module->context = call.context;
    for (CubinKernel& each : kernels) {
      auto function = std::make_shared<CudaFunction>();
      function->context = call.context;
      function->kernel = std::move(each.kernel);
      function->registers = each.registers;
      function->shared_bytes = each.shared_bytes;
      module->handles.push_back(driver().functions.add<uintptr_t>(function));
      module->functions.push_back(std::move(function));
    }
    *out = driver().modules.add<CUmodule>(std::move(module));
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuModuleUnload(CUmodule handle) {
  return with_context("cuModuleUnload", [&](Call&) -> Result {
    const std::shared_ptr<Module> module = driver().modules.find(handle);
    if (module == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (const Result result = check_unsafe(); result != CUDA_SUCCESS) return result;
    for (const uintptr_t function : module->handles) driver().functions.remove(function);
    driver().modules.remove(handle);  // launches under way hold what they run
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuModuleGetFunction(CUfunction* out, CUmodule handle, const char* name) {
  return with_context("cuModuleGetFunction", [&](Call&) {
    if (out == nullptr || name == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const std::shared_ptr<Module> module = driver().modules.find(handle);
    if (module == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    for (size_t i = 0; i < module->functions.size(); ++i) {
      if (module->functions[i]->kernel.name != name) continue;
      *out = reinterpret_cast<CUfunction>(module->handles[i]);
      return CUDA_SUCCESS;
    }
    return CUDA_ERROR_NOT_FOUND;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuFuncGetAttribute(int* out, CUfunction_attribute attribute, CUfunction handle) {
  return with_function("cuFuncGetAttribute", handle, [&](const CudaFunction& function) {
    return out == nullptr ? CUDA_ERROR_INVALID_VALUE : read_attribute(function, attribute, *out);
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuFuncSetAttribute(CUfunction handle, CUfunction_attribute attribute, int value) {
  return with_function("cuFuncSetAttribute", handle,
                       [&](CudaFunction& function) { return write_attribute(function, attribute, value); });
}

UNIFY_SIMULATOR_EXPORT CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction handle, void** parameters,
                                                 void** extra) {
  if (config == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return with_stream("cuLaunchKernelEx", config->hStream, [&](Call& call, Stream& stream) -> Result {
    const std::shared_ptr<CudaFunction> function = find_function(handle);
    if (function == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    // "A kernel launch will fail if it is issued to a stream that is not associated to the current device": CUDA
    // programming guide, "Stream and event behavior".
    std::shared_ptr<Context> current;
    if (const Result result = current_context(current); result != CUDA_SUCCESS) return result;
    if (stream.context != current || function->context != current) return CUDA_ERROR_INVALID_HANDLE;
    LaunchShape shape;
    if (const CUresult result = read_shape(*config, *function, shape); result != CUDA_SUCCESS) return result;
    std::vector<char> args;
    if (const CUresult result = pack_parameters(*function, parameters, extra, args); result != CUDA_SUCCESS) {
      return result;
    }
    return submit(call, stream, make_launch(function, shape, std::move(args)));
  });
}
