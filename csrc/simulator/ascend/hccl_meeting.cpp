#include "hccl_meeting.h"

#include <linux/futex.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>
#include <ctime>
#include <map>
#include <mutex>

#include "simulator/memory.h"

namespace unify::simulator {
namespace {

constexpr char kMagic[8] = {'s', 'i', 'm', 'h', 'c', 'c', 'l', '1'};
constexpr size_t kHeadBytes = round_up(sizeof(SharedHead), kPage);
constexpr size_t kAllBytes = kHeadBytes + kMostRanks * sizeof(SharedRank);  // pages exist from their first use on
constexpr timespec kTick{0, 20000000};
static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<uint32_t>::is_always_lock_free,
              "shared by processes");

// The files of meetings that others may still come to, by their keys.
struct Invitations {
  std::mutex mutex;
  std::map<uint64_t, int> files;
};
Invitations& invitations() {
  static auto* const all = new Invitations;
  return *all;
}

long futex(std::atomic<uint32_t>& word, int operation, uint32_t value, const timespec* timeout) {
  return syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), operation, value, timeout, nullptr, 0);
}

char* map(int file) {
  void* mapped = mmap(nullptr, kAllBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
  if (mapped == MAP_FAILED) return nullptr;
  madvise(mapped, kAllBytes, MADV_DONTFORK);
  return static_cast<char*>(mapped);
}

}  // namespace

bool make_meeting(Ticket& out) {
  if (getrandom(out.key, sizeof out.key, 0) != sizeof out.key) return false;
  const int file = memfd_create("simulated communicator", MFD_CLOEXEC);
  if (file < 0) return false;
  char* mapped = ftruncate(file, kAllBytes) == 0 ? map(file) : nullptr;
  if (mapped == nullptr) {
    close(file);
    return false;
  }
  auto* head = reinterpret_cast<SharedHead*>(mapped);
  std::memcpy(head->key, out.key, sizeof out.key);
  std::memcpy(head->magic, kMagic, sizeof kMagic);
  munmap(mapped, kAllBytes);
  write_handle(out.handle, kMagic, {getpid(), file, 0, 0, kAllBytes, 0, 0}, file);
  const std::lock_guard<std::mutex> lock(invitations().mutex);
  invitations().files[out.key[0]] = file;
  return true;
}

void end_invitation(const Ticket& ticket) {
  const std::lock_guard<std::mutex> lock(invitations().mutex);
  const auto found = invitations().files.find(ticket.key[0]);
  if (found == invitations().files.end()) return;
  close(found->second);
  invitations().files.erase(found);
}

std::shared_ptr<Meeting> open_meeting(const Ticket& ticket) {
  SharedFile shared;
  if (!read_handle(ticket.handle, kMagic, shared)) return nullptr;
  const int file = open_shared(shared, kAllBytes);
  if (file < 0) return nullptr;
  char* mapped = map(file);
  close(file);
  if (mapped == nullptr) return nullptr;
  auto* head = reinterpret_cast<SharedHead*>(mapped);
  const std::shared_ptr<Meeting> meeting(new Meeting(head, reinterpret_cast<SharedRank*>(mapped + kHeadBytes)));
  const bool is_it = std::memcmp(head->magic, kMagic, sizeof kMagic) == 0 &&
                     std::memcmp(head->key, ticket.key, sizeof ticket.key) == 0;
  return is_it ? meeting : nullptr;
}

Meeting::~Meeting() {
  for (const int process : watched_) {
    if (process >= 0) close(process);
  }
  munmap(head_, kAllBytes);
}

void Meeting::ring() {
  head_->bell.fetch_add(1);
  if (head_->waiting.load() > 0) futex(head_->bell, FUTEX_WAKE, INT_MAX, nullptr);
}

void Meeting::sleep(uint32_t bell) {
  head_->waiting.fetch_add(1);
  futex(head_->bell, FUTEX_WAIT, bell, &kTick);
  head_->waiting.fetch_sub(1);
}

bool Meeting::join(uint32_t rank, int device) {
  SharedRank& self = ranks_[rank];
  int32_t nobody = 0;
  self.device = device;
  if (!self.process.compare_exchange_strong(nobody, getpid())) return false;
  ring();
  return true;
}

void Meeting::leave(uint32_t rank) {
  ranks_[rank].is_gone.store(1);
  ring();
}

bool Meeting::is_there(uint32_t rank) {
  SharedRank& other = ranks_[rank];
  if (other.is_gone.load() != 0) return false;
  const int32_t process = other.process.load();
  if (process == 0 || process == getpid()) return true;
  // A descriptor stays that process's, when its number is another one's.
  static auto* const mutex = new std::mutex;
  const std::lock_guard<std::mutex> lock(*mutex);
  int& watched = watched_[rank];
  if (watched < 0) watched = static_cast<int>(syscall(SYS_pidfd_open, process, 0));
  if (watched < 0) return errno != ESRCH;
  pollfd ended{watched, POLLIN, 0};
  return poll(&ended, 1, 0) != 1;
}

}  // namespace unify::simulator
