#include "host_fault.h"

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstdio>
#include <iterator>
#include <mutex>

namespace unify::host {
namespace {

constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
struct sigaction previous[std::size(kSignals)];

struct Guard {
  sigjmp_buf back;
  volatile sig_atomic_t is_armed = 0;
  int signal = 0;
  void* address = nullptr;
};
thread_local Guard guard;

void on_signal(int number, siginfo_t* info, void* context) {
  if (guard.is_armed) {
    guard.is_armed = 0;
    guard.signal = number;
    guard.address = info->si_addr;
    // What is blocked while the handler runs (by ThreadSanitizer: everything) would stay so: a second fault of the
    // thread would end the process. sigsetjmp would keep the mask too, at the price of a system call a launch.
    pthread_sigmask(SIG_SETMASK, &static_cast<ucontext_t*>(context)->uc_sigmask, nullptr);
    siglongjmp(guard.back, 1);
  }
  // Not ours: whoever was there before us, faulthandler or a JVM say.
  for (size_t i = 0; i < std::size(kSignals); ++i) {
    if (kSignals[i] != number) continue;
    if ((previous[i].sa_flags & SA_SIGINFO) != 0) {
      previous[i].sa_sigaction(number, info, context);
    } else if (previous[i].sa_handler == SIG_DFL || previous[i].sa_handler == SIG_IGN) {
      sigaction(number, &previous[i], nullptr);  // the instruction runs again and ends the process as usual
    } else {
      previous[i].sa_handler(number);
    }
  }
}

void install() {
  struct sigaction action {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < std::size(kSignals); ++i) sigaction(kSignals[i], &action, &previous[i]);
}

// A stack of its own for the handler, since a kernel may have run off the thread's.
struct SignalStack {
  SignalStack() {
    stack_t now{};
    if (sigaltstack(nullptr, &now) == 0 && (now.ss_flags & SS_DISABLE) == 0) return;  // somebody gave one
    memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
      memory = nullptr;
      return;
    }
    stack_t ours{};
    ours.ss_sp = memory;
    ours.ss_size = kBytes;
    sigaltstack(&ours, nullptr);
  }
  ~SignalStack() {
    if (memory == nullptr) return;
    stack_t off{};
    off.ss_flags = SS_DISABLE;
    sigaltstack(&off, nullptr);
    munmap(memory, kBytes);
  }
  static constexpr size_t kBytes = 64 << 10;
  void* memory = nullptr;
};

const char* name_of(int number) {
  switch (number) {
    case SIGSEGV:
      return "invalid access (SIGSEGV)";
    case SIGBUS:
      return "invalid access (SIGBUS)";
    case SIGFPE:
      return "division by zero or overflow (SIGFPE)";
    default:
      return "instruction this CPU does not have (SIGILL)";
  }
}

}  // namespace

bool call_guarded(unify_host_kernel kernel, const unify_host_call* call, uint64_t begin, uint64_t end,
                  std::string& message) {
  static std::once_flag once;
  std::call_once(once, install);
  thread_local SignalStack stack;
  (void)stack;
  if (sigsetjmp(guard.back, 0) == 0) {
    guard.is_armed = 1;
    kernel(call, begin, end);
    guard.is_armed = 0;
    return true;
  }
  char text[96];
  std::snprintf(text, sizeof text, "%s at address %p", name_of(guard.signal), guard.address);
  message = text;
  return false;
}

}  // namespace unify::host
