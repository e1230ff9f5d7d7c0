// Memory, copies and fills.
#include "cuda_backend.h"

#include <sys/mman.h>

namespace unify::cuda {
namespace {

CUmemAllocationProp allocation_on(const Device& device) {
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location = {CU_MEM_LOCATION_TYPE_DEVICE, device.id};
  return properties;
}

// The host's own pages, which the driver is told of: they stay when a reset takes the context away.
unify_status allocate_pinned(Device& device, size_t bytes, unify_address* out) {
  void* pages = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) return refuse(UNIFY_OUT_OF_MEMORY, "the host has no memory for it");
  const unify_status status =
      run(device, [&] { return driver.cuMemHostRegister(pages, bytes, CU_MEMHOSTREGISTER_PORTABLE); });
  if (status != UNIFY_OK) {
    munmap(pages, bytes);
    return status;
  }
  *out = reinterpret_cast<uintptr_t>(pages);
  const std::lock_guard<std::mutex> lock(device.mutex);
  device.pinned[*out] = bytes;
  return UNIFY_OK;
}

unify_status free_pinned(Device& device, unify_address address) {
  size_t bytes = 0;
  {
    const std::lock_guard<std::mutex> lock(device.mutex);
    const auto found = device.pinned.find(address);
    if (found == device.pinned.end()) return refuse(UNIFY_INVALID_ARGUMENT, "no pinned memory begins there");
    bytes = found->second;
    device.pinned.erase(found);
  }
  void* pages = reinterpret_cast<void*>(address);
  const unify_status status = run(device, [&] {
    const CUresult code = driver.cuMemHostUnregister(pages);
    return code == CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED ? CUDA_SUCCESS : code;  // a reset was faster
  });
  munmap(pages, bytes);
  return status;
}

unify_status memory_allocate(unify_device handle, const unify_allocate_args* args, unify_address* out) {
  Device& device = *of(handle);
  CUdeviceptr address = 0;
  unify_status status = UNIFY_OK;
  switch (args->kind) {
    case UNIFY_MEMORY_DEVICE:
      status = run(device, [&] { return driver.cuMemAlloc(&address, args->bytes); });
      break;
    case UNIFY_MEMORY_PINNED:
      return allocate_pinned(device, args->bytes, out);
    case UNIFY_MEMORY_MANAGED:
      if (driver.cuMemAllocManaged == nullptr) return refuse(UNIFY_UNSUPPORTED, "this driver has no managed memory");
      status = run(device, [&] { return driver.cuMemAllocManaged(&address, args->bytes, CU_MEM_ATTACH_GLOBAL); });
      break;
    default:
      return refuse(UNIFY_UNSUPPORTED, "there is no memory of kind " + std::to_string(args->kind));
  }
  if (status == UNIFY_OK) *out = address;
  return status;
}

unify_status memory_free(unify_device device, unify_memory_kind kind, unify_address address) {
  if (kind == UNIFY_MEMORY_PINNED) return free_pinned(*of(device), address);
  return run(*of(device), [&] { return driver.cuMemFree(address); });
}

unify_status memory_info(unify_device device, uint64_t* out_free, uint64_t* out_total) {
  size_t free_bytes = 0;
  size_t total = 0;
  const unify_status status = run(*of(device), [&] { return driver.cuMemGetInfo(&free_bytes, &total); });
  *out_free = free_bytes;
  *out_total = total;
  return status;
}

unify_status virtual_reserve(unify_device device, size_t bytes, unify_address* out) {
  CUdeviceptr address = 0;
  const unify_status status = run(*of(device), [&] { return driver.cuMemAddressReserve(&address, bytes, 0, 0, 0); });
  *out = address;
  const std::lock_guard<std::mutex> lock(of(device)->mutex);
  if (status == UNIFY_OK) of(device)->reserved[address] = bytes;
  return status;
}

CUresult open_to(unify_address address, size_t bytes, CUdevice device) {
  const CUmemAccessDesc access = {{CU_MEM_LOCATION_TYPE_DEVICE, device}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  return driver.cuMemSetAccess(address, bytes, &access, 1);
}

unify_status virtual_commit(unify_device handle, unify_address address, size_t bytes) {
  Device& device = *of(handle);
  return run(device, [&] {
    const CUmemAllocationProp properties = allocation_on(device);
    CUmemGenericAllocationHandle memory = 0;
    CUresult code = driver.cuMemCreate(&memory, bytes, &properties, 0);
    if (code != CUDA_SUCCESS) return code;
    code = driver.cuMemMap(address, bytes, 0, memory, 0);
    driver.cuMemRelease(memory);  // the mapping keeps it
    if (code != CUDA_SUCCESS) return code;
    const std::lock_guard<std::mutex> lock(device.mutex);
    code = open_to(address, bytes, device.id);
    for (size_t i = 0; code == CUDA_SUCCESS && i < device.peers.size(); ++i) {
      code = open_to(address, bytes, device.peers[i]);
    }
    if (code == CUDA_SUCCESS) {
      device.committed[address] = bytes;
    } else {
      driver.cuMemUnmap(address, bytes);
    }
    return code;
  });
}

unify_status virtual_decommit(unify_device handle, unify_address address, size_t bytes) {
  Device& device = *of(handle);
  return run(device, [&] {
    const std::lock_guard<std::mutex> lock(device.mutex);
    const CUresult code = driver.cuMemUnmap(address, bytes);
    if (code == CUDA_SUCCESS) device.committed.erase(address);
    return code;
  });
}

unify_status virtual_release(unify_device handle, unify_address address, size_t bytes) {
  Device& device = *of(handle);
  return run(device, [&] {
    const std::lock_guard<std::mutex> lock(device.mutex);
    const CUresult code = driver.cuMemAddressFree(address, bytes);
    if (code == CUDA_SUCCESS) device.reserved.erase(address);
    return code;
  });
}

bool is_between_devices(unify_device dst, unify_device src) {
  return dst != nullptr && src != nullptr && of(dst)->context != of(src)->context;
}

unify_status copy(unify_stream handle, const unify_copy_args* args) {
  Stream& stream = *of(handle);
  return run(
      *stream.device,
      [&] {
        if (is_between_devices(args->dst_device, args->src_device)) {
          return driver.cuMemcpyPeerAsync(args->dst, of(args->dst_device)->context, args->src,
                                          of(args->src_device)->context, args->bytes, stream.handle);
        }
        return driver.cuMemcpyAsync(args->dst, args->src, args->bytes, stream.handle);
      },
      args->operation);
}

unify_status copy_rows(unify_stream handle, const unify_copy_rows_args* args) {
  Stream& stream = *of(handle);
  CUDA_MEMCPY2D rows{};  // the driver finds out where addresses lie, a peer's as well
  rows.srcMemoryType = args->src_device == nullptr ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_UNIFIED;
  rows.srcHost = reinterpret_cast<const void*>(args->src);
  rows.srcDevice = args->src;
  rows.srcPitch = args->src_pitch;
  rows.dstMemoryType = args->dst_device == nullptr ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_UNIFIED;
  rows.dstHost = reinterpret_cast<void*>(args->dst);
  rows.dstDevice = args->dst;
  rows.dstPitch = args->dst_pitch;
  rows.WidthInBytes = args->bytes;
  rows.Height = args->rows;
  return run(*stream.device, [&] { return driver.cuMemcpy2DAsync(&rows, stream.handle); }, args->operation);
}

unify_status fill(unify_stream handle, const unify_fill_args* args) {
  Stream& stream = *of(handle);
  return run(
      *stream.device,
      [&] {
        switch (args->value_bytes) {
          case 1:
            return driver.cuMemsetD8Async(args->dst, static_cast<unsigned char>(args->value), args->count,
                                          stream.handle);
          case 2:
            return driver.cuMemsetD16Async(args->dst, static_cast<unsigned short>(args->value), args->count,
                                           stream.handle);
          default:
            return driver.cuMemsetD32Async(args->dst, args->value, args->count, stream.handle);
        }
      },
      args->operation);
}

}  // namespace

uint32_t virtual_granularity(const Device& device) {
  int is_supported = 0;
  driver.cuDeviceGetAttribute(&is_supported, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, device.id);
  if (is_supported == 0 || driver.cuMemGetAllocationGranularity == nullptr) return 0;
  const Entered entered(device);
  const CUmemAllocationProp properties = allocation_on(device);
  size_t bytes = 0;
  driver.cuMemGetAllocationGranularity(&bytes, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
  return static_cast<uint32_t>(bytes);
}

void drop_virtual(Device& device) {
  const std::lock_guard<std::mutex> lock(device.mutex);
  for (const auto& [address, bytes] : device.committed) driver.cuMemUnmap(address, bytes);
  for (const auto& [address, bytes] : device.reserved) driver.cuMemAddressFree(address, bytes);
  device.committed.clear();
  device.reserved.clear();
}

CUresult open_virtual(Device& device, CUdevice peer) {
  const std::lock_guard<std::mutex> lock(device.mutex);
  if (std::find(device.peers.begin(), device.peers.end(), peer) != device.peers.end()) return CUDA_SUCCESS;
  for (const auto& [address, bytes] : device.committed) {
    if (const CUresult code = open_to(address, bytes, peer); code != CUDA_SUCCESS) return code;
  }
  device.peers.push_back(peer);
  return CUDA_SUCCESS;
}

void add_memory(unify_backend& table) {
  table.memory_allocate = memory_allocate;
  table.memory_free = memory_free;
  table.memory_info = memory_info;
  const bool has_virtual = driver.cuMemAddressReserve != nullptr && driver.cuMemAddressFree != nullptr &&
                           driver.cuMemCreate != nullptr && driver.cuMemRelease != nullptr &&
                           driver.cuMemMap != nullptr && driver.cuMemUnmap != nullptr &&
                           driver.cuMemSetAccess != nullptr;
  if (has_virtual) {
    table.virtual_reserve = virtual_reserve;
    table.virtual_commit = virtual_commit;
    table.virtual_decommit = virtual_decommit;
    table.virtual_release = virtual_release;
  }
  table.copy = copy;
  table.copy_rows = copy_rows;
  table.fill = fill;
}

}  // namespace unify::cuda
