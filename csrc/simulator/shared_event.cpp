#include "shared_event.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstring>

#include "driver.h"
#include "shared_file.h"

namespace unify::simulator {
namespace {

struct Counters {
  std::atomic<uint64_t> recorded;
  std::atomic<uint64_t> done;
  std::atomic<int32_t> recorder;  // the process of the last record
};
static_assert(std::atomic<uint64_t>::is_always_lock_free, "shared by processes");

// Whether a process runs: not even what its parent has yet to collect of it.
bool is_running(int32_t process) {
  const auto file = static_cast<int>(syscall(SYS_pidfd_open, process, 0));
  if (file < 0) return errno != ESRCH;
  pollfd ended{file, POLLIN, 0};
  const bool has_ended = poll(&ended, 1, 0) == 1;
  close(file);
  return !has_ended;
}

// How often a waiting thread looks for the record, and how many looks pass until it looks for the recorder.
constexpr timespec kPause{0, 200000};
constexpr int kLooks = 100;

constexpr char kEventMagic[8] = {'s', 'i', 'm', 'e', 'v', 'e', 'n', 't'};

}  // namespace

struct SharedEvent {
  ~SharedEvent() {
    if (counters != nullptr) munmap(counters, kPage);
    if (file >= 0) close(file);
  }
  int file = -1;
  int64_t owner = 0;   // the process that made it ...
  int owner_file = 0;  // ... and its descriptor there
  Counters* counters = nullptr;
};

namespace {

std::shared_ptr<SharedEvent> map(int file) {
  auto event = std::make_shared<SharedEvent>();
  event->file = file;
  void* page = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (page == MAP_FAILED) return nullptr;
  event->counters = static_cast<Counters*>(page);
  return event;
}

}  // namespace

std::shared_ptr<SharedEvent> make_shared_event() {
  const int file = memfd_create("simulated event", MFD_CLOEXEC);
  if (file < 0) return nullptr;
  if (ftruncate(file, kPage) != 0) {
    close(file);
    return nullptr;
  }
  auto event = map(file);
  if (event != nullptr) {
    event->owner = getpid();
    event->owner_file = file;
  }
  return event;
}

std::shared_ptr<SharedEvent> import_event(const char (&handle)[kHandleBytes]) {
  SharedFile shared;
  if (!read_handle(handle, kEventMagic, shared)) return nullptr;
  const int file = open_shared(shared, kPage);
  if (file < 0) return nullptr;
  auto event = map(file);
  if (event != nullptr) {
    event->owner = shared.process;
    event->owner_file = shared.file;
  }
  return event;
}

void export_event(const SharedEvent& event, char (&out)[kHandleBytes]) {
  write_handle(out, kEventMagic, {event.owner, event.owner_file, 0, 0, kPage, 0, 0}, event.file);
}

bool is_shared_done(const SharedEvent& event) { return event.counters->done.load() >= event.counters->recorded.load(); }

SharedRecord record_shared(const std::shared_ptr<SharedEvent>& event) {
  const auto number = std::make_shared<uint64_t>(0);  // known before the work can run
  const auto end = [event, number](Stream&) {
    uint64_t before = event->counters->done.load();
    while (before < *number && !event->counters->done.compare_exchange_weak(before, *number)) {
    }
    return kSuccess;
  };
  const auto count = [event, number] {
    event->counters->recorder = getpid();
    *number = event->counters->recorded.fetch_add(1) + 1;
  };
  return {end, count};
}

namespace {

Result wait_for_number(const SharedEvent& event, uint64_t number, const Context& context) {
  // The other process has no way to wake this one.
  for (int looks = 1; event.counters->done.load() < number; ++looks) {
    {
      const Lock lock(driver().mutex);
      if (result_of(context) != kSuccess) break;
    }
    if (looks % kLooks == 0 && !is_running(event.counters->recorder) && event.counters->done.load() < number) {
      return kResults.peer_is_gone;
    }
    nanosleep(&kPause, nullptr);
  }
  return kSuccess;
}

}  // namespace

Run wait_for_shared(const std::shared_ptr<SharedEvent>& event, std::shared_ptr<Context> context) {
  const uint64_t number = event->counters->recorded.load();
  return [event, number, context = std::move(context)](Stream&) { return wait_for_number(*event, number, *context); };
}

Result wait_on_host(const SharedEvent& event, const Context& context) {
  return wait_for_number(event, event.counters->recorded.load(), context);
}

}  // namespace unify::simulator
