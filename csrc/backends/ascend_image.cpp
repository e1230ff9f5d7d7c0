#include "ascend_image.h"

#include <elf.h>

#include <cstring>

namespace unify::ascend {
namespace {

constexpr char kMagic[8] = {'U', 'N', 'I', 'F', 'Y', 'A', 'S', 'C'};
constexpr uint32_t kVersion = 1;
constexpr uint32_t kLowered = 1;  // the kind of an image that was not assembled
constexpr uint64_t kMostLocks = 1 << 20;
constexpr uint32_t kPrefixBytes = 24;
constexpr uint32_t kGridBytes = 12;

struct Header {
  char magic[8];
  uint32_t version;
  uint32_t header_bytes;
  uint32_t kind;
  uint32_t mode;
  uint64_t payload_bytes;
  uint64_t lock_count;
  int64_t lock_init;
  uint32_t grid_offset;
  uint32_t logical_grid_offset;
};
static_assert(sizeof(Header) == 56);

template <typename T>
bool read(const void* bytes, size_t size, uint64_t offset, T& out) {
  if (size < sizeof out || offset > size - sizeof out) return false;
  std::memcpy(&out, static_cast<const char*>(bytes) + offset, sizeof out);
  return true;
}

// ACL follows the offsets in it without a doubt.
std::string why_not_elf(const void* bytes, size_t size) {
  Elf64_Ehdr header{};
  if (!read(bytes, size, 0, header)) return "it is too short for an ELF object";
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return "it is no ELF object";
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB) {
    return "it is an ELF object, but not a 64-bit little-endian one";
  }
  if (header.e_shnum == 0 || header.e_shentsize != sizeof(Elf64_Shdr)) return "its section headers are damaged";
  for (uint64_t i = 0; i < header.e_shnum; ++i) {
    Elf64_Shdr section{};
    if (!read(bytes, size, header.e_shoff + i * sizeof section, section)) return "its section headers are cut off";
    if (section.sh_type == SHT_NOBITS || section.sh_type == SHT_NULL) continue;
    if (section.sh_offset > size || section.sh_size > size - section.sh_offset) return "one of its sections is cut off";
  }
  return "";
}

std::string why_not_header(const Header& header, size_t size) {
  if (header.version != kVersion) {
    return "it has version " + std::to_string(header.version) + " of unify's format for Ascend; this unify reads " +
           std::to_string(kVersion) + ". Compile the kernel again.";
  }
  const bool is_whole = header.header_bytes >= sizeof(Header) && header.header_bytes <= size &&
                        header.payload_bytes <= size - header.header_bytes;
  if (!is_whole) return "it is cut off";
  if (header.mode > static_cast<uint32_t>(Mode::kMixed)) return "it is for cores of an unknown kind";
  if (header.lock_count > kMostLocks) return "it asks for more locks than there can be";
  const auto is_behind_prefix = [](uint32_t offset) { return offset >= kPrefixBytes && offset % 4 == 0; };
  const bool is_laid_out =
      is_behind_prefix(header.grid_offset) &&
      (header.logical_grid_offset == 0 ||
       (is_behind_prefix(header.logical_grid_offset) && header.logical_grid_offset + kGridBytes <= header.grid_offset));
  return is_laid_out ? "" : "its arguments are laid out in no possible way";
}

}  // namespace

unify_status read_image(const void* bytes, size_t size, Image& out, std::string& out_why) {
  out = {};
  out.object = bytes;
  out.object_bytes = size;
  Header header{};
  if (size >= sizeof kMagic && std::memcmp(bytes, kMagic, sizeof kMagic) == 0) {
    if (!read(bytes, size, 0, header)) out_why = "it is cut off";
    if (out_why.empty()) out_why = why_not_header(header, size);
    if (!out_why.empty()) return UNIFY_INVALID_ARGUMENT;
    if (header.kind == kLowered) {
      out_why =
          "the kernel was lowered by the vendor's compiler, but not assembled: CANN's hivmc was not on the machine "
          "that "
          "compiled it. Compile it where CANN is installed.";
      return UNIFY_UNSUPPORTED;
    }
    out.object = static_cast<const char*>(bytes) + header.header_bytes;
    out.object_bytes = header.payload_bytes;
    out.mode = static_cast<Mode>(header.mode);
    out.has_prefix = true;
    out.lock_count = header.lock_count;
    out.lock_init = header.lock_init;
    out.grid_offset = header.grid_offset;
    out.logical_grid_offset = header.logical_grid_offset;
  }
  out_why = why_not_elf(out.object, out.object_bytes);
  return out_why.empty() ? UNIFY_OK : UNIFY_INVALID_ARGUMENT;
}

}  // namespace unify::ascend
