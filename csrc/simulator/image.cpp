#include "image.h"

#include <elf.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace unify::simulator {
namespace {

constexpr uint64_t kMostBytes = uint64_t{1} << 30;
constexpr size_t kMostParameters = 4096;
constexpr uint32_t kMostArgsBytes = 32764;  // of a kernel: CUDA C++ programming guide, "Function parameters"
constexpr uint64_t kMostScratch = uint64_t{64} << 20;
constexpr uint32_t kFatbinMagic = 0xba55ed50;
constexpr uint32_t kFatbinWrapperMagic = 0x466243b1;
// EI_ABIVERSION of files whose architecture is in the second byte of e_flags (LLVM, BinaryFormat/ELF.h).
constexpr uint8_t kSecondAbi = 8;

// Copies as much of [from, from + bytes) as there is. The caller of cuModuleLoadDataEx gives no size, so that what a
// damaged header promises may lie where no memory is: the system is asked to read, since it answers instead of
// faulting.
std::vector<uint8_t> copy_of(const void* from, uint64_t bytes) {
  std::vector<uint8_t> copy;
  const int file = memfd_create("image", MFD_CLOEXEC);
  if (file < 0) return copy;
  uint64_t copied = 0;
  while (copied < bytes) {
    // Not write(): AddressSanitizer would take the attempt for the fault.
    const long part = syscall(SYS_write, file, static_cast<const char*>(from) + copied, bytes - copied);
    if (part <= 0) break;
    copied += static_cast<uint64_t>(part);
  }
  copy.resize(copied);
  if (copied > 0 && pread(file, copy.data(), copied, 0) != static_cast<ssize_t>(copied)) copy.clear();
  close(file);
  return copy;
}

class Reader {
 public:
  explicit Reader(const void* image) : original_(image) {}

  CUresult read(int capability, std::vector<KernelImage>& out);
  std::string why;

 private:
  CUresult fail(CUresult result, const char* reason) {
    why = reason;
    return result;
  }
  bool read_sections();
  CUresult check_architecture(int capability);
  [[nodiscard]] std::string name(const Elf64_Shdr& section) const;
  CUresult read_kernel(const Elf64_Shdr& section, KernelImage& out);
  [[nodiscard]] int registers(const Elf64_Shdr& section) const;
  void read_resources(KernelImage& out) const;

  const void* original_;
  std::vector<uint8_t> copy_;
  const uint8_t* image_ = nullptr;
  uint64_t bytes_ = 0;
  Elf64_Ehdr header_{};
  std::vector<Elf64_Shdr> sections_;
};

// The end of the file, as far as the headers tell: the tables and the sections must lie in it, so it is also their end.
bool Reader::read_sections() {
  copy_ = copy_of(original_, sizeof header_);
  if (copy_.size() < sizeof header_) return false;
  std::memcpy(&header_, copy_.data(), sizeof header_);
  if (header_.e_ident[EI_CLASS] != ELFCLASS64 || header_.e_ident[EI_DATA] != ELFDATA2LSB) return false;
  if (header_.e_shentsize != sizeof(Elf64_Shdr) || header_.e_shnum == 0) return false;
  if (header_.e_shstrndx >= header_.e_shnum) return false;
  if (header_.e_shoff < sizeof header_ || header_.e_shoff > kMostBytes) return false;
  // The table of sections is the last thing in the files that compilers write, and the one thing that must be believed.
  bytes_ = header_.e_shoff + uint64_t{header_.e_shnum} * sizeof(Elf64_Shdr);
  if (header_.e_phnum > 0) {
    if (header_.e_phentsize != sizeof(Elf64_Phdr) || header_.e_phoff > kMostBytes) return false;
    bytes_ = std::max(bytes_, header_.e_phoff + uint64_t{header_.e_phnum} * sizeof(Elf64_Phdr));
  }
  copy_ = copy_of(original_, bytes_);
  if (copy_.size() < bytes_) return false;
  image_ = copy_.data();
  sections_.resize(header_.e_shnum);
  std::memcpy(sections_.data(), image_ + header_.e_shoff, sections_.size() * sizeof(Elf64_Shdr));
  for (const Elf64_Shdr& section : sections_) {
    if (section.sh_type == SHT_NOBITS || section.sh_type == SHT_NULL) continue;
    if (section.sh_offset > bytes_ || section.sh_size > bytes_ - section.sh_offset) return false;
  }
  return sections_[header_.e_shstrndx].sh_type == SHT_STRTAB;
}

// A cubin runs on chips of its major capability and at least its minor one; one with features of a single architecture
// (sm_90a) on that alone.
CUresult Reader::check_architecture(int capability) {
  if (header_.e_machine != EM_CUDA) return fail(CUDA_ERROR_NO_BINARY_FOR_GPU, "the ELF file is not for CUDA");
  const bool is_second = header_.e_ident[EI_ABIVERSION] >= kSecondAbi;
  const int built_for = static_cast<int>(is_second ? header_.e_flags >> 8 & 0xff : header_.e_flags & 0xff);
  const bool is_exact = (header_.e_flags & (is_second ? 0x8U : 0x800U)) != 0;
  const bool fits =
      is_exact ? built_for == capability : built_for / 10 == capability / 10 && built_for % 10 <= capability % 10;
  if (fits) return CUDA_SUCCESS;
  why = "the image is for compute capability " + std::to_string(built_for) + ", the device has " +
        std::to_string(capability);
  return CUDA_ERROR_NO_BINARY_FOR_GPU;
}

std::string Reader::name(const Elf64_Shdr& section) const {
  const Elf64_Shdr& strings = sections_[header_.e_shstrndx];
  if (section.sh_name >= strings.sh_size) return {};
  const auto* begin = reinterpret_cast<const char*>(image_ + strings.sh_offset + section.sh_name);
  return std::string(begin, strnlen(begin, strings.sh_size - section.sh_name));
}

CUresult Reader::read_kernel(const Elf64_Shdr& section, KernelImage& out) {
  HostHeader host{};
  const uint8_t* content = image_ + section.sh_offset;
  if (section.sh_type == SHT_NOBITS || section.sh_size < sizeof host) {
    return fail(CUDA_ERROR_INVALID_IMAGE, "the section .nv.unify.host is too short");
  }
  std::memcpy(&host, content, sizeof host);
  if (std::memcmp(host.magic, kHostMagic, sizeof host.magic) != 0 || host.version != kHostVersion) {
    return fail(CUDA_ERROR_INVALID_IMAGE, "the section .nv.unify.host is of another version");
  }
  const uint64_t needed = sizeof host + uint64_t{host.parameters} * sizeof(HostParameter) + host.name_bytes;
  if (host.parameters > kMostParameters || host.header_bytes < needed || host.header_bytes > section.sh_size ||
      host.object_bytes > section.sh_size - host.header_bytes || host.args_bytes > kMostArgsBytes ||
      host.scratch_bytes > kMostScratch || host.name_bytes == 0) {
    return fail(CUDA_ERROR_INVALID_IMAGE, "sizes in the section .nv.unify.host");
  }
  out.args_bytes = host.args_bytes;
  out.scratch_bytes = host.scratch_bytes;
  out.parameters.resize(host.parameters);
  const uint8_t* at = content + sizeof host;
  if (host.parameters > 0) std::memcpy(out.parameters.data(), at, host.parameters * sizeof(HostParameter));
  for (const HostParameter& parameter : out.parameters) {
    if (parameter.offset > host.args_bytes || parameter.bytes > host.args_bytes - parameter.offset ||
        (parameter.is_pointer != 0 && parameter.bytes != sizeof(uint64_t))) {
      return fail(CUDA_ERROR_INVALID_IMAGE, "a parameter in the section .nv.unify.host");
    }
  }
  at += host.parameters * sizeof(HostParameter);
  out.name.assign(reinterpret_cast<const char*>(at), host.name_bytes);
  out.object = host::LoadedObject::load(content + host.header_bytes, host.object_bytes, why);
  if (out.object == nullptr) return CUDA_ERROR_INVALID_IMAGE;
  out.entry = out.object->find(out.name);
  if (out.entry == nullptr) return fail(CUDA_ERROR_INVALID_IMAGE, "the object does not have the kernel of its header");
  read_resources(out);
  return CUDA_SUCCESS;
}

// Of the section .nv.info, the largest number of registers that it gives a function: records of a format, an attribute
// and two bytes, which say how many follow in the one format that has more (as cuobjdump --dump-elf shows it).
int Reader::registers(const Elf64_Shdr& section) const {
  constexpr uint8_t kSized = 4;
  constexpr uint8_t kRegisterCount = 0x2f;  // symbol, number
  int most = 0;
  const uint8_t* at = image_ + section.sh_offset;
  const uint8_t* const end = at + section.sh_size;
  while (end - at >= 4) {
    uint16_t size = 0;
    std::memcpy(&size, at + 2, sizeof size);
    const bool is_sized = at[0] == kSized;
    const bool is_count = is_sized && at[1] == kRegisterCount && size == 8;
    at += 4;
    if (!is_sized) continue;
    if (end - at < size) break;
    if (is_count) {
      uint32_t number = 0;
      std::memcpy(&number, at + 4, sizeof number);
      most = std::max(most, static_cast<int>(std::min<uint32_t>(number, 255)));
    }
    at += size;
  }
  return most;
}

void Reader::read_resources(KernelImage& out) const {
  for (const Elf64_Shdr& section : sections_) {
    if (section.sh_type == SHT_NOBITS && name(section) == ".nv.shared." + out.name) {
      out.shared_bytes = static_cast<int>(std::min<uint64_t>(section.sh_size, 49152));
    }
    if (section.sh_type != SHT_NOBITS && name(section) == ".nv.info") out.registers = registers(section);
  }
}

CUresult Reader::read(int capability, std::vector<KernelImage>& out) {
  if (!read_sections()) return fail(CUDA_ERROR_INVALID_IMAGE, "damaged ELF file");
  if (const CUresult result = check_architecture(capability); result != CUDA_SUCCESS) return result;
  for (const Elf64_Shdr& section : sections_) {
    if (name(section) != ".nv.unify.host") continue;
    KernelImage kernel;
    if (const CUresult result = read_kernel(section, kernel); result != CUDA_SUCCESS) return result;
    out.push_back(std::move(kernel));
  }
  if (out.empty()) {
    return fail(CUDA_ERROR_NO_BINARY_FOR_GPU,
                "the image has only code for a real chip: compile it while the simulation is on");
  }
  return CUDA_SUCCESS;
}

// PTX begins with comments and the directive .version.
bool is_ptx(const std::vector<uint8_t>& text) {
  constexpr char kVersion[] = {'.', 'v', 'e', 'r', 's', 'i', 'o', 'n'};
  const auto end = std::find(text.begin(), text.end(), 0);
  const auto found = std::search(text.begin(), end, std::begin(kVersion), std::end(kVersion));
  return found != end && std::all_of(text.begin(), found, [](uint8_t each) {
           return each == '\n' || each == '\r' || each == '\t' || (each >= ' ' && each < 0x7f);
         });
}

bool begins_with(const std::vector<uint8_t>& bytes, uint32_t magic) {
  return bytes.size() >= sizeof magic && std::memcmp(bytes.data(), &magic, sizeof magic) == 0;
}

}  // namespace

CUresult read_image(const void* image, int capability, std::vector<KernelImage>& out, std::string& why) {
  constexpr uint64_t kMostBefore = 4096;
  const std::vector<uint8_t> begin = copy_of(image, kMostBefore);
  if (begin.size() >= SELFMAG && std::memcmp(begin.data(), ELFMAG, SELFMAG) == 0) {
    Reader reader(image);
    const CUresult result = reader.read(capability, out);
    why = reader.why;
    return result;
  }
  if (begins_with(begin, kFatbinMagic) || begins_with(begin, kFatbinWrapperMagic) || is_ptx(begin)) {
    why = "a simulated chip runs cubins alone, no PTX and no fat binaries";
    return CUDA_ERROR_NO_BINARY_FOR_GPU;
  }
  why = "neither a cubin nor PTX";
  return CUDA_ERROR_INVALID_IMAGE;
}

}  // namespace unify::simulator
