#include "image.h"

#include <algorithm>
#include <cstring>

namespace unify::simulator {
namespace {

constexpr uint64_t kMostBytes = uint64_t{1} << 30;
constexpr size_t kMostParameters = 4096;
constexpr uint32_t kMostArgsBytes = 32764;  // of a kernel: CUDA C++ programming guide, "Function parameters"
constexpr uint64_t kMostScratch = uint64_t{64} << 20;

bool fail(std::string& why, const char* reason) {
  why = reason;
  return false;
}

}  // namespace

bool read_host_section(const uint8_t* content, uint64_t bytes, KernelImage& out, std::string& why) {
  HostHeader host{};
  if (bytes < sizeof host) return fail(why, "the section with the CPU's code is too short");
  std::memcpy(&host, content, sizeof host);
  if (std::memcmp(host.magic, kHostMagic, sizeof host.magic) != 0 || host.version != kHostVersion) {
    return fail(why, "the section with the CPU's code is of another version");
  }
  const uint64_t needed = sizeof host + uint64_t{host.parameters} * sizeof(HostParameter) + host.name_bytes;
  if (host.parameters > kMostParameters || host.header_bytes < needed || host.header_bytes > bytes ||
      host.object_bytes > bytes - host.header_bytes || host.args_bytes > kMostArgsBytes ||
      host.scratch_bytes > kMostScratch || host.name_bytes == 0 || host.prefix_bytes > host.args_bytes) {
    return fail(why, "sizes in the section with the CPU's code");
  }
  out.args_bytes = host.args_bytes;
  out.prefix_bytes = host.prefix_bytes;
  out.scratch_bytes = host.scratch_bytes;
  out.parameters.resize(host.parameters);
  const uint8_t* at = content + sizeof host;
  if (host.parameters > 0) std::memcpy(out.parameters.data(), at, host.parameters * sizeof(HostParameter));
  for (const HostParameter& parameter : out.parameters) {
    if (parameter.offset > host.args_bytes || parameter.bytes > host.args_bytes - parameter.offset ||
        (parameter.is_pointer != 0 && parameter.bytes != sizeof(uint64_t))) {
      return fail(why, "a parameter in the section with the CPU's code");
    }
  }
  at += host.parameters * sizeof(HostParameter);
  out.name.assign(reinterpret_cast<const char*>(at), host.name_bytes);
  out.object = host::LoadedObject::load(content + host.header_bytes, host.object_bytes, why);
  if (out.object == nullptr) return false;
  out.entry = out.object->find(out.name);
  return out.entry != nullptr || fail(why, "the object does not have the kernel of its header");
}

std::string ElfFile::name(const Elf64_Shdr& section) const {
  const Elf64_Shdr& strings = sections[header.e_shstrndx];
  if (section.sh_name >= strings.sh_size) return {};
  const auto* begin = reinterpret_cast<const char*>(image + strings.sh_offset + section.sh_name);
  return std::string(begin, strnlen(begin, strings.sh_size - section.sh_name));
}

uint64_t end_of(const Elf64_Ehdr& header) {
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return 0;
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB) return 0;
  if (header.e_shentsize != sizeof(Elf64_Shdr) || header.e_shnum == 0) return 0;
  if (header.e_shstrndx >= header.e_shnum) return 0;
  if (header.e_shoff < sizeof header || header.e_shoff > kMostBytes) return 0;
  // The table of sections is the last thing in the files that compilers write.
  const uint64_t end = header.e_shoff + uint64_t{header.e_shnum} * sizeof(Elf64_Shdr);
  if (header.e_phnum == 0) return end;
  if (header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phoff > kMostBytes) return 0;
  return std::max(end, header.e_phoff + uint64_t{header.e_phnum} * sizeof(Elf64_Phdr));
}

bool read_elf(const uint8_t* image, uint64_t bytes, ElfFile& out) {
  if (bytes < sizeof out.header) return false;
  std::memcpy(&out.header, image, sizeof out.header);
  const uint64_t end = end_of(out.header);
  if (end == 0 || end > bytes) return false;
  out.image = image;
  out.bytes = bytes;
  out.sections.resize(out.header.e_shnum);
  std::memcpy(out.sections.data(), image + out.header.e_shoff, out.sections.size() * sizeof(Elf64_Shdr));
  for (const Elf64_Shdr& section : out.sections) {
    if (section.sh_type == SHT_NOBITS || section.sh_type == SHT_NULL) continue;
    if (section.sh_offset > bytes || section.sh_size > bytes - section.sh_offset) return false;
  }
  return out.sections[out.header.e_shstrndx].sh_type == SHT_STRTAB;
}

}  // namespace unify::simulator
