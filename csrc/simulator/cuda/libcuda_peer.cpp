// The driver's functions for memory and events of other devices and other processes.
#include <unistd.h>

#include <cstring>

#include "calls.h"
#include "libcuda.h"
#include "simulator/graph.h"
#include "simulator/shared_event.h"
#include "simulator/shared_file.h"

using namespace unify::simulator;

namespace {

constexpr char kMemoryMagic[8] = {'s', 'i', 'm', 'm', 'e', 'm', 'o', 'r'};

// What was opened by this handle already, or null.
std::shared_ptr<Range> find_import(const CUipcMemHandle& handle) {
  for (const auto& [address, range] : driver().memory.ranges()) {
    if (range->kind != RangeKind::kImported) continue;
    if (std::memcmp(range->import_handle.data(), handle.reserved, CU_IPC_HANDLE_SIZE) == 0) return range;
  }
  return nullptr;
}

std::shared_ptr<Range> import(const SharedFile& shared) {
  const uint64_t bytes = round_up(shared.bytes, kPage);
  const int file = open_shared(shared, shared.offset + bytes);
  if (file < 0) return nullptr;
  auto range = show_file(file, shared.offset, bytes);
  close(file);
  if (range != nullptr) range->asked_bytes = shared.bytes;
  return range;
}

}  // namespace

UNIFY_SIMULATOR_EXPORT CUresult cuDeviceCanAccessPeer(int* out, CUdevice device, CUdevice peer) {
  return with_driver("cuDeviceCanAccessPeer", [&](Call&) {
    if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (find_device(device) == nullptr || find_device(peer) == nullptr) return CUDA_ERROR_INVALID_DEVICE;
    *out = device == peer ? 0 : 1;
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuCtxEnablePeerAccess(CUcontext peer_handle, unsigned flags) {
  return with_context("cuCtxEnablePeerAccess", [&](Call& call) {
    if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
    const Device* peer = find_device(peer_handle);
    const Device* self = call.context->device;
    if (peer == nullptr || peer == self || peer->context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    if (driver().memory.is_peer(self->index, peer->index)) return CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED;
    driver().memory.set_peer(self->index, peer->index, true);
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuCtxDisablePeerAccess(CUcontext peer_handle) {
  return with_context("cuCtxDisablePeerAccess", [&](Call& call) {
    const Device* peer = find_device(peer_handle);
    const Device* self = call.context->device;
    if (peer == nullptr || peer == self) return CUDA_ERROR_INVALID_CONTEXT;
    if (!driver().memory.is_peer(self->index, peer->index)) return CUDA_ERROR_PEER_ACCESS_NOT_ENABLED;
    driver().memory.set_peer(self->index, peer->index, false);
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuIpcGetMemHandle(CUipcMemHandle* out, CUdeviceptr address) {
  return with_context("cuIpcGetMemHandle", [&](Call&) {
    const std::shared_ptr<Range> range = driver().memory.find(address);
    if (out == nullptr || range == nullptr || range->kind != RangeKind::kDevice) return CUDA_ERROR_INVALID_VALUE;
    const Arena& arena = range->block->arena;
    write_handle(out->reserved, kMemoryMagic,
                 {getpid(), arena.file(), range->device, arena.offset(range->address), range->asked_bytes, 0, 0},
                 arena.file());
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuIpcOpenMemHandle_v2(CUdeviceptr* out, CUipcMemHandle handle, unsigned flags) {
  return with_context("cuIpcOpenMemHandle", [&](Call& call) -> Result {
    SharedFile shared;
    if (out == nullptr || flags != CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS) return CUDA_ERROR_INVALID_VALUE;
    if (!read_handle(handle.reserved, kMemoryMagic, shared) || shared.bytes == 0 || shared.offset % kPage != 0 ||
        shared.offset > INT64_MAX / 2 || shared.bytes > INT64_MAX / 2) {
      return CUDA_ERROR_INVALID_HANDLE;
    }
    if (const Result result = check_unsafe(); result != CUDA_SUCCESS) return result;
    if (shared.process == getpid()) return CUDA_ERROR_INVALID_CONTEXT;  // a handle is for other processes
    if (const auto opened = find_import(handle)) {
      ++opened->opened;
      *out = opened->address;
      return CUDA_SUCCESS;
    }
    const auto range = import(shared);
    if (range == nullptr) return CUDA_ERROR_MAP_FAILED;
    range->import_handle.assign(handle.reserved, handle.reserved + CU_IPC_HANDLE_SIZE);
    range->device = call.context->device->index;
    range->owner = call.context.get();
    range->access = 1U << range->device;
    driver().memory.add(range);
    *out = range->address;
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuIpcCloseMemHandle(CUdeviceptr address) {
  return with_context("cuIpcCloseMemHandle", [&](Call& call) -> Result {
    const std::shared_ptr<Range> range = driver().memory.find(address);
    if (range == nullptr || range->kind != RangeKind::kImported || range->address != address) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    if (const Result result = wait_for_context(call.lock, *call.context); result != CUDA_SUCCESS) return result;
    if (range->opened == 0) return CUDA_ERROR_INVALID_VALUE;  // another thread was faster
    if (--range->opened == 0) driver().memory.remove(range);
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuIpcGetEventHandle(CUipcEventHandle* out, CUevent handle) {
  return with_context("cuIpcGetEventHandle", [&](Call&) {
    const std::shared_ptr<Event> event = driver().events.find(handle);
    if (event == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (out == nullptr || event->shared == nullptr) return CUDA_ERROR_INVALID_VALUE;
    export_event(*event->shared, out->reserved);
    return CUDA_SUCCESS;
  });
}

UNIFY_SIMULATOR_EXPORT CUresult cuIpcOpenEventHandle(CUevent* out, CUipcEventHandle handle) {
  return with_context("cuIpcOpenEventHandle", [&](Call& call) {
    if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
    auto event = std::make_shared<Event>();
    event->context = call.context;
    event->flags = CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS;
    event->shared = import_event(handle.reserved);
    if (event->shared == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    *out = driver().events.add<CUevent>(std::move(event));
    return CUDA_SUCCESS;
  });
}
