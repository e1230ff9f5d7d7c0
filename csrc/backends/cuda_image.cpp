#include "cuda_image.h"

#include <elf.h>

#include <cstdint>
#include <cstring>
#include <string_view>

namespace unify::cuda {
namespace {

struct FatbinHeader {
  uint32_t magic;
  uint16_t version;
  uint16_t header_bytes;
  uint64_t bytes;  // behind the header
};
constexpr uint32_t kFatbinMagic = 0xba55ed50;

template <typename T>
bool read(const void* image, size_t size, uint64_t offset, T& out) {
  if (size < sizeof out || offset > size - sizeof out) return false;
  std::memcpy(&out, static_cast<const char*>(image) + offset, sizeof out);
  return true;
}

std::string why_not_elf(const void* image, size_t bytes) {
  Elf64_Ehdr header{};
  if (!read(image, bytes, 0, header) || header.e_ident[EI_CLASS] != ELFCLASS64 ||
      header.e_ident[EI_DATA] != ELFDATA2LSB) {
    return "the ELF header is cut off, or not of a 64-bit little-endian file";
  }
  if (header.e_machine != EM_CUDA) return "it is an ELF file for another machine than a CUDA device";
  if (header.e_shentsize != sizeof(Elf64_Shdr) && header.e_shnum != 0) return "its section headers have a strange size";
  for (uint64_t i = 0; i < header.e_shnum; ++i) {
    Elf64_Shdr section{};
    if (!read(image, bytes, header.e_shoff + i * sizeof section, section)) return "its section headers are cut off";
    if (section.sh_type == SHT_NOBITS || section.sh_type == SHT_NULL) continue;
    if (section.sh_offset > bytes || section.sh_size > bytes - section.sh_offset)
      return "one of its sections is cut off";
  }
  if (header.e_phentsize != sizeof(Elf64_Phdr) && header.e_phnum != 0) return "its program headers have a strange size";
  for (uint64_t i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr segment{};
    if (!read(image, bytes, header.e_phoff + i * sizeof segment, segment)) return "its program headers are cut off";
    if (segment.p_offset > bytes || segment.p_filesz > bytes - segment.p_offset)
      return "one of its segments is cut off";
  }
  return header.e_shnum == 0 ? "it has no sections" : "";
}

}  // namespace

std::string why_not_an_image(const void* image, size_t bytes, bool& out_is_text) {
  out_is_text = false;
  const std::string_view text(static_cast<const char*>(image), bytes);
  if (text.substr(0, 4) == "\177ELF") return why_not_elf(image, bytes);
  FatbinHeader fatbin{};
  if (read(image, bytes, 0, fatbin) && fatbin.magic == kFatbinMagic) {
    const bool is_whole = fatbin.header_bytes >= sizeof fatbin && fatbin.header_bytes <= bytes &&
                          fatbin.bytes <= bytes - fatbin.header_bytes;
    return is_whole ? "" : "the fatbin is cut off";
  }
  // PTX: text, with a .version before anything else that counts.
  const std::string_view whole = text.substr(0, text.find_last_not_of('\0') + 1);
  out_is_text = whole.find('\0') == std::string_view::npos && whole.find(".version") != std::string_view::npos;
  return out_is_text ? "" : "it is neither a cubin, nor a fatbin, nor PTX";
}

}  // namespace unify::cuda
