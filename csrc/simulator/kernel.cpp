#include "kernel.h"

#include <sys/mman.h>
#include <unify/host_kernel.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "backends/host_fault.h"
#include "driver.h"

namespace unify::simulator {
namespace {

constexpr int kRegisterFile = 65536;
constexpr int kSharedDefault = 49152;
constexpr unsigned kPortableCluster = 8;
constexpr unsigned kLargestCluster = 16;
constexpr int kDefaultRegisters = 32;

uint64_t volume(const unsigned (&extent)[3]) { return uint64_t{extent[0]} * extent[1] * extent[2]; }

int shared_limit(const Function& function) {
  return function.context->device->chip.shared_optin - function.kernel.shared_bytes;
}

// Scratch memory of a stream's thread, kept for its next program.
void* scratch(uint64_t bytes) {
  struct Arena {
    ~Arena() { std::free(memory); }
    void* memory = nullptr;
    uint64_t bytes = 0;
  };
  thread_local Arena arena;
  if (bytes <= arena.bytes) return arena.memory;
  std::free(arena.memory);
  arena.bytes = 0;
  if (posix_memalign(&arena.memory, kPage, round_up(bytes, kPage)) != 0) {
    arena.memory = nullptr;
  } else {
    arena.bytes = bytes;
  }
  return arena.memory;
}

// Addresses that nobody may use. A pointer that the chip could not follow is exchanged for one in here, since this
// thread could follow it: it faults when the kernel uses it, and not when it is only passed.
uint64_t poison(uint64_t address) {
  constexpr uint64_t kBytes = uint64_t{1} << 32;
  static void* const area = mmap(nullptr, 2 * kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (area == MAP_FAILED) return address;
  return reinterpret_cast<uintptr_t>(area) + kBytes / 2 + address % kBytes;
}

void hide_foreign_pointers(const KernelImage& kernel, int device, std::vector<char>& args) {
  for (const HostParameter& parameter : kernel.parameters) {
    if (parameter.is_pointer == 0) continue;
    uint64_t address = 0;
    std::memcpy(&address, args.data() + parameter.offset, sizeof address);
    if (address == 0 || driver().memory.may_use(device, address)) continue;
    address = poison(address);
    std::memcpy(args.data() + parameter.offset, &address, sizeof address);
  }
}

// Says on stderr what the driver says there: the text of a device-side assertion is in no result.
CUresult report(const std::string& name, const unify_host_fault& fault) {
  const bool is_assertion = fault.kind == 1;
  std::fprintf(
      stderr, "%s:%u: %s: block: [%u,%u,%u] %s `%s`.\n", fault.file == nullptr ? "?" : fault.file, fault.line,
      name.c_str(), fault.program[0], fault.program[1], fault.program[2],
      is_assertion ? "Assertion failed:" : "Access out of bounds:", fault.message == nullptr ? "" : fault.message);
  return is_assertion ? CUDA_ERROR_ASSERT : CUDA_ERROR_ILLEGAL_ADDRESS;
}

CUresult result_of_signal(const std::string& message) {
  if (message.find("SIGILL") != std::string::npos) return CUDA_ERROR_ILLEGAL_INSTRUCTION;
  if (message.find("SIGFPE") != std::string::npos) return CUDA_ERROR_LAUNCH_FAILED;
  return CUDA_ERROR_ILLEGAL_ADDRESS;
}

CUresult run(const Function& function, const LaunchShape& shape, std::vector<char> args) {
  const KernelImage& kernel = function.kernel;
  const int device = function.context->device->index;
  unify_host_fault fault{};
  unify_host_call call{};
  call.fault = &fault;
  for (int axis = 0; axis < 3; ++axis) call.grid[axis] = shape.grid[axis] / shape.cluster[axis];
  if (kernel.scratch_bytes > 0 && (call.scratch = scratch(kernel.scratch_bytes)) == nullptr) {
    return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
  }
  {
    const Lock lock(driver().mutex);
    hide_foreign_pointers(kernel, device, args);
    driver().memory.begin_kernel(device);
  }
  call.args = args.data();
  const uint64_t programs = uint64_t{call.grid[0]} * call.grid[1] * call.grid[2];
  std::string message;
  const bool is_whole =
      host::call_guarded(reinterpret_cast<unify_host_kernel>(kernel.entry), &call, 0, programs, message);
  {
    const Lock lock(driver().mutex);
    driver().memory.end_kernel(device);
  }
  if (!is_whole) return result_of_signal(message);
  return fault.kind == 0 ? CUDA_SUCCESS : report(kernel.name, fault);
}

}  // namespace

int Function::max_threads() const {
  const int registers = kernel.registers == 0 ? kDefaultRegisters : (kernel.registers + 7) / 8 * 8;
  return std::min(1024, kRegisterFile / registers / 32 * 32);
}

CUresult read_attribute(const Function& function, CUfunction_attribute attribute, int& out) {
  const int capability = function.context->device->chip.capability;
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
      out = function.max_threads();
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
      out = function.kernel.shared_bytes;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_NUM_REGS:
      out = function.kernel.registers;
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

CUresult write_attribute(Function& function, CUfunction_attribute attribute, int value) {
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
      if (value < 0 || value > shared_limit(function)) return CUDA_ERROR_INVALID_VALUE;
      function.max_dynamic_shared = value;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
      if (value < -1 || value > 100) return CUDA_ERROR_INVALID_VALUE;
      function.carveout = value;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED:
      if (function.context->device->chip.capability < 90) return CUDA_ERROR_NOT_SUPPORTED;
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

CUresult read_attributes(const CUlaunchConfig& config, const Function& function, LaunchShape& out) {
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
        if (function.context->device->chip.capability < 90) return CUDA_ERROR_NOT_SUPPORTED;
        break;
      case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION:  // work here runs in order, which it allows
        if (function.context->device->chip.capability < 90) return CUDA_ERROR_NOT_SUPPORTED;
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

CUresult check_cluster(const Function& function, const LaunchShape& shape) {
  const uint64_t size = volume(shape.cluster);
  if (size == 0) return CUDA_ERROR_INVALID_VALUE;
  for (int axis = 0; axis < 3; ++axis) {
    if (shape.grid[axis] % shape.cluster[axis] != 0) return CUDA_ERROR_INVALID_VALUE;
  }
  const unsigned most = function.allows_large_clusters ? kLargestCluster : kPortableCluster;
  return size > most ? CUDA_ERROR_INVALID_CLUSTER_SIZE : CUDA_SUCCESS;
}

// All blocks of a cooperative launch are on the chip at a time.
CUresult check_cooperative(const Function& function, const LaunchShape& shape) {
  const Chip& chip = function.context->device->chip;
  const auto threads = static_cast<int>(volume(shape.block));
  const int shared = static_cast<int>(shape.shared_bytes) + function.kernel.shared_bytes + 1024;
  const int each = std::min({chip.blocks_per_processor, chip.threads_per_processor / std::max(threads, 1),
                             (chip.shared_optin + 1024) / shared});
  const auto most = static_cast<uint64_t>(each) * static_cast<uint64_t>(chip.processors);
  return volume(shape.grid) > most ? CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE : CUDA_SUCCESS;
}

}  // namespace

CUresult read_shape(const CUlaunchConfig& config, const Function& function, LaunchShape& out) {
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
      (function.max_dynamic_shared == kSharedDefault &&
       static_cast<int>(out.shared_bytes) + function.kernel.shared_bytes > kSharedDefault)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (const CUresult result = check_cluster(function, out); result != CUDA_SUCCESS) return result;
  return out.is_cooperative ? check_cooperative(function, out) : CUDA_SUCCESS;
}

CUresult pack_parameters(const Function& function, void** parameters, void** extra, std::vector<char>& out) {
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

Operation make_launch(const std::shared_ptr<Function>& function, const LaunchShape& shape, std::vector<char> args) {
  Operation operation;
  operation.kind = OperationKind::kKernel;
  operation.is_cooperative = shape.is_cooperative;
  operation.run = [function, shape, args = std::move(args)] { return run(*function, shape, args); };
  return operation;
}

}  // namespace unify::simulator
