// What a simulated chip runs in place of the vendor's code: a section of the vendor's ELF file with a kernel for this
// machine's CPU inside.
#pragma once

#include <elf.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backends/host_elf.h"

namespace unify::simulator {

// Such a section, little endian: this header, `parameters` times HostParameter, `name_bytes` of name, zeros up to
// `header_bytes` (a multiple of 64), `object_bytes` of a relocatable object (unify/host_kernel.h).
struct HostHeader {
  char magic[8];  // "UNIFYHST"
  uint32_t version;
  uint32_t header_bytes;
  uint32_t args_bytes;  // of the C struct that the object reads: the first part of the vendor's parameters
  uint32_t parameters;
  uint64_t scratch_bytes;
  uint64_t object_bytes;
  uint32_t name_bytes;
  uint32_t prefix_bytes;  // of the arguments, before the kernel's own: what the vendor's launcher puts there
};
static_assert(sizeof(HostHeader) == 48, "written by unify/simulator/section.py");

struct HostParameter {
  uint32_t offset;
  uint32_t bytes;
  uint32_t is_pointer;  // into device memory
};
static_assert(sizeof(HostParameter) == 12, "written by unify/simulator/section.py");

constexpr char kHostMagic[9] = "UNIFYHST";
constexpr uint32_t kHostVersion = 1;

struct KernelImage {
  std::string name;
  uint32_t args_bytes = 0;
  uint32_t prefix_bytes = 0;
  uint64_t scratch_bytes = 0;
  std::vector<HostParameter> parameters;
  std::shared_ptr<host::LoadedObject> object;
  void* entry = nullptr;
};

// Reads the content of such a section. False with `why` if it is damaged.
bool read_host_section(const uint8_t* content, uint64_t bytes, KernelImage& out, std::string& why);

// An ELF64 file whose sections lie inside of it.
struct ElfFile {
  const uint8_t* image = nullptr;
  uint64_t bytes = 0;
  Elf64_Ehdr header{};
  std::vector<Elf64_Shdr> sections;
  [[nodiscard]] std::string name(const Elf64_Shdr& section) const;
};

// How long a file is as far as its header tells: the end of its tables. 0 if it is no such file.
uint64_t end_of(const Elf64_Ehdr& header);
bool read_elf(const uint8_t* image, uint64_t bytes, ElfFile& out);

}  // namespace unify::simulator
