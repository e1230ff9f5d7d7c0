#include "hccl_buffer.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

namespace unify::simulator {

void Spans::add(char* at, uint64_t bytes) {
  if (bytes == 0) return;
  bytes_ += bytes;
  parts_.push_back({at, bytes});
  ends_.push_back(bytes_);
}

Spans::Part Spans::part(uint64_t offset, uint64_t most) const {
  const auto found = static_cast<size_t>(std::upper_bound(ends_.begin(), ends_.end(), offset) - ends_.begin());
  if (found == parts_.size()) return {nullptr, 0};
  const uint64_t left = ends_[found] - offset;
  return {parts_[found].at + (parts_[found].bytes - left), std::min(left, most)};
}

void copy(const Spans& to, uint64_t to_offset, const Spans& from, uint64_t from_offset, uint64_t bytes) {
  while (bytes > 0) {
    const Spans::Part source = from.part(from_offset, bytes);
    const Spans::Part target = to.part(to_offset, source.bytes);
    if (target.bytes == 0) return;
    if (target.at != source.at) std::memmove(target.at, source.at, target.bytes);
    to_offset += target.bytes;
    from_offset += target.bytes;
    bytes -= target.bytes;
  }
}

bool Buffer::find(const Device& device, uint64_t address, uint64_t bytes, std::string& why) {
  pieces_.clear();
  segments_.clear();
  if (!driver().memory.resolve(address, bytes, pieces_)) {
    why = "its memory is not in use, or shorter";
    return false;
  }
  for (const Piece& piece : pieces_) {
    const Block* block = piece.range == nullptr ? nullptr : piece.range->block.get();
    if (block == nullptr || block->arena.device() != device.index) {
      why = "it is not in the memory of device " + std::to_string(device.index);
      return false;
    }
    const Arena& arena = block->arena;
    file_ = arena.file();
    const uint64_t offset =
        arena.offset(block->address) + static_cast<uint64_t>(piece.alias - arena.alias(block->address));
    if (!segments_.empty() && segments_.back().offset + segments_.back().bytes == offset) {
      segments_.back().bytes += piece.bytes;
    } else {
      segments_.push_back({offset, piece.bytes});
    }
  }
  if (segments_.size() <= kMostPieces) return true;
  why = "it is in " + std::to_string(segments_.size()) + " pieces of memory, " + std::to_string(kMostPieces) +
        " are possible";
  return false;
}

Spans Buffer::spans() const {
  Spans spans;
  for (const Piece& piece : pieces_) spans.add(piece.alias, piece.bytes);
  return spans;
}

void Buffer::show(SharedBuffer& out) const {
  out.file = {getpid(), file_, 0, 0, 0, 0, 0};
  if (file_ >= 0) identify(out.file, file_);
  out.count = static_cast<uint32_t>(segments_.size());
  std::copy(segments_.begin(), segments_.end(), out.pieces);
}

struct Files::Mapped {
  ~Mapped() { munmap(base, bytes); }
  uint64_t volume = 0;
  uint64_t number = 0;
  char* base = nullptr;
  uint64_t bytes = 0;
};

namespace {

std::shared_ptr<Files::Mapped> map(const SharedFile& shared) {
  const int file = open_shared(shared, 0);
  if (file < 0) return nullptr;
  struct stat status {};
  void* mapped = MAP_FAILED;
  if (fstat(file, &status) == 0 && status.st_size > 0) {
    mapped = mmap(nullptr, static_cast<size_t>(status.st_size), PROT_READ, MAP_SHARED | MAP_NORESERVE, file, 0);
  }
  close(file);
  if (mapped == MAP_FAILED) return nullptr;
  madvise(mapped, static_cast<size_t>(status.st_size), MADV_DONTFORK);
  auto made = std::make_shared<Files::Mapped>();
  made->volume = shared.volume;
  made->number = shared.number;
  made->base = static_cast<char*>(mapped);
  made->bytes = static_cast<uint64_t>(status.st_size);
  return made;
}

// Of all communicators: a device's file takes several times the addresses that the device has memory.
struct AllFiles {
  std::mutex mutex;
  std::map<std::pair<uint64_t, uint64_t>, std::weak_ptr<Files::Mapped>> mapped;
};
AllFiles& all_files() {
  static auto* const all = new AllFiles;
  return *all;
}

std::shared_ptr<Files::Mapped> find_mapped(const SharedFile& shared) {
  const std::lock_guard<std::mutex> lock(all_files().mutex);
  std::weak_ptr<Files::Mapped>& slot = all_files().mapped[{shared.volume, shared.number}];
  std::shared_ptr<Files::Mapped> found = slot.lock();
  if (found == nullptr) slot = found = map(shared);
  return found;
}

}  // namespace

std::shared_ptr<Files::Mapped> Files::open(const SharedFile& shared) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& each : mapped_) {
    if (each->volume == shared.volume && each->number == shared.number) return each;
  }
  std::shared_ptr<Mapped> found = find_mapped(shared);
  if (found != nullptr) mapped_.push_back(found);
  return found;
}

bool Files::find(const SharedBuffer& buffer, Spans& out) {
  if (buffer.count == 0) return true;
  const std::shared_ptr<Mapped> mapped = open(buffer.file);
  if (mapped == nullptr || buffer.count > kMostPieces) return false;
  for (uint32_t i = 0; i < buffer.count; ++i) {
    const Segment& piece = buffer.pieces[i];
    if (piece.offset > mapped->bytes || piece.bytes > mapped->bytes - piece.offset) return false;
    out.add(mapped->base + piece.offset, piece.bytes);
  }
  return true;
}

}  // namespace unify::simulator
