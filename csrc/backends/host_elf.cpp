#include "host_elf.h"

#include <dlfcn.h>
#include <elf.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <limits>
#include <vector>

#include "host_relocation.h"

namespace unify::host {
namespace {

// What compiled kernels may call besides the vector functions of libmvec (_ZGV…).
constexpr const char* kAllowed[] = {
    "acos",      "acosf",      "acosh",  "acoshf", "asin",      "asinf",      "asinh",      "asinhf", "atan",
    "atanf",     "atan2",      "atan2f", "atanh",  "atanhf",    "cbrt",       "cbrtf",      "ceil",   "ceilf",
    "copysign",  "copysignf",  "cos",    "cosf",   "cosh",      "coshf",      "erf",        "erff",   "erfc",
    "erfcf",     "exp",        "expf",   "exp2",   "exp2f",     "expm1",      "expm1f",     "floor",  "floorf",
    "fma",       "fmaf",       "fmod",   "fmodf",  "hypot",     "hypotf",     "j0",         "j0f",    "j1",
    "j1f",       "ldexp",      "ldexpf", "lgamma", "lgammaf",   "log",        "logf",       "log10",  "log10f",
    "log1p",     "log1pf",     "log2",   "log2f",  "nearbyint", "nearbyintf", "pow",        "powf",   "rint",
    "rintf",     "round",      "roundf", "sin",    "sinf",      "sinh",       "sinhf",      "sqrt",   "sqrtf",
    "tan",       "tanf",       "tanh",   "tanhf",  "tgamma",    "tgammaf",    "trunc",      "truncf", "y0",
    "y0f",       "y1",         "y1f",    "ilogb",  "ilogbf",    "nextafter",  "nextafterf", "logb",   "logbf",
    "remainder", "remainderf",
};

void* resolve(const std::string& name) {
  if (name == "memcpy") return reinterpret_cast<void*>(&std::memcpy);
  if (name == "memmove") return reinterpret_cast<void*>(&std::memmove);
  if (name == "printf") return reinterpret_cast<void*>(&std::printf);  // tl.device_print
  if (name == "memset") return reinterpret_cast<void*>(&std::memset);
  if (name == "sched_yield") return reinterpret_cast<void*>(&sched_yield);      // tl.atomic_poll
  if (name == "clock_gettime") return reinterpret_cast<void*>(&clock_gettime);  // its time limit
  static void* const libm = dlopen("libm.so.6", RTLD_NOW | RTLD_LOCAL);
  static void* const libmvec = dlopen("libmvec.so.1", RTLD_NOW | RTLD_LOCAL);
  if (name.rfind("_ZGV", 0) == 0) return libmvec == nullptr ? nullptr : dlsym(libmvec, name.c_str());
  const bool allowed =
      std::any_of(std::begin(kAllowed), std::end(kAllowed), [&](const char* known) { return name == known; });
  return allowed && libm != nullptr ? dlsym(libm, name.c_str()) : nullptr;
}

// The three kinds of pages, in the order in which they are laid out.
enum Part { kCode, kConstant, kData, kParts };

size_t round_up(size_t value, size_t to) { return (value + to - 1) / to * to; }

class Loader {
 public:
  Loader(const void* image, size_t bytes) : image_(static_cast<const uint8_t*>(image)), bytes_(bytes) {}

  bool run();

  std::string why;
  void* base = nullptr;
  size_t mapped = 0;
  std::unordered_map<std::string, void*> functions;

 private:
  bool fail(const std::string& reason) {
    why = "damaged image: " + reason;
    return false;
  }
  template <typename T>
  bool read(size_t offset, T& out) const {
    if (offset > bytes_ || bytes_ - offset < sizeof(T)) return false;
    std::memcpy(&out, image_ + offset, sizeof(T));
    return true;
  }
  bool read_headers();
  bool lay_out();
  bool read_symbols();
  bool define_symbols();
  bool relocate();
  bool relocate_section(const Elf64_Shdr& section);
  bool apply(const Elf64_Rela& entry, size_t target);
  bool protect();
  bool text(size_t table, size_t offset, std::string& out) const;
  [[nodiscard]] uint8_t* at(size_t offset) const { return static_cast<uint8_t*>(base) + offset; }

  const uint8_t* image_;
  size_t bytes_;
  std::vector<Elf64_Shdr> sections_;
  std::vector<size_t> places_;  // of each loaded section in the mapping, or SIZE_MAX
  std::vector<Elf64_Sym> symbols_;
  std::vector<uint64_t> values_;  // address of each symbol
  size_t strings_ = 0;
  size_t stubs_ = 0;  // where the jump of each symbol lies
  size_t slots_ = 0;  // where the address of each symbol lies, for code that loads it from memory
  size_t part_begin_[kParts + 1] = {};
};

constexpr size_t kNowhere = std::numeric_limits<size_t>::max();
constexpr size_t kMostSections = 4096;
constexpr size_t kMostSymbols = 1U << 16;
constexpr size_t kMostBytes = size_t{1} << 28;

bool Loader::read_headers() {
  Elf64_Ehdr header;
  if (!read(0, header) || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return fail("not an ELF file");
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB || header.e_type != ET_REL ||
      header.e_machine != kMachine) {
    return fail(std::string("not a relocatable ") + kMachineName + " object");
  }
  if (header.e_shentsize != sizeof(Elf64_Shdr) || header.e_shnum > kMostSections) return fail("section table");
  sections_.resize(header.e_shnum);
  for (size_t i = 0; i < sections_.size(); ++i) {
    Elf64_Shdr& section = sections_[i];
    if (header.e_shoff > bytes_ || !read(header.e_shoff + i * sizeof section, section)) return fail("section table");
    if (section.sh_type != SHT_NOBITS && (section.sh_offset > bytes_ || bytes_ - section.sh_offset < section.sh_size)) {
      return fail("section " + std::to_string(i) + " lies outside the file");
    }
    if (section.sh_size > kMostBytes) return fail("section " + std::to_string(i) + " is too large");
  }
  return true;
}

bool Loader::read_symbols() {
  for (const Elf64_Shdr& section : sections_) {
    if (section.sh_type != SHT_SYMTAB) continue;
    if (section.sh_entsize != sizeof(Elf64_Sym) || section.sh_link >= sections_.size() ||
        sections_[section.sh_link].sh_type != SHT_STRTAB || section.sh_size / sizeof(Elf64_Sym) > kMostSymbols) {
      return fail("symbol table");
    }
    strings_ = section.sh_link;
    symbols_.resize(section.sh_size / sizeof(Elf64_Sym));
    if (!symbols_.empty()) {
      std::memcpy(symbols_.data(), image_ + section.sh_offset, symbols_.size() * sizeof(Elf64_Sym));
    }
    return true;
  }
  return fail("no symbol table");
}

bool Loader::text(size_t table, size_t offset, std::string& out) const {
  const Elf64_Shdr& strings = sections_[table];
  if (offset >= strings.sh_size) return false;
  const auto* begin = reinterpret_cast<const char*>(image_ + strings.sh_offset + offset);
  const void* end = std::memchr(begin, 0, strings.sh_size - offset);
  if (end == nullptr) return false;
  out.assign(begin, static_cast<const char*>(end));
  return true;
}

// Sections by part, each part on pages of its own; stubs after the code, slots after the constants.
bool Loader::lay_out() {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  places_.assign(sections_.size(), kNowhere);
  size_t end = 0;
  for (int part = kCode; part < kParts; ++part) {
    end = part_begin_[part] = round_up(end, page);
    for (size_t i = 0; i < sections_.size(); ++i) {
      const Elf64_Shdr& section = sections_[i];
      if ((section.sh_flags & SHF_ALLOC) == 0) continue;
      if ((section.sh_flags & SHF_TLS) != 0) return fail("thread-local data");
      const bool is_code = (section.sh_flags & SHF_EXECINSTR) != 0;
      const bool is_writable = (section.sh_flags & SHF_WRITE) != 0;
      if (is_code && is_writable) return fail("a section both writable and executable");
      if ((is_code ? kCode : is_writable ? kData : kConstant) != part) continue;
      const size_t alignment = std::max<size_t>(section.sh_addralign, 1);
      if ((alignment & (alignment - 1)) != 0 || alignment > page) return fail("section alignment");
      end = places_[i] = round_up(end, alignment);
      end += section.sh_size;
      if (end > kMostBytes) return fail("more than 256 MiB");
    }
    if (part == kCode) {
      end = stubs_ = round_up(end, kStubBytes);
      end += symbols_.size() * kStubBytes;
    } else if (part == kConstant) {
      end = slots_ = round_up(end, sizeof(uint64_t));
      end += symbols_.size() * sizeof(uint64_t);
    }
  }
  part_begin_[kParts] = mapped = round_up(std::max<size_t>(end, 1), page);
  base = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) {
    base = nullptr;
    why = "no memory for " + std::to_string(mapped) + " bytes of code";
    return false;
  }
  for (size_t i = 0; i < sections_.size(); ++i) {
    if (places_[i] != kNowhere && sections_[i].sh_type != SHT_NOBITS && sections_[i].sh_size > 0) {
      std::memcpy(at(places_[i]), image_ + sections_[i].sh_offset, sections_[i].sh_size);
    }
  }
  return true;
}

bool Loader::define_symbols() {
  values_.assign(symbols_.size(), 0);
  for (size_t i = 1; i < symbols_.size(); ++i) {
    const Elf64_Sym& symbol = symbols_[i];
    std::string name;
    if (!text(strings_, symbol.st_name, name)) return fail("symbol name");
    if (symbol.st_shndx == SHN_UNDEF) {
      void* address = resolve(name);
      if (address == nullptr) {
        why = "the image calls '" + name + "', which kernels may not call or this machine does not have";
        return false;
      }
      values_[i] = reinterpret_cast<uint64_t>(address);
    } else if (symbol.st_shndx == SHN_ABS) {
      values_[i] = symbol.st_value;
    } else if (symbol.st_shndx < sections_.size()) {
      const size_t place = places_[symbol.st_shndx];
      if (place == kNowhere) continue;  // e.g. debug sections
      if (symbol.st_value > sections_[symbol.st_shndx].sh_size) return fail("symbol " + name);
      values_[i] = reinterpret_cast<uint64_t>(at(place + symbol.st_value));
      if (ELF64_ST_TYPE(symbol.st_info) == STT_FUNC && ELF64_ST_BIND(symbol.st_info) != STB_LOCAL) {
        functions.emplace(name, reinterpret_cast<void*>(values_[i]));
      }
    } else if (symbol.st_shndx != SHN_COMMON) {
      return fail("symbol " + name);
    } else {
      return fail("common symbol " + name);
    }
    write_stub(at(stubs_ + i * kStubBytes), at(slots_ + i * sizeof(uint64_t)));
    std::memcpy(at(slots_ + i * sizeof(uint64_t)), &values_[i], sizeof(uint64_t));
  }
  return true;
}

bool Loader::relocate() {
  for (const Elf64_Shdr& section : sections_) {
    if (section.sh_type == SHT_REL) return fail("relocations without addends");
    if (section.sh_type == SHT_RELA && !relocate_section(section)) return false;
  }
  return true;
}

bool Loader::relocate_section(const Elf64_Shdr& section) {
  if (section.sh_info >= sections_.size() || section.sh_entsize != sizeof(Elf64_Rela)) return fail("relocations");
  const size_t place = places_[section.sh_info];
  if (place == kNowhere) return true;
  const size_t size = sections_[section.sh_info].sh_size;
  for (size_t i = 0; i < section.sh_size / sizeof(Elf64_Rela); ++i) {
    Elf64_Rela entry;
    if (!read(section.sh_offset + i * sizeof entry, entry)) return fail("relocations");
    const uint32_t type = ELF64_R_TYPE(entry.r_info);
    if (entry.r_offset > size || size - entry.r_offset < relocation_bytes(type) ||
        ELF64_R_SYM(entry.r_info) >= symbols_.size()) {
      return fail("a relocation outside its section");
    }
    if (!apply(entry, place + entry.r_offset)) return false;
  }
  return true;
}

bool Loader::apply(const Elf64_Rela& entry, size_t target) {
  const size_t index = ELF64_R_SYM(entry.r_info);
  const uint32_t type = ELF64_R_TYPE(entry.r_info);
  const Symbol symbol{values_[index], reinterpret_cast<uint64_t>(at(stubs_ + index * kStubBytes)),
                      reinterpret_cast<uint64_t>(at(slots_ + index * sizeof(uint64_t))),
                      symbols_[index].st_shndx == SHN_UNDEF};
  switch (apply_relocation(type, at(target), symbol, static_cast<uint64_t>(entry.r_addend))) {
    case Relocated::kDone:
      return true;
    case Relocated::kUnknown:
      return fail("relocation type " + std::to_string(type));
    case Relocated::kOutOfReach:
      break;
  }
  return fail("a relocation that does not reach");
}

bool Loader::protect() {
  // What was written as data becomes instructions; some processors keep the two in caches of their own.
  __builtin___clear_cache(reinterpret_cast<char*>(at(part_begin_[kCode])),
                          reinterpret_cast<char*>(at(part_begin_[kConstant])));
  constexpr int kProtection[kParts] = {PROT_READ | PROT_EXEC, PROT_READ, PROT_READ | PROT_WRITE};
  for (int part = kCode; part < kParts; ++part) {
    const size_t size = part_begin_[part + 1] - part_begin_[part];
    if (size > 0 && mprotect(at(part_begin_[part]), size, kProtection[part]) != 0) {
      why = "this system does not let memory become executable";
      return false;
    }
  }
  return true;
}

bool Loader::run() {
  return read_headers() && read_symbols() && lay_out() && define_symbols() && relocate() && protect();
}

}  // namespace

std::unique_ptr<LoadedObject> LoadedObject::load(const void* image, size_t bytes, std::string& why) {
  Loader loader(image, bytes);
  std::unique_ptr<LoadedObject> object(new LoadedObject);
  const bool is_loaded = loader.run();
  object->base_ = loader.base;
  object->bytes_ = loader.mapped;
  if (!is_loaded) {
    why = loader.why;
    return nullptr;
  }
  object->functions_ = std::move(loader.functions);
  return object;
}

LoadedObject::~LoadedObject() {
  if (base_ != nullptr) munmap(base_, bytes_);
}

void* LoadedObject::find(const std::string& name) const {
  const auto found = functions_.find(name);
  return found == functions_.end() ? nullptr : found->second;
}

}  // namespace unify::host
