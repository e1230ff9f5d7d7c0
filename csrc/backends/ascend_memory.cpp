// Memory, copies and fills.
#include "ascend_backend.h"

namespace unify::ascend {
namespace {

aclrtPhysicalMemProp allocation_on(const Device& device) {
  aclrtPhysicalMemProp properties{};
  properties.handleType = ACL_MEM_HANDLE_TYPE_NONE;
  properties.allocationType = ACL_MEM_ALLOCATION_TYPE_PINNED;
  properties.memAttr = ACL_HBM_MEM_HUGE;
  properties.location = {static_cast<uint32_t>(device.index), ACL_MEM_LOCATION_TYPE_DEVICE};
  return properties;
}

unify_status memory_allocate(unify_device handle, const unify_allocate_args* args, unify_address* out) {
  Device& device = *of(handle);
  void* memory = nullptr;
  unify_status status = UNIFY_OK;
  switch (args->kind) {
    case UNIFY_MEMORY_DEVICE:
      // Not aclrtMallocAlign32: a kernel may read up to 32 bytes beyond an array's end, which aclrtMalloc allows for
      // where the chip needs it.
      status = run(device, [&] { return driver.aclrtMalloc(&memory, args->bytes, ACL_MEM_MALLOC_HUGE_FIRST); });
      break;
    case UNIFY_MEMORY_PINNED:
      status = run(device, [&] { return driver.aclrtMallocHost(&memory, args->bytes); });
      break;
    case UNIFY_MEMORY_MANAGED:
      if (driver.aclrtMemAllocManaged == nullptr) return refuse(UNIFY_UNSUPPORTED, "this CANN has no managed memory");
      status = run(device, [&] { return driver.aclrtMemAllocManaged(&memory, args->bytes, ACL_RT_MEM_ATTACH_GLOBAL); });
      break;
    default:
      return refuse(UNIFY_UNSUPPORTED, "there is no memory of kind " + std::to_string(args->kind));
  }
  if (status != UNIFY_OK) return status;
  *out = address_of(memory);
  const std::lock_guard<std::mutex> lock(device.mutex);
  if (args->kind != UNIFY_MEMORY_PINNED) device.allocated[*out] = args->bytes;
  return UNIFY_OK;
}

unify_status memory_free(unify_device handle, unify_memory_kind kind, unify_address address) {
  Device& device = *of(handle);
  if (kind == UNIFY_MEMORY_PINNED) return run(device, [&] { return driver.aclrtFreeHost(pointer(address)); });
  std::string key;
  {
    const std::lock_guard<std::mutex> lock(device.mutex);
    if (device.allocated.erase(address) == 0) return refuse(UNIFY_INVALID_ARGUMENT, "no memory begins there");
    if (const auto node = device.exported.extract(address)) key = node.mapped();
  }
  return run(device, [&] {
    if (!key.empty()) driver.aclrtIpcMemClose(key.c_str());  // which ACL asks of the owner too, and before
    return driver.aclrtFree(pointer(address));
  });
}

unify_status virtual_reserve(unify_device handle, size_t bytes, unify_address* out) {
  Device& device = *of(handle);
  constexpr uint64_t kHugePages = 1;  // as torch_npu reserves; newer versions take it for 0
  void* memory = nullptr;
  const unify_status status =
      run(device, [&] { return driver.aclrtReserveMemAddress(&memory, bytes, 0, nullptr, kHugePages); });
  *out = address_of(memory);
  const std::lock_guard<std::mutex> lock(device.mutex);
  if (status == UNIFY_OK) device.reserved.insert(*out);
  return status;
}

aclError open_to(unify_address address, size_t bytes, int32_t device) {
  if (driver.aclrtMemSetAccess == nullptr) return ACL_ERROR_RT_FEATURE_NOT_SUPPORT;
  aclrtMemAccessDesc access{};
  access.flags = ACL_RT_MEM_ACCESS_FLAGS_READWRITE;
  access.location = {static_cast<uint32_t>(device), ACL_MEM_LOCATION_TYPE_DEVICE};
  return driver.aclrtMemSetAccess(pointer(address), bytes, &access, 1);
}

// The device itself may use what is mapped on it, unlike in CUDA; a peer may not.
aclError map(Device& device, unify_address address, size_t bytes, aclrtDrvMemHandle memory) {
  aclError code = driver.aclrtMapMem(pointer(address), bytes, 0, memory, 0);
  if (code != ACL_SUCCESS) return code;
  const std::lock_guard<std::mutex> lock(device.mutex);
  for (size_t i = 0; code == ACL_SUCCESS && i < device.peers.size(); ++i) {
    code = open_to(address, bytes, device.peers[i]->index);
  }
  if (code == ACL_SUCCESS) {
    device.committed[address] = {bytes, memory};
  } else {
    driver.aclrtUnmapMem(pointer(address));
  }
  return code;
}

unify_status virtual_commit(unify_device handle, unify_address address, size_t bytes) {
  Device& device = *of(handle);
  return run(device, [&] {
    const aclrtPhysicalMemProp properties = allocation_on(device);
    aclrtDrvMemHandle memory = nullptr;
    aclError code = driver.aclrtMallocPhysical(&memory, bytes, &properties, 0);
    if (code != ACL_SUCCESS) return code;
    code = map(device, address, bytes, memory);
    if (code != ACL_SUCCESS) driver.aclrtFreePhysical(memory);
    return code;
  });
}

unify_status virtual_decommit(unify_device handle, unify_address address, size_t) {
  Device& device = *of(handle);
  Device::Committed range{};
  {
    const std::lock_guard<std::mutex> lock(device.mutex);
    const auto found = device.committed.find(address);
    if (found == device.committed.end()) return refuse(UNIFY_INVALID_ARGUMENT, "nothing is committed there");
    range = found->second;
    device.committed.erase(found);
  }
  return run(device, [&] {
    const aclError code = driver.aclrtUnmapMem(pointer(address));
    const aclError freed = driver.aclrtFreePhysical(range.handle);
    return code != ACL_SUCCESS ? code : freed;
  });
}

unify_status virtual_release(unify_device handle, unify_address address, size_t) {
  Device& device = *of(handle);
  {
    const std::lock_guard<std::mutex> lock(device.mutex);
    if (device.reserved.erase(address) == 0) return refuse(UNIFY_INVALID_ARGUMENT, "nothing is reserved there");
  }
  return run(device, [&] { return driver.aclrtReleaseMemAddress(pointer(address)); });
}

constexpr uint64_t kCopyAlignment = 64;  // "for on-chip Device-to-Device memory copy": aclrtMemcpyAsync

bool is_within_device(unify_device dst, unify_device src) { return dst != nullptr && dst == src; }

// Between two devices as within one: the kinds 6 and 7 that acl_rt.h names are refused by aclrtMemcpyAsync.
int kind_of(unify_device dst, unify_device src) {
  if (dst == nullptr) return ACL_MEMCPY_DEVICE_TO_HOST;
  return src == nullptr ? ACL_MEMCPY_HOST_TO_DEVICE : ACL_MEMCPY_DEVICE_TO_DEVICE;
}

// aclrtMemcpyAsync does not copy within the host.
unify_status copy_on_host(unify_stream stream, const unify_copy_args& args) {
  if (!has_host_calls()) {
    const unify_status status =
        run(*of(stream)->device, [&] { return driver.aclrtSynchronizeStream(of(stream)->handle); }, args.operation);
    if (status == UNIFY_OK) std::memcpy(pointer(args.dst), pointer(args.src), args.bytes);
    return status;
  }
  struct HostCopy {
    void* dst;
    const void* src;
    size_t bytes;
  };
  auto copy = std::make_unique<HostCopy>(HostCopy{pointer(args.dst), pointer(args.src), args.bytes});
  const auto run_copy = [](void* user) {
    const std::unique_ptr<HostCopy> copy(static_cast<HostCopy*>(user));
    std::memcpy(copy->dst, copy->src, copy->bytes);
  };
  const unify_status status = host_call(stream, run_copy, copy.get());
  if (status == UNIFY_OK) (void)copy.release();
  return status;
}

unify_status copy(unify_stream handle, const unify_copy_args* args) {
  Stream& stream = *of(handle);
  if (is_within_device(args->dst_device, args->src_device) && (args->dst | args->src) % kCopyAlignment != 0) {
    return refuse(UNIFY_UNSUPPORTED, "ACL copies within a device between multiples of 64 bytes");
  }
  if (args->dst_device == nullptr && args->src_device == nullptr) return copy_on_host(handle, *args);
  return enqueue(
      stream,
      [&] {
        return driver.aclrtMemcpyAsync(pointer(args->dst), args->bytes, pointer(args->src), args->bytes,
                                       kind_of(args->dst_device, args->src_device), stream.handle);
      },
      args->operation);
}

// What ACL answers where it cannot do something, or not here.
bool is_inability(aclError code) {
  return code == ACL_ERROR_INVALID_PARAM || code == ACL_ERROR_RT_PARAM_INVALID ||
         code == ACL_ERROR_RT_FEATURE_NOT_SUPPORT;
}

// "between host and device": acl_rt.h. Runtimes that take rows within a device make a task of each.
unify_status copy_rows(unify_stream handle, const unify_copy_rows_args* args) {
  if ((args->dst_device == nullptr) == (args->src_device == nullptr)) {
    return refuse(UNIFY_UNSUPPORTED, "ACL copies rows between the host and a device only");
  }
  Stream& stream = *of(handle);
  aclError code = ACL_SUCCESS;
  const unify_status status = enqueue(
      stream,
      [&] {
        code = driver.aclrtMemcpy2dAsync(pointer(args->dst), args->dst_pitch, pointer(args->src), args->src_pitch,
                                         args->bytes, args->rows, kind_of(args->dst_device, args->src_device),
                                         stream.handle);
        return code;
      },
      args->operation);
  return is_inability(code) ? refuse(UNIFY_UNSUPPORTED, "ACL does not copy these rows") : status;
}

// 32 bits at a time. Not every chip can, nor in memory that aclrtMalloc did not give. ACL copies a buffer of its own,
// of which it says nothing for a graph that runs later.
unify_status fill_words(Stream& stream, const unify_fill_args& args, uint32_t value, size_t count) {
  if (driver.aclrtMemsetD32Async == nullptr) return refuse(UNIFY_UNSUPPORTED, "this CANN repeats bytes only");
  aclError code = ACL_SUCCESS;
  bool records = false;
  const unify_status status = enqueue(
      stream,
      [&] {
        code = is_recording(stream, records);
        if (code != ACL_SUCCESS || records) return code;
        code = driver.aclrtMemsetD32Async(pointer(args.dst), count * sizeof value, value, count, stream.handle);
        return code;
      },
      args.operation);
  if (records) return refuse(UNIFY_UNSUPPORTED, "ACL repeats bytes only, in a graph");
  return is_inability(code) ? refuse(UNIFY_UNSUPPORTED, "ACL repeats bytes only, on this chip or in this memory")
                            : status;
}

unify_status fill(unify_stream handle, const unify_fill_args* args) {
  Stream& stream = *of(handle);
  if (args->value_bytes == 2) {
    const bool is_of_words = args->count % 2 == 0 && args->dst % sizeof(uint32_t) == 0;
    if (!is_of_words) return refuse(UNIFY_UNSUPPORTED, "ACL repeats 1 or 4 bytes");
  }
  if (args->value_bytes == 2) return fill_words(stream, *args, (args->value & 0xffff) * 0x10001u, args->count / 2);
  if (args->value_bytes == 4) return fill_words(stream, *args, args->value, args->count);
  return enqueue(
      stream,
      [&] {
        return driver.aclrtMemsetAsync(pointer(args->dst), args->count, static_cast<int32_t>(args->value & 0xff),
                                       args->count, stream.handle);
      },
      args->operation);
}

bool has_virtual() {
  return driver.aclrtReserveMemAddress != nullptr && driver.aclrtReleaseMemAddress != nullptr &&
         driver.aclrtMallocPhysical != nullptr && driver.aclrtFreePhysical != nullptr &&
         driver.aclrtMapMem != nullptr && driver.aclrtUnmapMem != nullptr;
}

}  // namespace

uint32_t virtual_granularity(const Device& device) {
  if (!has_virtual()) return 0;
  constexpr uint32_t kHugePage = 2 << 20;  // of ACL_HBM_MEM_HUGE
  if (driver.aclrtMemGetAllocationGranularity == nullptr) return kHugePage;
  const Entered entered(device);
  aclrtPhysicalMemProp properties = allocation_on(device);
  size_t bytes = 0;
  driver.aclrtMemGetAllocationGranularity(&properties, ACL_RT_MEM_ALLOC_GRANULARITY_MINIMUM, &bytes);
  return static_cast<uint32_t>(bytes);
}

// In the device's context. What fails is gone already.
void drop_memory(Device& device) {
  const std::lock_guard<std::mutex> lock(device.mutex);
  for (const auto& [address, range] : device.committed) {
    driver.aclrtUnmapMem(pointer(address));
    driver.aclrtFreePhysical(range.handle);
  }
  for (const unify_address address : device.reserved) driver.aclrtReleaseMemAddress(pointer(address));
  for (const auto& [address, key] : device.exported) driver.aclrtIpcMemClose(key.c_str());
  for (const auto& [address, bytes] : device.allocated) driver.aclrtFree(pointer(address));
  for (const RetiredLocks& retired : device.retired_locks) release(retired);
  for (const auto& [graph, recorded] : device.recorded_locks) {
    for (void* memory : recorded) driver.aclrtFree(memory);
  }
  device.committed.clear();
  device.reserved.clear();
  device.exported.clear();
  device.allocated.clear();
  device.retired_locks.clear();
  device.recorded_locks.clear();
}

aclError open_virtual(Device& device, Device& peer) {
  const std::lock_guard<std::mutex> lock(device.mutex);
  for (const auto& [address, range] : device.committed) {
    if (const aclError code = open_to(address, range.bytes, peer.index); code != ACL_SUCCESS) return code;
  }
  device.peers.push_back(&peer);
  return ACL_SUCCESS;
}

void add_memory(unify_backend& table) {
  table.memory_allocate = memory_allocate;
  table.memory_free = memory_free;
  if (has_virtual()) {
    table.virtual_reserve = virtual_reserve;
    table.virtual_commit = virtual_commit;
    table.virtual_decommit = virtual_decommit;
    table.virtual_release = virtual_release;
  }
  table.copy = copy;
  table.fill = fill;
  if (driver.aclrtMemcpy2dAsync != nullptr) table.copy_rows = copy_rows;
}

}  // namespace unify::ascend
