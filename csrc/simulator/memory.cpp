#include "memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>

namespace unify::simulator {
namespace {

void* pointer(uint64_t address) { return reinterpret_cast<void*>(static_cast<uintptr_t>(address)); }

}  // namespace

// The file is as long as the range of addresses, and as sparse: offset and address go together.
bool Arena::reserve() {
  const uint64_t range = round_up(4 * total_ + (uint64_t{1} << 30), kGranularity);
  const int file = memfd_create("simulated device memory", MFD_CLOEXEC);
  if (file < 0) return false;
  void* guarded = MAP_FAILED;
  void* alias = MAP_FAILED;
  if (ftruncate(file, static_cast<off_t>(range)) == 0) {
    // One granule more, to begin at a multiple of it.
    guarded = mmap(nullptr, range + kGranularity, PROT_NONE, MAP_SHARED | MAP_NORESERVE, file, 0);
    alias = mmap(nullptr, range, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
  }
  if (guarded != MAP_FAILED && alias != MAP_FAILED) {
    base_ = round_up(reinterpret_cast<uintptr_t>(guarded), kGranularity);
    if (mmap(pointer(base_), range, PROT_NONE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, file, 0) != MAP_FAILED) {
      // A child of fork has no driver: what it would see of the memory is not its own.
      madvise(guarded, range + kGranularity, MADV_DONTFORK);
      madvise(alias, range, MADV_DONTFORK);
      file_ = file;
      range_ = range;
      alias_ = static_cast<char*>(alias);
      free_.emplace(base_ + kGranularity, base_ + range);  // what lies before an allocation is the driver's too
      return true;
    }
  }
  if (guarded != MAP_FAILED) munmap(guarded, range + kGranularity);
  if (alias != MAP_FAILED) munmap(alias, range);
  close(file);
  return false;
}

uint64_t Arena::take(uint64_t bytes, uint64_t alignment) {
  if (bytes > total_ || used_ + bytes > total_) return 0;
  if (alias_ == nullptr && !reserve()) return 0;
  for (auto it = free_.begin(); it != free_.end(); ++it) {
    const auto [begin, end] = *it;
    const uint64_t address = round_up(begin, alignment);
    // A page behind each block stays without access, so that running over the end is noticed.
    if (address >= end || end - address < bytes + kPage) continue;
    free_.erase(it);
    if (address > begin) free_.emplace(begin, address);
    if (address + bytes + kPage < end) free_.emplace(address + bytes + kPage, end);
    used_ += bytes;
    peak_ = std::max(peak_, used_);
    return address;
  }
  return 0;
}

void Arena::give_back(uint64_t address, uint64_t bytes) {
  used_ -= bytes;
  fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset(address)),
            static_cast<off_t>(bytes));
  uint64_t begin = address;
  uint64_t end = address + bytes + kPage;
  auto next = free_.lower_bound(begin);
  if (next != free_.end() && next->first == end) {
    end = next->second;
    next = free_.erase(next);
  }
  if (next != free_.begin() && std::prev(next)->second == begin) {
    begin = std::prev(next)->first;
    free_.erase(std::prev(next));
  }
  free_.emplace(begin, end);
}

bool Arena::show(uint64_t address, uint64_t where, uint64_t bytes) const {
  void* shown = mmap(pointer(where), bytes, PROT_NONE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, file_,
                     static_cast<off_t>(offset(address)));
  if (shown == MAP_FAILED) return false;
  madvise(shown, bytes, MADV_DONTFORK);
  return true;
}

Range::~Range() {
  if (is_borrowed) return;
  if (kind == RangeKind::kPinned || kind == RangeKind::kManaged || kind == RangeKind::kImported || owns_alias) {
    munmap(alias, bytes);
  }
}

std::shared_ptr<Range> show_file(int file, uint64_t offset, uint64_t bytes) {
  const auto from = static_cast<off_t>(offset);
  void* address = mmap(nullptr, bytes, PROT_NONE, MAP_SHARED | MAP_NORESERVE, file, from);
  void* alias = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, from);
  if (address == MAP_FAILED || alias == MAP_FAILED) {
    if (address != MAP_FAILED) munmap(address, bytes);
    if (alias != MAP_FAILED) munmap(alias, bytes);
    return nullptr;
  }
  madvise(address, bytes, MADV_DONTFORK);
  madvise(alias, bytes, MADV_DONTFORK);
  auto range = std::make_shared<Range>();
  range->kind = RangeKind::kImported;
  range->address = reinterpret_cast<uintptr_t>(address);
  range->bytes = range->asked_bytes = bytes;
  range->alias = static_cast<char*>(alias);
  return range;
}

void Memory::add(const std::shared_ptr<Range>& range) {
  ranges_[range->address] = range;
  refresh(*range);
}

void Memory::remove(const std::shared_ptr<Range>& range) {
  ranges_.erase(range->address);
  range->access = 0;
  const bool has_guard = range->kind != RangeKind::kPinned && range->kind != RangeKind::kManaged;
  if (range->is_open && has_guard) mprotect(pointer(range->address), range->bytes, PROT_NONE);
  range->is_open = false;
  if (range->kind == RangeKind::kImported) munmap(pointer(range->address), range->bytes);
  if (range->kind == RangeKind::kMapped) {  // the addresses stay reserved
    mmap(pointer(range->address), range->bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
         0);
  }
}

void Memory::remove_of(const void* owner) {
  std::vector<std::shared_ptr<Range>> owned;
  for (const auto& [address, range] : ranges_) {
    if (range->owner == owner) owned.push_back(range);
  }
  for (const auto& range : owned) remove(range);
}

std::shared_ptr<Range> Memory::find(uint64_t address) const {
  auto found = ranges_.upper_bound(address);
  if (found == ranges_.begin()) return nullptr;
  --found;
  return address - found->first < found->second->bytes ? found->second : nullptr;
}

bool Memory::resolve(uint64_t address, uint64_t bytes, std::vector<Piece>& out) const {
  if (bytes > 0 && (address < kPage || address + bytes < address)) return false;
  bool is_first = true;
  while (bytes > 0) {
    const std::shared_ptr<Range> range = find(address);
    if (range == nullptr) {
      const bool is_ours =
          !is_first || is_reserved(address, 1) || std::any_of(arenas_.begin(), arenas_.end(), [&](auto* arena) {
            return arena->contains(address) || arena->contains(address + bytes - 1);
          });
      if (is_ours) return false;
      out.push_back({nullptr, static_cast<char*>(pointer(address)), bytes});
      return true;
    }
    // Beyond what was asked for, a chip has memory of somebody else.
    const uint64_t at = address - range->address;
    const uint64_t usable = range->asked_bytes;
    if (at >= usable) return false;
    const uint64_t part = std::min(bytes, usable - at);
    out.push_back({range, range->alias + at, part});
    address += part;
    bytes -= part;
    is_first = false;
  }
  return true;
}

uint64_t Memory::reserve(uint64_t bytes, uint64_t alignment) {
  const uint64_t all = bytes + alignment;
  if (all < bytes) return 0;
  void* memory = mmap(nullptr, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return 0;
  const auto begin = static_cast<uint64_t>(reinterpret_cast<uintptr_t>(memory));
  const uint64_t address = round_up(begin, alignment);
  if (address > begin) munmap(memory, address - begin);
  munmap(pointer(address + bytes), begin + all - address - bytes);
  reserved_.emplace(address, bytes);
  return address;
}

bool Memory::unreserve(uint64_t address, uint64_t bytes) {
  const auto found = reserved_.find(address);
  if (found == reserved_.end() || found->second != bytes || is_mapped(address, bytes)) return false;
  reserved_.erase(found);
  munmap(pointer(address), bytes);
  return true;
}

bool Memory::is_reserved(uint64_t address, uint64_t bytes) const {
  auto found = reserved_.upper_bound(address);
  if (found == reserved_.begin()) return false;
  --found;
  const uint64_t at = address - found->first;
  return at < found->second && found->second - at >= bytes;
}

uint64_t Memory::reserved_bytes(uint64_t address) const {
  const auto found = reserved_.find(address);
  return found == reserved_.end() ? 0 : found->second;
}

// Whether any of these addresses is in use.
bool Memory::is_mapped(uint64_t address, uint64_t bytes) const {
  const auto next = ranges_.lower_bound(address);
  if (next != ranges_.end() && next->first - address < bytes) return true;
  return find(address) != nullptr;
}

uint32_t Memory::access(const Range& range) const {
  if (range.kind != RangeKind::kDevice || range.access == 0) return range.access;
  return range.access | peers_[range.device];
}

void Memory::refresh(Range& range) {
  if (range.kind == RangeKind::kPinned || range.kind == RangeKind::kManaged) return;
  bool is_open = false;
  for (int device = 0; device < kMaxDevices; ++device) {
    is_open = is_open || ((access(range) >> device & 1U) != 0 && is_opened_[device]);
  }
  if (is_open == range.is_open) return;
  mprotect(pointer(range.address), range.bytes, is_open ? PROT_READ | PROT_WRITE : PROT_NONE);
  range.is_open = is_open;
}

void Memory::begin_kernel(int device) {
  if (running_[device]++ > 0 || is_opened_[device]) return;
  is_opened_[device] = true;
  for (const auto& [address, range] : ranges_) refresh(*range);
}

void Memory::end_kernel(int device) { --running_[device]; }

void Memory::close(int device) {
  if (running_[device] > 0 || !is_opened_[device]) return;
  is_opened_[device] = false;
  for (const auto& [address, range] : ranges_) refresh(*range);
}

void Memory::set_peer(int from, int to, bool is_enabled) {
  const uint32_t bit = 1U << from;
  peers_[to] = is_enabled ? peers_[to] | bit : peers_[to] & ~bit;
  for (const auto& [address, range] : ranges_) refresh(*range);
}

bool Memory::may_use(int device, uint64_t address) const {
  const std::shared_ptr<Range> range = find(address);
  return range != nullptr && (access(*range) >> device & 1U) != 0;
}

void Memory::set_access(Range& range, uint32_t access) {
  range.access = access;
  refresh(range);
}

}  // namespace unify::simulator
