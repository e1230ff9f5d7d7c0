#include "ascend_image.h"

#include <cstring>
#include <string_view>

#include "elf_bounds.h"

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
  uint32_t blocks;  // of a kernel that loops over its grid: for who reads the image
  char chip[4];     // with zeros at the end
};
static_assert(sizeof(Header) == 64);

std::string why_not_header(const Header& header, size_t size) {
  if (header.version != kVersion) {
    return "it has version " + std::to_string(header.version) + " of unify's format for Ascend; this unify reads " +
           std::to_string(kVersion) + ". Compile the kernel again";
  }
  const bool is_whole = header.header_bytes >= sizeof(Header) && header.header_bytes <= size &&
                        header.payload_bytes <= size - header.header_bytes;
  if (!is_whole) return "it is cut off";
  if (header.mode > static_cast<uint32_t>(Mode::kMixed)) return "it is for cores of an unknown kind";
  if (header.lock_count > kMostLocks) return "it asks for more locks than there can be";
  const auto is_behind_prefix = [](uint64_t offset) { return offset >= kPrefixBytes && offset % 4 == 0; };
  const uint64_t logical = header.logical_grid_offset;
  const bool is_laid_out = is_behind_prefix(header.grid_offset) &&
                           (logical == 0 || (is_behind_prefix(logical) && logical + kGridBytes <= header.grid_offset));
  return is_laid_out ? "" : "its arguments are laid out in no possible way";
}

// The cores of a chip: the vendor's platform files, src/platform/platform_config of its runtime.
std::string_view cores_of(std::string_view chip) {
  constexpr std::string_view kVendor = "Ascend";
  if (chip.substr(0, kVendor.size()) == kVendor) chip.remove_prefix(kVendor.size());
  const auto is_any = [chip](std::initializer_list<std::string_view> begins) {
    for (const std::string_view begin : begins) {
      if (chip.substr(0, begin.size()) == begin) return true;
    }
    return false;
  };
  if (is_any({"950", "910_95"})) return "dav-c310";
  return is_any({"910B", "910C", "910_93"}) ? "dav-c220" : chip;
}

}  // namespace

bool is_for(const Image& image, const std::string& soc) {
  return image.chip.empty() || cores_of(image.chip) == cores_of(soc);
}

unify_status read_image(const void* bytes, size_t size, Image& out, std::string& out_why) {
  out = {};
  out.object = bytes;
  out.object_bytes = size;
  Header header{};
  if (size >= sizeof kMagic && std::memcmp(bytes, kMagic, sizeof kMagic) == 0) {
    if (!elf::read(bytes, size, 0, header)) out_why = "it is cut off";
    if (out_why.empty()) out_why = why_not_header(header, size);
    if (!out_why.empty()) return UNIFY_INVALID_ARGUMENT;
    if (header.kind == kLowered) {
      out_why =
          "the kernel was lowered by the vendor's compiler, but not assembled: CANN's hivmc was not on the machine "
          "that compiled it. Compile it where CANN is installed";
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
    out.chip.assign(header.chip, strnlen(header.chip, sizeof header.chip));
  }
  Elf64_Ehdr object{};
  out_why = elf::why_not_elf(out.object, out.object_bytes, object);
  return out_why.empty() ? UNIFY_OK : UNIFY_INVALID_ARGUMENT;
}

}  // namespace unify::ascend
