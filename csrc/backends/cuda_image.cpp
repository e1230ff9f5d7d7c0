#include "cuda_image.h"

#include <cstdint>
#include <string_view>

#include "elf_bounds.h"

namespace unify::cuda {
namespace {

struct FatbinHeader {
  uint32_t magic;
  uint16_t version;
  uint16_t header_bytes;
  uint64_t bytes;  // behind the header
};
constexpr uint32_t kFatbinMagic = 0xba55ed50;

std::string why_not_cubin(const void* image, size_t bytes) {
  Elf64_Ehdr header{};
  std::string why = elf::why_not_elf(image, bytes, header);
  if (why.empty() && header.e_machine != EM_CUDA) why = "it is an ELF file for another machine than a CUDA device";
  return why;
}

}  // namespace

std::string why_not_an_image(const void* image, size_t bytes, bool& out_is_text) {
  out_is_text = false;
  const std::string_view text(static_cast<const char*>(image), bytes);
  if (text.substr(0, 4) == "\177ELF") return why_not_cubin(image, bytes);
  FatbinHeader fatbin{};
  if (elf::read(image, bytes, 0, fatbin) && fatbin.magic == kFatbinMagic) {
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
