#if defined(__x86_64__)
#include <cstring>

#include "host_relocation.h"

namespace unify::host {

void write_stub(uint8_t* stub, const uint8_t* slot) {
  // jmp *slot(%rip)
  const auto distance = static_cast<int32_t>(slot - (stub + 6));
  stub[0] = 0xff;
  stub[1] = 0x25;
  std::memcpy(stub + 2, &distance, sizeof distance);
}

size_t relocation_bytes(uint32_t type) { return type == R_X86_64_64 || type == R_X86_64_PC64 ? 8 : 4; }

// x86-64 psABI, table 4.9.
Relocated apply_relocation(uint32_t type, uint8_t* target, const Symbol& symbol, uint64_t addend) {
  const auto here = reinterpret_cast<uint64_t>(target);
  uint64_t result = 0;
  switch (type) {
    case R_X86_64_NONE:
      return Relocated::kDone;
    case R_X86_64_64:
      result = symbol.value + addend;
      break;
    case R_X86_64_PC64:
      result = symbol.value + addend - here;
      break;
    case R_X86_64_PC32:
    case R_X86_64_PLT32:
      result = (symbol.is_external ? symbol.stub : symbol.value) + addend - here;
      break;
    case R_X86_64_GOTPCREL:
    case R_X86_64_GOTPCRELX:
    case R_X86_64_REX_GOTPCRELX:
      result = symbol.slot + addend - here;
      break;
    default:
      return Relocated::kUnknown;
  }
  if (relocation_bytes(type) == sizeof result) {
    std::memcpy(target, &result, sizeof result);
    return Relocated::kDone;
  }
  const auto narrow = static_cast<int32_t>(result);
  if (static_cast<uint64_t>(int64_t{narrow}) != result) return Relocated::kOutOfReach;
  std::memcpy(target, &narrow, sizeof narrow);
  return Relocated::kDone;
}

}  // namespace unify::host
#endif
