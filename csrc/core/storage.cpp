#include <utility>

#include "allocator.h"
#include "device.h"
#include "leaks.h"
#include "recording.h"
#include "stream.h"

namespace unify {

Storage::Storage(std::shared_ptr<Device> device, unify_address address, size_t bytes, std::shared_ptr<void> owner,
                 std::optional<uint32_t> generation)
    : device_(std::move(device)), address_(address), bytes_(bytes), owner_(std::move(owner)), generation_(generation) {}

Storage::Storage(std::shared_ptr<Device> device, Block* block)
    : device_(std::move(device)),
      address_(Allocator::address_of(block)),
      bytes_(Allocator::bytes_of(block)),
      block_(block),
      generation_(Allocator::generation_of(block)) {}

Storage::~Storage() {
  leaks::let_go(this);
  if (block_ != nullptr) device_->allocator().give_back(block_);
}

void Storage::require_current() const {
  if (generation_.has_value()) device_->require_generation(*generation_, "this tensor's memory");
}

std::optional<MemoryRange> Storage::segment() const {
  if (block_ == nullptr) return std::nullopt;
  return device_->allocator().segment_of(block_);
}

void Storage::used_on(Stream& stream) {
  if (Recording* recording = stream.recording()) {
    record_use(*recording, stream, shared_from_this());
  } else if (stream.is_recorded_elsewhere()) {
    stream.keep_alive(shared_from_this());
  } else if (block_ != nullptr) {
    device_->allocator().note_use(block_, stream);
  } else if (owner_ != nullptr) {
    stream.keep_alive(owner_);
  }
}

bool Storage::is_expandable() const { return block_ != nullptr && device_->allocator().is_expandable(block_); }

const void* Storage::pool() const noexcept { return block_ == nullptr ? nullptr : Allocator::pool_of(block_); }

bool Storage::is_of(const Stream& stream) const noexcept {
  return block_ != nullptr && &stream.device() == device_.get() && Allocator::stream_of(block_) == stream.id();
}

}  // namespace unify
