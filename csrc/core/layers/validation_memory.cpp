// The rules of memory: what is allocated, reserved, copied, filled and shared.
#include "sizes.h"
#include "validation.h"

namespace unify::layers {

unify_status Validation::memory_allocate(unify_device device, const unify_allocate_args* args,
                                         unify_address* out_address) {
  if (!check("memory_allocate", device) || !is_whole("memory_allocate", args) ||
      !is_there("memory_allocate", "out_address", out_address)) {
    return UNIFY_INVALID_ARGUMENT;
  }
  if (args->bytes == 0) return refuse("memory_allocate: 0 bytes");
  if (args->kind < UNIFY_MEMORY_DEVICE || args->kind > UNIFY_MEMORY_MANAGED) {
    return refuse("memory_allocate: no kind " + std::to_string(args->kind) + "; known are 0 to 2");
  }
  const unify_status status = below_.memory_allocate(device, args, out_address);
  if (status != UNIFY_OK) return status;
  std::unique_lock<std::mutex> lock(mutex_);
  const uint32_t alignment = live_.at(device).info.alignment;
  if (alignment != 0 && *out_address % alignment != 0) {
    lock.unlock();
    (void)below_.memory_free(device, args->kind, *out_address);
    return blame("memory_allocate: the backend gave " + text_of("address", *out_address, args->bytes) +
                 ", no multiple of the " + std::to_string(alignment) + " bytes that its device_info says");
  }
  allocations_[*out_address] = {args->bytes, device, args->kind, false, {}};
  return status;
}

unify_status Validation::memory_free(unify_device device, unify_memory_kind kind, unify_address address) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!is_live("memory_free", device)) return UNIFY_INVALID_ARGUMENT;
    const auto found = allocations_.find(address);
    if (found == allocations_.end()) {
      return refuse("memory_free: " + text_of("address", address, 0) + " is not allocated, or not any more");
    }
    const Allocation& allocation = found->second;
    if (allocation.device != device || allocation.kind != kind || allocation.is_committed) {
      return refuse("memory_free: " + text_of("address", address, allocation.bytes) +
                    " was allocated with another kind or device");
    }
    if (is_in_use(allocation.used)) {
      return refuse("memory_free: " + text_of("address", address, allocation.bytes) +
                    " is still used by a copy or fill that nobody waited for");
    }
    allocations_.erase(found);
  }
  return below_.memory_free(device, kind, address);
}

unify_status Validation::memory_info(unify_device device, uint64_t* out_free_bytes, uint64_t* out_total_bytes) {
  if (!check("memory_info", device) || !is_there("memory_info", "out_free_bytes", out_free_bytes) ||
      !is_there("memory_info", "out_total_bytes", out_total_bytes)) {
    return UNIFY_INVALID_ARGUMENT;
  }
  return below_.memory_info(device, out_free_bytes, out_total_bytes);
}

unify_status Validation::virtual_reserve(unify_device device, size_t bytes, unify_address* out_address) {
  if (!is_granular("virtual_reserve", device, 0, bytes) || !is_there("virtual_reserve", "out_address", out_address)) {
    return UNIFY_INVALID_ARGUMENT;
  }
  const unify_status status = below_.virtual_reserve(device, bytes, out_address);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (status == UNIFY_OK) reserved_[*out_address] = {device, bytes};
  return status;
}

unify_status Validation::virtual_commit(unify_device device, unify_address address, size_t bytes) {
  if (!is_granular("virtual_commit", device, address, bytes)) return UNIFY_INVALID_ARGUMENT;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto range = reserved_.upper_bound(address);
    const bool is_reserved = range != reserved_.begin() && (--range)->second.first == device &&
                             address - range->first <= range->second.second &&
                             bytes <= range->second.second - (address - range->first);
    if (!is_reserved) return refuse("virtual_commit: " + text_of("range", address, bytes) + " is not reserved");
    if (has_committed(address, bytes)) {
      return refuse("virtual_commit: a part of " + text_of("range", address, bytes) + " is committed already");
    }
  }
  const unify_status status = below_.virtual_commit(device, address, bytes);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (status == UNIFY_OK) allocations_[address] = {bytes, device, UNIFY_MEMORY_DEVICE, true, {}};
  return status;
}

unify_status Validation::virtual_decommit(unify_device device, unify_address address, size_t bytes) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!is_live("virtual_decommit", device)) return UNIFY_INVALID_ARGUMENT;
    const auto found = allocations_.find(address);
    if (found == allocations_.end() || !found->second.is_committed || found->second.bytes != bytes ||
        found->second.device != device) {
      return refuse("virtual_decommit: " + text_of("range", address, bytes) + " was not committed by one call");
    }
    if (is_in_use(found->second.used)) {
      return refuse("virtual_decommit: " + text_of("range", address, bytes) +
                    " is still used by a copy or fill that nobody waited for");
    }
    allocations_.erase(found);
  }
  return below_.virtual_decommit(device, address, bytes);
}

unify_status Validation::virtual_release(unify_device device, unify_address address, size_t bytes) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!is_live("virtual_release", device)) return UNIFY_INVALID_ARGUMENT;
    const auto found = reserved_.find(address);
    if (found == reserved_.end() || found->second != std::pair{device, bytes}) {
      return refuse("virtual_release: " + text_of("range", address, bytes) + " was not reserved by one call");
    }
    if (has_committed(address, bytes)) {
      return refuse("virtual_release: a part of " + text_of("range", address, bytes) + " is still committed");
    }
    reserved_.erase(found);
  }
  return below_.virtual_release(device, address, bytes);
}

unify_status Validation::copy(unify_stream stream, const unify_copy_args* args) {
  const Turn turn(*this, "copy", stream);
  if (!turn || !is_whole("copy", args)) return UNIFY_INVALID_ARGUMENT;
  if (args->bytes == 0) return refuse("copy: 0 bytes");
  if (!check_range("copy: dst", stream, args->dst_device, args->dst, args->bytes) ||
      !check_range("copy: src", stream, args->src_device, args->src, args->bytes)) {
    return UNIFY_INVALID_ARGUMENT;
  }
  const bool overlaps = args->dst < args->src + args->bytes && args->src < args->dst + args->bytes;
  if (args->dst_device == args->src_device && overlaps) {
    return refuse("copy: " + text_of("dst", args->dst, args->bytes) + " overlaps " +
                  text_of("src", args->src, args->bytes));
  }
  return below_.copy(stream, args);
}

unify_status Validation::copy_rows(unify_stream stream, const unify_copy_rows_args* args) {
  const Turn turn(*this, "copy_rows", stream);
  if (!turn || !is_whole("copy_rows", args)) return UNIFY_INVALID_ARGUMENT;
  if (args->bytes == 0 || args->rows == 0) {
    return refuse("copy_rows: " + std::to_string(args->rows) + " rows of " + std::to_string(args->bytes) + " bytes");
  }
  for (const auto& [name, pitch] : {std::pair{"dst_pitch", args->dst_pitch}, {"src_pitch", args->src_pitch}}) {
    if (pitch >= args->bytes) continue;
    return refuse(std::string("copy_rows: ") + name + " is " + std::to_string(pitch) + ", less than a row's " +
                  std::to_string(args->bytes) + " bytes");
  }
  const size_t dst_span = span_of(args->bytes, args->rows, args->dst_pitch);
  const size_t src_span = span_of(args->bytes, args->rows, args->src_pitch);
  if (dst_span == 0 || src_span == 0) {
    return refuse("copy_rows: " + std::to_string(args->rows) + " rows reach beyond every address");
  }
  if (!check_range("copy_rows: dst", stream, args->dst_device, args->dst, dst_span) ||
      !check_range("copy_rows: src", stream, args->src_device, args->src, src_span)) {
    return UNIFY_INVALID_ARGUMENT;
  }
  if (args->dst_device == args->src_device && rows_overlap(*args)) {
    return refuse("copy_rows: rows of " + text_of("dst", args->dst, dst_span) + " overlap rows of " +
                  text_of("src", args->src, src_span));
  }
  return below_.copy_rows(stream, args);
}

unify_status Validation::fill(unify_stream stream, const unify_fill_args* args) {
  const Turn turn(*this, "fill", stream);
  if (!turn || !is_whole("fill", args)) return UNIFY_INVALID_ARGUMENT;
  if (args->count == 0 || (args->value_bytes != 1 && args->value_bytes != 2 && args->value_bytes != 4)) {
    return refuse("fill: " + std::to_string(args->count) + " values of " + std::to_string(args->value_bytes) +
                  " bytes; a value has 1, 2 or 4, and there is at least one");
  }
  if (args->dst % args->value_bytes != 0) {
    return refuse("fill: " + text_of("dst", args->dst, args->count) + " is not aligned to " +
                  std::to_string(args->value_bytes));
  }
  if (args->count > SIZE_MAX / args->value_bytes) {
    return refuse("fill: " + std::to_string(args->count) + " values reach beyond every address");
  }
  if (!check_range("fill: dst", stream, turn.device(), args->dst, args->count * args->value_bytes)) {
    return UNIFY_INVALID_ARGUMENT;
  }
  return below_.fill(stream, args);
}

unify_status Validation::peer_access(unify_device device, unify_device peer, uint32_t enable, uint32_t* out_can) {
  if (!check("peer_access", device) || !check("peer_access", peer) || !is_there("peer_access", "out_can", out_can)) {
    return UNIFY_INVALID_ARGUMENT;
  }
  return below_.peer_access(device, peer, enable, out_can);
}

unify_status Validation::ipc_export(unify_device device, unify_ipc_args* args) {
  if (!check("ipc_export", device) || !is_whole("ipc_export", args)) return UNIFY_INVALID_ARGUMENT;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (args->kind == UNIFY_IPC_EVENT) {
      if (!is_live("ipc_export", args->event)) return UNIFY_INVALID_ARGUMENT;
    } else if (allocations_.count(args->address) == 0) {
      return refuse("ipc_export: " + text_of("address", args->address, 0) + " is no allocation's first");
    }
  }
  return below_.ipc_export(device, args);
}

unify_status Validation::ipc_import(unify_device device, unify_ipc_args* args) {
  if (!check("ipc_import", device) || !is_whole("ipc_import", args)) return UNIFY_INVALID_ARGUMENT;
  const unify_status status = below_.ipc_import(device, args);
  if (status != UNIFY_OK) return status;
  imported(device, *args);
  return args->kind == UNIFY_IPC_EVENT ? made(device, args->event, status, UNIFY_EVENT_IPC) : status;
}

unify_status Validation::ipc_close(unify_device device, const unify_ipc_args* args) {
  if (!check("ipc_close", device) || !is_whole("ipc_close", args)) return UNIFY_INVALID_ARGUMENT;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = imported_.find({device, shared_thing(*args)});
    if (found == imported_.end()) {
      return refuse("ipc_close: " + text_of("what", shared_thing(*args), 0) + " was not imported, or is closed");
    }
    imported_.erase(found);
    if (args->kind == UNIFY_IPC_EVENT) live_.erase(args->event);
  }
  return below_.ipc_close(device, args);
}

uint64_t Validation::shared_thing(const unify_ipc_args& args) {
  return args.kind == UNIFY_IPC_EVENT ? reinterpret_cast<uintptr_t>(args.event) : args.address;
}

void Validation::imported(unify_device device, const unify_ipc_args& args) {
  const std::lock_guard<std::mutex> lock(mutex_);
  imported_.emplace(device, shared_thing(args));
  if (args.kind == UNIFY_IPC_MEMORY) live_[device].has_imports = true;
}

bool Validation::is_granular(const char* function, unify_device device, unify_address address, size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!is_live(function, device)) return false;
  const uint32_t granularity = std::max(1u, live_.at(device).info.virtual_granularity);
  if (bytes > 0 && bytes % granularity == 0 && address % granularity == 0) return true;
  refuse(std::string(function) + ": " + text_of("range", address, bytes) + " is not in multiples of " +
         std::to_string(granularity));
  return false;
}

bool Validation::has_committed(unify_address address, size_t bytes) {
  auto next = allocations_.lower_bound(address);
  if (next != allocations_.end() && next->first < address + bytes) return true;
  return next != allocations_.begin() && (--next)->first + next->second.bytes > address;
}

}  // namespace unify::layers
