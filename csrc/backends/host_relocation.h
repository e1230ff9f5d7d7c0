// What the loader of kernels has to know of a processor: the jump to a function far away, and its relocations.
#pragma once

#include <elf.h>

#include <cstddef>
#include <cstdint>

namespace unify::host {

#if defined(__x86_64__)
inline constexpr uint16_t kMachine = EM_X86_64;
inline constexpr const char* kMachineName = "x86-64";
inline constexpr size_t kStubBytes = 8;
#elif defined(__aarch64__)
inline constexpr uint16_t kMachine = EM_AARCH64;
inline constexpr const char* kMachineName = "aarch64";
inline constexpr size_t kStubBytes = 12;
#else
#error "The CPU backend knows x86-64 and aarch64. Another processor needs a host_relocation_….cpp of its own."
#endif

// The addresses that a relocation chooses from.
struct Symbol {
  uint64_t value;
  uint64_t stub;  // a jump to it, close to all code
  uint64_t slot;  // memory that holds its address, close to all code
  bool is_external;
};

enum class Relocated { kDone, kUnknown, kOutOfReach };

// Writes at `stub`, which will run there, a jump to the address that `slot` holds.
void write_stub(uint8_t* stub, const uint8_t* slot);

// How many bytes a relocation of this type may change; its target has at least these.
size_t relocation_bytes(uint32_t type);

// Changes what is at `target`. An addend beyond what addresses hold wraps, and does not reach then.
Relocated apply_relocation(uint32_t type, uint8_t* target, const Symbol& symbol, uint64_t addend);

}  // namespace unify::host
