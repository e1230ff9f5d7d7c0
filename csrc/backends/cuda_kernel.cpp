// Modules, functions and launches.
#include "cuda_backend.h"
#include "cuda_image.h"

namespace unify::cuda {
namespace {

constexpr uint64_t kSharedByDefault =
    48 << 10;                             // more has to be requested: CUDA C++ Programming Guide, "Shared Memory"
constexpr unsigned kPortableCluster = 8;  // likewise, "Thread Block Clusters"

unify_status module_load(unify_device handle, const unify_module_args* args, unify_module* out) {
  Device& device = *of(handle);
  bool is_text = false;
  if (const std::string why = why_not_an_image(args->image, args->bytes, is_text); !why.empty()) {
    return refuse(UNIFY_INVALID_ARGUMENT, why);
  }
  const std::string text = is_text ? std::string(static_cast<const char*>(args->image), args->bytes) : std::string();
  const void* image = is_text ? text.c_str() : args->image;
  auto module = std::make_unique<Module>();
  module->device = &device;
  std::string log(8192, '\0');  // of the compiler, for PTX
  int options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
  void* values[] = {log.data(), reinterpret_cast<void*>(log.size() - 1)};
  const unify_status status =
      run(device, [&] { return driver.cuModuleLoadDataEx(&module->handle, image, 2, options, values); });
  log.resize(std::strlen(log.c_str()));
  if (status != UNIFY_OK) return log.empty() ? status : add_to_message(log);
  *out = reinterpret_cast<unify_module>(module.release());
  return UNIFY_OK;
}

unify_status module_unload(unify_module handle) {
  const std::unique_ptr<Module> module(of(handle));
  return run(*module->device, [&] { return driver.cuModuleUnload(module->handle); });
}

int attribute(const Function& function, int which) {
  int value = 0;
  driver.cuFuncGetAttribute(&value, which, function.handle);
  return value;
}

// Tells the driver of more dynamic shared memory than it gives unasked.
CUresult allow_shared(Function& function, uint64_t bytes) {
  if (bytes <= function.shared_limit.load(std::memory_order_relaxed)) return CUDA_SUCCESS;
  const std::lock_guard<std::mutex> lock(function.mutex);
  if (bytes <= function.shared_limit.load(std::memory_order_relaxed)) return CUDA_SUCCESS;
  const CUresult code = driver.cuFuncSetAttribute(function.handle, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                                  static_cast<int>(bytes));
  if (code == CUDA_SUCCESS) function.shared_limit.store(bytes, std::memory_order_relaxed);
  return code;
}

// The module's function over the driver's, made at its first use.
Function& function_over(Module& module, CUfunction handle) {
  const std::lock_guard<std::mutex> lock(module.mutex);
  for (const std::unique_ptr<Function>& known : module.functions) {
    if (known->handle == handle) return *known;
  }
  module.functions.push_back(std::make_unique<Function>());
  Function& function = *module.functions.back();
  function.device = module.device;
  function.handle = handle;
  const auto fixed = static_cast<uint64_t>(attribute(function, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES));
  function.shared_limit = fixed < kSharedByDefault ? kSharedByDefault - fixed : 0;
  return function;
}

unify_status function_get(unify_module handle, unify_function_args* args, unify_function* out) {
  Module& module = *of(handle);
  return run(*module.device, [&] {
    CUfunction found = nullptr;
    const CUresult code = driver.cuModuleGetFunction(&found, module.handle, args->name);
    if (code != CUDA_SUCCESS) return code;
    Function& function = function_over(module, found);
    args->max_threads = static_cast<uint32_t>(attribute(function, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK));
    args->registers = static_cast<uint32_t>(attribute(function, CU_FUNC_ATTRIBUTE_NUM_REGS));
    args->local_bytes = static_cast<uint64_t>(attribute(function, CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES));
    *out = reinterpret_cast<unify_function>(&function);
    return allow_shared(function, args->shared_bytes);
  });
}

// What only few launches have: returns how many attributes.
unsigned set_attributes(const unify_launch_args& args, CUlaunchAttribute (&attributes)[3]) {
  unsigned count = 0;
  if (args.cluster[0] != 0) {
    CUlaunchAttribute& cluster = attributes[count++];
    cluster.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    cluster.value.clusterDim = {args.cluster[0], args.cluster[1], args.cluster[2]};
  }
  if ((args.flags & UNIFY_LAUNCH_COOPERATIVE) != 0) {
    CUlaunchAttribute& cooperative = attributes[count++];
    cooperative.id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
    cooperative.value.cooperative = 1;
  }
  if ((args.flags & UNIFY_LAUNCH_OVERLAPPING) != 0) {
    CUlaunchAttribute& overlapping = attributes[count++];
    overlapping.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    overlapping.value.programmaticStreamSerializationAllowed = 1;
  }
  return count;
}

unify_status launch(unify_stream handle, unify_function f, const unify_launch_args* args) {
  Stream& stream = *of(handle);
  Function& function = *of(f);
  const bool has_block = args->block[0] != 0;
  CUlaunchConfig config{};
  config.gridDimX = args->grid[0];
  config.gridDimY = args->grid[1];
  config.gridDimZ = args->grid[2];
  config.blockDimX = has_block ? args->block[0] : args->threads;
  config.blockDimY = has_block ? args->block[1] : 1;
  config.blockDimZ = has_block ? args->block[2] : 1;
  config.sharedMemBytes = static_cast<unsigned>(args->shared_bytes);
  config.hStream = stream.handle;
  CUlaunchAttribute attributes[3];
  config.attrs = attributes;
  config.numAttrs = set_attributes(*args, attributes);
  size_t bytes = args->args_bytes;
  void* extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, const_cast<void*>(args->args), CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes,
                   CU_LAUNCH_PARAM_END};
  return run(
      *stream.device,
      [&] {
        CUresult code = allow_shared(function, args->shared_bytes);
        const unsigned cluster = args->cluster[0] * args->cluster[1] * args->cluster[2];
        if (code == CUDA_SUCCESS && cluster > kPortableCluster) {
          code = driver.cuFuncSetAttribute(function.handle, CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1);
        }
        return code != CUDA_SUCCESS ? code : driver.cuLaunchKernelEx(&config, function.handle, nullptr, extra);
      },
      args->operation);
}

}  // namespace

void add_kernels(unify_backend& table) {
  table.module_load = module_load;
  table.module_unload = module_unload;
  table.function_get = function_get;
  table.launch = launch;
}

}  // namespace unify::cuda
