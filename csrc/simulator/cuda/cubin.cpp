#include "cubin.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace unify::simulator {
namespace {

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

  CUresult read(int capability, std::vector<CubinKernel>& out);
  std::string why;

 private:
  CUresult fail(CUresult result, const char* reason) {
    why = reason;
    return result;
  }
  bool read_sections();
  CUresult check_architecture(int capability);
  [[nodiscard]] int registers(const Elf64_Shdr& section) const;
  void read_resources(CubinKernel& out) const;

  const void* original_;
  std::vector<uint8_t> copy_;
  ElfFile file_;
};

// The end of the file, as far as the headers tell: the tables and the sections must lie in it, so it is also their end.
bool Reader::read_sections() {
  Elf64_Ehdr header{};
  copy_ = copy_of(original_, sizeof header);
  if (copy_.size() < sizeof header) return false;
  std::memcpy(&header, copy_.data(), sizeof header);
  copy_ = copy_of(original_, end_of(header));
  return read_elf(copy_.data(), copy_.size(), file_);
}

// A cubin runs on chips of its major capability and at least its minor one; one with features of a single architecture
// (sm_90a) on that alone.
CUresult Reader::check_architecture(int capability) {
  if (file_.header.e_machine != EM_CUDA) return fail(CUDA_ERROR_NO_BINARY_FOR_GPU, "the ELF file is not for CUDA");
  const bool is_second = file_.header.e_ident[EI_ABIVERSION] >= kSecondAbi;
  const int built_for = static_cast<int>(is_second ? file_.header.e_flags >> 8 & 0xff : file_.header.e_flags & 0xff);
  const bool is_exact = (file_.header.e_flags & (is_second ? 0x8U : 0x800U)) != 0;
  const bool fits =
      is_exact ? built_for == capability : built_for / 10 == capability / 10 && built_for % 10 <= capability % 10;
  if (fits) return CUDA_SUCCESS;
  why = "the image is for compute capability " + std::to_string(built_for) + ", the device has " +
        std::to_string(capability);
  return CUDA_ERROR_NO_BINARY_FOR_GPU;
}

// Of the section .nv.info, the largest number of registers that it gives a function: records of a format, an attribute
// and two bytes, which say how many follow in the one format that has more (as cuobjdump --dump-elf shows it).
int Reader::registers(const Elf64_Shdr& section) const {
  constexpr uint8_t kSized = 4;
  constexpr uint8_t kRegisterCount = 0x2f;  // symbol, number
  int most = 0;
  const uint8_t* at = file_.image + section.sh_offset;
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

void Reader::read_resources(CubinKernel& out) const {
  for (const Elf64_Shdr& section : file_.sections) {
    if (section.sh_type == SHT_NOBITS && file_.name(section) == ".nv.shared." + out.kernel.name) {
      out.shared_bytes = static_cast<int>(std::min<uint64_t>(section.sh_size, 49152));
    }
    if (section.sh_type != SHT_NOBITS && file_.name(section) == ".nv.info") out.registers = registers(section);
  }
}

CUresult Reader::read(int capability, std::vector<CubinKernel>& out) {
  if (!read_sections()) return fail(CUDA_ERROR_INVALID_IMAGE, "damaged ELF file");
  if (const CUresult result = check_architecture(capability); result != CUDA_SUCCESS) return result;
  for (const Elf64_Shdr& section : file_.sections) {
    if (file_.name(section) != ".nv.unify.host") continue;
    CubinKernel each;
    const uint64_t bytes = section.sh_type == SHT_NOBITS ? 0 : section.sh_size;
    if (!read_host_section(file_.image + section.sh_offset, bytes, each.kernel, why)) return CUDA_ERROR_INVALID_IMAGE;
    read_resources(each);
    out.push_back(std::move(each));
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

CUresult read_image(const void* image, int capability, std::vector<CubinKernel>& out, std::string& why) {
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
