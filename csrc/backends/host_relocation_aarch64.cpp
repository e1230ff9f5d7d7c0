#if defined(__aarch64__)
#include <cstring>

#include "host_relocation.h"

namespace unify::host {
namespace {

uint64_t page(uint64_t address) { return address & ~uint64_t{0xfff}; }

bool fits(uint64_t value, unsigned bits) {
  const uint64_t half = uint64_t{1} << (bits - 1);
  return value + half < 2 * half;
}

// Puts `value` into the bits [at, at + bits) of the instruction.
void set_field(uint8_t* target, uint64_t value, unsigned at, unsigned bits) {
  const uint32_t mask = (uint32_t{1} << bits) - 1;
  uint32_t word;
  std::memcpy(&word, target, sizeof word);
  word = (word & ~(mask << at)) | (static_cast<uint32_t>(value) & mask) << at;
  std::memcpy(target, &word, sizeof word);
}

// adrp: 21 bits of the distance in pages, the lowest two apart.
Relocated set_page(uint8_t* target, uint64_t address) {
  const uint64_t distance = page(address) - page(reinterpret_cast<uint64_t>(target));
  if (!fits(distance, 33)) return Relocated::kOutOfReach;
  set_field(target, distance >> 12, 29, 2);
  set_field(target, distance >> 14, 5, 19);
  return Relocated::kDone;
}

// add, ldr and str: the place in the page, counted in what is loaded or stored.
Relocated set_place(uint8_t* target, uint64_t address, unsigned shift) {
  const uint64_t place = address & 0xfff;
  if ((place & ((uint64_t{1} << shift) - 1)) != 0) return Relocated::kOutOfReach;
  set_field(target, place >> shift, 10, 12);
  return Relocated::kDone;
}

// b and bl: 26 bits of the distance in instructions.
Relocated set_branch(uint8_t* target, uint64_t address) {
  const uint64_t distance = address - reinterpret_cast<uint64_t>(target);
  if (!fits(distance, 28) || distance % 4 != 0) return Relocated::kOutOfReach;
  set_field(target, distance >> 2, 0, 26);
  return Relocated::kDone;
}

Relocated set_number(uint8_t* target, uint64_t number, size_t bytes) {
  if (bytes == 4 && !fits(number, 32)) return Relocated::kOutOfReach;
  std::memcpy(target, &number, bytes);
  return Relocated::kDone;
}

}  // namespace

void write_stub(uint8_t* stub, const uint8_t* slot) {
  // adrp x16, slot; ldr x16, [x16, slot's place in its page]; br x16. A call may change x16 (AAPCS64, 6.1.1).
  constexpr uint32_t kCode[] = {0x90000010, 0xf9400210, 0xd61f0200};
  static_assert(sizeof kCode == kStubBytes);
  std::memcpy(stub, kCode, sizeof kCode);
  const auto address = reinterpret_cast<uint64_t>(slot);
  set_page(stub, address);
  set_place(stub + 4, address, 3);
}

size_t relocation_bytes(uint32_t type) { return type == R_AARCH64_ABS64 || type == R_AARCH64_PREL64 ? 8 : 4; }

// ELF for the Arm 64-bit Architecture, section 5.7.
Relocated apply_relocation(uint32_t type, uint8_t* target, const Symbol& symbol, uint64_t addend) {
  const uint64_t address = symbol.value + addend;
  switch (type) {
    case R_AARCH64_NONE:
      return Relocated::kDone;
    case R_AARCH64_ABS64:
      return set_number(target, address, 8);
    case R_AARCH64_PREL64:
      return set_number(target, address - reinterpret_cast<uint64_t>(target), 8);
    case R_AARCH64_PREL32:
      return set_number(target, address - reinterpret_cast<uint64_t>(target), 4);
    case R_AARCH64_CALL26:
    case R_AARCH64_JUMP26:
      return set_branch(target, symbol.is_external ? symbol.stub + addend : address);
    case R_AARCH64_ADR_PREL_PG_HI21:
      return set_page(target, address);
    case R_AARCH64_ADD_ABS_LO12_NC:
    case R_AARCH64_LDST8_ABS_LO12_NC:
      return set_place(target, address, 0);
    case R_AARCH64_LDST16_ABS_LO12_NC:
      return set_place(target, address, 1);
    case R_AARCH64_LDST32_ABS_LO12_NC:
      return set_place(target, address, 2);
    case R_AARCH64_LDST64_ABS_LO12_NC:
      return set_place(target, address, 3);
    case R_AARCH64_LDST128_ABS_LO12_NC:
      return set_place(target, address, 4);
    case R_AARCH64_ADR_GOT_PAGE:
      return set_page(target, symbol.slot);
    case R_AARCH64_LD64_GOT_LO12_NC:
      return set_place(target, symbol.slot, 3);
    default:
      return Relocated::kUnknown;
  }
}

}  // namespace unify::host
#endif
