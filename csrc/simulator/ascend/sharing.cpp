#include "sharing.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstring>

#include "simulator/memory.h"

namespace unify::simulator {

constexpr char kMagic[8] = {'s', 'i', 'm', 's', 'h', 'a', 'r', 'e'};
constexpr size_t kMostProcesses = 512;

struct SharedPage {
  char magic[8];
  SharedFile memory;
  uint32_t is_open;
  std::atomic<uint32_t> allowed;
  int32_t processes[kMostProcesses];
};
static_assert(sizeof(SharedPage) <= kPage, "is a page");

Shared::~Shared() {
  if (page != nullptr) munmap(page, kPage);
  if (file >= 0) close(file);
}

std::shared_ptr<Shared> share_memory(const SharedFile& memory, bool is_open) {
  auto shared = std::make_shared<Shared>();
  shared->file = memfd_create("simulated shared memory", MFD_CLOEXEC);
  if (shared->file < 0 || ftruncate(shared->file, kPage) != 0) return nullptr;
  void* page = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, shared->file, 0);
  if (page == MAP_FAILED) return nullptr;
  shared->page = static_cast<SharedPage*>(page);
  std::memcpy(shared->page->magic, kMagic, sizeof kMagic);
  shared->page->memory = memory;
  identify(shared->page->memory, memory.file);
  shared->page->is_open = is_open ? 1 : 0;
  shared->name = static_cast<uint64_t>(getpid()) << 32 | static_cast<uint32_t>(shared->file);
  return shared;
}

bool allow(Shared& shared, const int32_t* processes, size_t count) {
  SharedPage& page = *shared.page;
  const uint32_t before = page.allowed;
  if (count > kMostProcesses - before) return false;
  for (size_t i = 0; i < count; ++i) page.processes[before + i] = processes[i];
  page.allowed = before + static_cast<uint32_t>(count);
  return true;
}

Opened open_name(uint64_t name, SharedFile& out) {
  // Only read, since by now it may be any file of that process: the page itself says what it is.
  const auto process = static_cast<int64_t>(name >> 32);
  const int file = open_descriptor(process, static_cast<int32_t>(name & 0x7fffffff), O_RDONLY);
  struct stat status {};
  if (file < 0) return Opened::kUnknown;
  if (fstat(file, &status) != 0 || static_cast<size_t>(status.st_size) < kPage) {
    close(file);
    return Opened::kUnknown;
  }
  void* mapped = mmap(nullptr, kPage, PROT_READ, MAP_SHARED, file, 0);
  close(file);
  if (mapped == MAP_FAILED) return Opened::kUnknown;
  const auto* page = static_cast<const SharedPage*>(mapped);
  Opened opened = Opened::kUnknown;
  if (std::memcmp(page->magic, kMagic, sizeof kMagic) == 0) {
    const uint32_t allowed = page->allowed;
    bool is_allowed = page->is_open != 0;
    for (uint32_t i = 0; i < allowed && i < kMostProcesses; ++i) {
      is_allowed = is_allowed || page->processes[i] == getpid();
    }
    opened = is_allowed ? Opened::kYes : Opened::kNotAllowed;
    out = page->memory;
  }
  munmap(mapped, kPage);
  return opened;
}

}  // namespace unify::simulator
