#include "launch.h"

#include <algorithm>
#include <cstring>

namespace unify::simulator {
namespace {

constexpr int kRegisterFile = 65536;
constexpr int kSharedDefault = 49152;
constexpr unsigned kPortableCluster = 8;
constexpr unsigned kLargestCluster = 16;
constexpr int kDefaultRegisters = 32;

uint64_t volume(const unsigned (&extent)[3]) { return uint64_t{extent[0]} * extent[1] * extent[2]; }

int shared_limit(const CudaFunction& function) {
  return chip_of(*function.context->device).shared_optin - function.shared_bytes;
}

}  // namespace

int CudaFunction::max_threads() const {
  const int each = registers == 0 ? kDefaultRegisters : (registers + 7) / 8 * 8;
  return std::min(1024, kRegisterFile / each / 32 * 32);
}

CUresult read_attribute(const CudaFunction& function, CUfunction_attribute attribute, int& out) {
  const int capability = chip_of(*function.context->device).capability;
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
      out = function.max_threads();
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
      out = function.shared_bytes;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_NUM_REGS:
      out = function.registers;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
      out = capability;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
      out = function.max_dynamic_shared;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
      out = function.carveout;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED:
      out = function.allows_large_clusters ? 1 : 0;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
      out = function.scheduling;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES:
    case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES:
    case CU_FUNC_ATTRIBUTE_CACHE_MODE_CA:
    case CU_FUNC_ATTRIBUTE_CLUSTER_SIZE_MUST_BE_SET:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH:
      out = 0;
      return CUDA_SUCCESS;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult write_attribute(CudaFunction& function, CUfunction_attribute attribute, int value) {
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
      if (value < 0 || value > shared_limit(function)) return CUDA_ERROR_INVALID_VALUE;
      function.max_dynamic_shared = value;
      function.has_max_dynamic_shared = true;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
      if (value < -1 || value > 100) return CUDA_ERROR_INVALID_VALUE;
      function.carveout = value;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED:
      if (chip_of(*function.context->device).capability < 90) return CUDA_ERROR_NOT_SUPPORTED;
      function.allows_large_clusters = value != 0;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
      function.scheduling = value;
      return CUDA_SUCCESS;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

namespace {

CUresult read_attributes(const CUlaunchConfig& config, const CudaFunction& function, LaunchShape& out) {
  if (config.numAttrs > 0 && config.attrs == nullptr) return CUDA_ERROR_INVALID_VALUE;
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const CUlaunchAttribute& attribute = config.attrs[i];
    switch (static_cast<int>(attribute.id)) {
      case CU_LAUNCH_ATTRIBUTE_COOPERATIVE:
        out.is_cooperative = attribute.value.cooperative != 0;
        break;
      case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION:
        out.cluster[0] = attribute.value.clusterDim.x;
        out.cluster[1] = attribute.value.clusterDim.y;
        out.cluster[2] = attribute.value.clusterDim.z;
        if (chip_of(*function.context->device).capability < 90) return CUDA_ERROR_NOT_SUPPORTED;
        break;
      case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION:  // work here runs in order, which it allows
        if (chip_of(*function.context->device).capability < 90) return CUDA_ERROR_NOT_SUPPORTED;
        break;
      case CU_LAUNCH_ATTRIBUTE_IGNORE:
      case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
      case CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY:
      case CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
      case CU_LAUNCH_ATTRIBUTE_PRIORITY:
      case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN:
      case CU_LAUNCH_ATTRIBUTE_PREFERRED_CLUSTER_DIMENSION:
      case CU_LAUNCH_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
        break;
      default:
        return CUDA_ERROR_INVALID_VALUE;
    }
  }
  return CUDA_SUCCESS;
}

CUresult check_cluster(const CudaFunction& function, const LaunchShape& shape) {
  const uint64_t size = volume(shape.cluster);
  if (size == 0) return CUDA_ERROR_INVALID_VALUE;
  for (int axis = 0; axis < 3; ++axis) {
    if (shape.grid[axis] % shape.cluster[axis] != 0) return CUDA_ERROR_INVALID_VALUE;
  }
  const unsigned most = function.allows_large_clusters ? kLargestCluster : kPortableCluster;
  return size > most ? CUDA_ERROR_INVALID_CLUSTER_SIZE : CUDA_SUCCESS;
}

// All blocks of a cooperative launch are on the chip at a time.
CUresult check_cooperative(const CudaFunction& function, const LaunchShape& shape) {
  const Chip& chip = chip_of(*function.context->device);
  const auto threads = static_cast<int>(volume(shape.block));
  const int shared = static_cast<int>(shape.shared_bytes) + function.shared_bytes + 1024;
  const int each = std::min({chip.blocks_per_processor, chip.threads_per_processor / std::max(threads, 1),
                             (chip.shared_optin + 1024) / shared});
  const auto most = static_cast<uint64_t>(each) * static_cast<uint64_t>(chip.processors);
  return volume(shape.grid) > most ? CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE : CUDA_SUCCESS;
}

}  // namespace

CUresult read_shape(const CUlaunchConfig& config, const CudaFunction& function, LaunchShape& out) {
  out = LaunchShape{{config.gridDimX, config.gridDimY, config.gridDimZ},
                    {config.blockDimX, config.blockDimY, config.blockDimZ}};
  out.shared_bytes = config.sharedMemBytes;
  if (const CUresult result = read_attributes(config, function, out); result != CUDA_SUCCESS) return result;
  constexpr unsigned kMostBlocks[] = {2147483647, 65535, 65535};
  constexpr unsigned kMostThreads[] = {1024, 1024, 64};
  for (int axis = 0; axis < 3; ++axis) {
    if (out.grid[axis] == 0 || out.grid[axis] > kMostBlocks[axis]) return CUDA_ERROR_INVALID_VALUE;
    if (out.block[axis] == 0 || out.block[axis] > kMostThreads[axis]) return CUDA_ERROR_INVALID_VALUE;
  }
  if (volume(out.block) > 1024) return CUDA_ERROR_INVALID_VALUE;
  if (volume(out.block) > static_cast<uint64_t>(function.max_threads())) return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
  const int shared_most = std::min(std::max(function.max_dynamic_shared, 0), shared_limit(function));
  if (out.shared_bytes > static_cast<unsigned>(shared_most) ||
      (!function.has_max_dynamic_shared &&
       static_cast<int>(out.shared_bytes) + function.shared_bytes > kSharedDefault)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (const CUresult result = check_cluster(function, out); result != CUDA_SUCCESS) return result;
  return out.is_cooperative ? check_cooperative(function, out) : CUDA_SUCCESS;
}

CUresult pack_parameters(const CudaFunction& function, void** parameters, void** extra, std::vector<char>& out) {
  const KernelImage& kernel = function.kernel;
  if (parameters != nullptr && extra != nullptr) return CUDA_ERROR_INVALID_VALUE;
  out.assign(kernel.args_bytes, 0);
  if (parameters != nullptr) {
    for (size_t i = 0; i < kernel.parameters.size(); ++i) {
      if (parameters[i] == nullptr) return CUDA_ERROR_INVALID_VALUE;
      std::memcpy(out.data() + kernel.parameters[i].offset, parameters[i], kernel.parameters[i].bytes);
    }
    return CUDA_SUCCESS;
  }
  const void* buffer = nullptr;
  const size_t* size = nullptr;
  for (void** each = extra; each != nullptr && reinterpret_cast<uintptr_t>(*each) != kLaunchParamEnd; each += 2) {
    switch (reinterpret_cast<uintptr_t>(*each)) {
      case kLaunchParamBufferPointer:
        buffer = each[1];
        break;
      case kLaunchParamBufferSize:
        size = static_cast<const size_t*>(each[1]);
        break;
      default:
        return CUDA_ERROR_INVALID_VALUE;
    }
  }
  const size_t bytes = size == nullptr ? 0 : *size;
  if (bytes < kernel.args_bytes || (bytes > 0 && buffer == nullptr)) return CUDA_ERROR_INVALID_VALUE;
  if (kernel.args_bytes > 0) std::memcpy(out.data(), buffer, kernel.args_bytes);
  return CUDA_SUCCESS;
}

Operation make_launch(const std::shared_ptr<CudaFunction>& function, const LaunchShape& shape, std::vector<char> args) {
  Operation operation;
  operation.kind = OperationKind::kKernel;
  operation.is_cooperative = shape.is_cooperative;
  // A cluster is one program.
  uint32_t grid[3];
  for (int axis = 0; axis < 3; ++axis) grid[axis] = shape.grid[axis] / shape.cluster[axis];
  operation.run = [function, x = grid[0], y = grid[1], z = grid[2], args = std::move(args)](Stream&) {
    return run_kernel(*function, {x, y, z}, args);
  };
  return operation;
}

}  // namespace unify::simulator
