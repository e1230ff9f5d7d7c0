#include "elf_bounds.h"

namespace unify::elf {
namespace {

bool is_inside(size_t bytes, uint64_t offset, uint64_t part) { return offset <= bytes && part <= bytes - offset; }

std::string why_not_sections(const void* file, size_t bytes, const Elf64_Ehdr& header) {
  if (header.e_shnum == 0) return "it has no sections";
  if (header.e_shentsize != sizeof(Elf64_Shdr)) return "its section headers have a strange size";
  for (uint64_t i = 0; i < header.e_shnum; ++i) {
    Elf64_Shdr section{};
    if (!read(file, bytes, header.e_shoff + i * sizeof section, section)) return "its section headers are cut off";
    if (section.sh_type == SHT_NOBITS || section.sh_type == SHT_NULL) continue;
    if (!is_inside(bytes, section.sh_offset, section.sh_size)) return "one of its sections is cut off";
  }
  return "";
}

std::string why_not_segments(const void* file, size_t bytes, const Elf64_Ehdr& header) {
  if (header.e_phnum == 0) return "";
  if (header.e_phentsize != sizeof(Elf64_Phdr)) return "its program headers have a strange size";
  for (uint64_t i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr segment{};
    if (!read(file, bytes, header.e_phoff + i * sizeof segment, segment)) return "its program headers are cut off";
    if (!is_inside(bytes, segment.p_offset, segment.p_filesz)) return "one of its segments is cut off";
  }
  return "";
}

}  // namespace

std::string why_not_elf(const void* file, size_t bytes, Elf64_Ehdr& out_header) {
  if (!read(file, bytes, 0, out_header)) return "it is too short for an ELF file";
  if (std::memcmp(out_header.e_ident, ELFMAG, SELFMAG) != 0) return "it is no ELF file";
  if (out_header.e_ident[EI_CLASS] != ELFCLASS64 || out_header.e_ident[EI_DATA] != ELFDATA2LSB) {
    return "it is an ELF file, but not a 64-bit little-endian one";
  }
  const std::string why = why_not_sections(file, bytes, out_header);
  return why.empty() ? why_not_segments(file, bytes, out_header) : why;
}

}  // namespace unify::elf
