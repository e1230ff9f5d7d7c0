#include "kernel.h"

#include <sys/mman.h>
#include <unify/host_kernel.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "backends/host_fault.h"
#include "driver.h"
#include "front.h"

namespace unify::simulator {
namespace {

// Scratch memory of a stream's thread, kept for its next program.
void* scratch(uint64_t bytes) {
  struct Arena {
    ~Arena() { std::free(memory); }
    void* memory = nullptr;
    uint64_t bytes = 0;
  };
  thread_local Arena arena;
  if (bytes <= arena.bytes) return arena.memory;
  std::free(arena.memory);
  arena.bytes = 0;
  if (posix_memalign(&arena.memory, kPage, round_up(bytes, kPage)) != 0) {
    arena.memory = nullptr;
  } else {
    arena.bytes = bytes;
  }
  return arena.memory;
}

// Addresses that nobody may use. A pointer that the chip could not follow is exchanged for one in here, since this
// thread could follow it: it faults when the kernel uses it, and not when it is only passed.
uint64_t poison(uint64_t address) {
  constexpr uint64_t kBytes = uint64_t{1} << 32;
  static void* const area = mmap(nullptr, 2 * kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (area == MAP_FAILED) return address;
  return reinterpret_cast<uintptr_t>(area) + kBytes / 2 + address % kBytes;
}

void hide_foreign_pointers(const KernelImage& kernel, int device, std::vector<char>& args) {
  for (const HostParameter& parameter : kernel.parameters) {
    if (parameter.is_pointer == 0) continue;
    uint64_t address = 0;
    std::memcpy(&address, args.data() + parameter.offset, sizeof address);
    if (address == 0 || driver().memory.may_use(device, address)) continue;
    address = poison(address);
    std::memcpy(args.data() + parameter.offset, &address, sizeof address);
  }
}

Result result_of_signal(const std::string& message) {
  if (message.find("SIGILL") != std::string::npos) return kResults.illegal_instruction;
  if (message.find("SIGFPE") != std::string::npos) return kResults.arithmetic;
  return kResults.illegal_address;
}

}  // namespace

Result run_kernel(const Function& function, const uint32_t (&grid)[3], std::vector<char> args) {
  const KernelImage& kernel = function.kernel;
  const int device = function.context->device->index;
  unify_host_fault fault{};
  unify_host_call call{};
  call.fault = &fault;
  for (int axis = 0; axis < 3; ++axis) call.grid[axis] = grid[axis];
  if (kernel.scratch_bytes > 0 && (call.scratch = scratch(kernel.scratch_bytes)) == nullptr) {
    return kResults.no_resources;
  }
  {
    const Lock lock(driver().mutex);
    hide_foreign_pointers(kernel, device, args);
    driver().memory.begin_kernel(device);
  }
  call.args = args.data();
  const uint64_t programs = uint64_t{grid[0]} * grid[1] * grid[2];
  std::string message;
  const bool is_whole =
      host::call_guarded(reinterpret_cast<unify_host_kernel>(kernel.entry), &call, 0, programs, message);
  {
    const Lock lock(driver().mutex);
    driver().memory.end_kernel(device);
  }
  if (!is_whole) return result_of_signal(message);
  if (fault.kind == 0) return kSuccess;
  report_fault(kernel.name, fault);
  return fault.kind == 1 ? kResults.assertion : kResults.illegal_address;
}

}  // namespace unify::simulator
