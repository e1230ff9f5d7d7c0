#include "reclaim.h"

namespace unify {
namespace {

LetGoList<Reclaimable> let_go;  // trivially destroyed: things are let go of until the process ends
std::atomic<bool> was_hook_told{false};
std::atomic<bool (*)()> told_hook{nullptr};
thread_local int host_calls = 0;

// Once over the list. Whether something ended.
bool end_once() noexcept {
  bool has_ended = false;
  for (Reclaimable* thing = let_go.take(); thing != nullptr;) {
    Reclaimable* next = thing->next_let_go;
    if (thing->end()) {
      delete thing;
      has_ended = true;
    } else {
      let_go.add(thing);
    }
    thing = next;
  }
  return has_ended;
}

}  // namespace

void reclaim_later(Reclaimable* thing) noexcept {
  let_go.add(thing);
  const auto hook = told_hook.load(std::memory_order_acquire);
  if (hook == nullptr || was_hook_told.exchange(true, std::memory_order_acq_rel)) return;
  if (!hook()) was_hook_told.store(false, std::memory_order_release);
}

void reclaim() noexcept {
  if (let_go.is_empty() || host_calls > 0) return;
  const InHostCall inner;  // what ends may call what calls this
  was_hook_told.store(false, std::memory_order_release);
  while (end_once()) {  // what ended may have let go of more
  }
}

void set_reclaim_hook(bool (*hook)()) noexcept { told_hook.store(hook, std::memory_order_release); }

InHostCall::InHostCall() noexcept { ++host_calls; }
InHostCall::~InHostCall() { --host_calls; }

}  // namespace unify
