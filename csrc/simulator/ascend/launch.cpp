#include "launch.h"

#include <cstring>

namespace unify::simulator {
namespace {

constexpr uint32_t kMostBlocks = 65535;  // "coreDim can't be greater than UINT16_MAX"
constexpr char kSection[] = ".unify.host";

// The binary on the device, as the vendor's runtime has it there.
std::shared_ptr<Range> upload(Device& device, const void* data, size_t bytes) {
  const uint64_t all = round_up(bytes, kPage);
  const uint64_t address = device.arena.take(all, kPage);
  if (address == 0) return nullptr;
  auto range = std::make_shared<Range>();
  range->block = std::make_shared<Block>(device.arena, address, all);
  range->address = address;
  range->bytes = range->asked_bytes = all;
  range->alias = device.arena.alias(address);
  range->device = device.index;
  std::memcpy(range->alias, data, bytes);
  return range;
}

// Copies what the chip reads when it comes to the launch.
bool read_device(uint64_t address, std::vector<char>& out) {
  std::vector<Piece> pieces;
  const Lock lock(driver().mutex);
  if (!driver().memory.resolve(address, out.size(), pieces)) return false;
  char* to = out.data();
  for (const Piece& piece : pieces) {
    std::memcpy(to, piece.alias, piece.bytes);
    to += piece.bytes;
  }
  return true;
}

bool is_of_vector_cores(const AclFunction& function) { return function.magic == ACL_RT_BINARY_MAGIC_ELF_VECTOR_CORE; }

// Whether the launcher's part of the arguments is as the chip needs it: the address at which cores meet, the lock and
// the workspace (triton-ascend 3.2.0, driver.py). Where a kernel needs one of the last two does not show here.
bool has_good_prefix(const AclFunction& function, const std::vector<char>& args) {
  uint64_t words[3] = {};
  if (function.kernel.prefix_bytes < sizeof words || args.size() < sizeof words) return true;
  std::memcpy(words, args.data(), sizeof words);
  const Device& device = *function.context->device;
  const bool meets = words[0] == sync_address(device) || (words[0] == 0 && is_of_vector_cores(function));
  const Lock lock(driver().mutex);
  const auto is_usable = [&](uint64_t address) {
    return address == 0 || driver().memory.may_use(device.index, address);
  };
  return meets && is_usable(words[1]) && is_usable(words[2]);
}

Result on_its_cores(const AclFunction& function, Result result) {
  if (!is_of_vector_cores(function)) return result;
  if (result == ACL_ERROR_RT_AICORE_EXCEPTION) return ACL_ERROR_RT_VECTOR_CORE_EXCEPTION;
  if (result == ACL_ERROR_RT_AICORE_TRAP_EXCEPTION) return ACL_ERROR_RT_VECTOR_CORE_TRAP_EXCEPTION;
  return result;
}

}  // namespace

Result load_binary(Call& call, const void* data, size_t bytes, uint32_t magic, aclrtBinHandle& out) {
  ElfFile file;
  if (!read_elf(static_cast<const uint8_t*>(data), bytes, file)) {
    return refuse(ACL_ERROR_RT_PARAM_INVALID, "The binary is no ELF file, or a damaged one.");
  }
  std::vector<KernelImage> kernels;
  for (const Elf64_Shdr& section : file.sections) {
    if (file.name(section) != kSection) continue;
    KernelImage kernel;
    std::string why;
    const uint64_t size = section.sh_type == SHT_NOBITS ? 0 : section.sh_size;
    if (!read_host_section(file.image + section.sh_offset, size, kernel, why)) {
      return refuse(ACL_ERROR_RT_PARAM_INVALID, "The binary is damaged: " + why + ".");
    }
    kernels.push_back(std::move(kernel));
  }
  if (kernels.empty()) {
    return refuse(ACL_ERROR_RT_FEATURE_NOT_SUPPORT,
                  "The binary has only code for a real chip: compile it while the simulation is on.");
  }
  const std::shared_ptr<Range> code = upload(*call.context->device, data, bytes);
  if (code == nullptr) return ACL_ERROR_RT_MEMORY_ALLOCATION;
  auto module = std::make_shared<Module>();
  module->context = call.context;
  out = driver().modules.add<aclrtBinHandle>(module);
  for (KernelImage& kernel : kernels) {
    auto function = std::make_shared<AclFunction>();
    function->context = call.context;
    function->kernel = std::move(kernel);
    function->magic = magic;
    function->module = reinterpret_cast<uintptr_t>(out);
    function->code = code;
    module->handles.push_back(driver().functions.add<uintptr_t>(function));
    module->functions.push_back(std::move(function));
  }
  return ACL_SUCCESS;
}

uintptr_t function_of(aclrtBinHandle binary, const std::string& name) {
  const std::shared_ptr<Module> module = driver().modules.find(binary);
  if (module == nullptr) return 0;
  for (size_t i = 0; i < module->functions.size(); ++i) {
    if (module->functions[i]->kernel.name == name) return module->handles[i];
  }
  return 0;
}

Result submit_launch(Call& call, Stream& stream, const std::shared_ptr<AclFunction>& function, uint32_t blocks,
                     Arguments arguments) {
  if (function == nullptr) return refuse(ACL_ERROR_RT_INVALID_HANDLE, "The kernel is unknown.");
  if (function->context->device != stream.context->device) {
    return refuse(ACL_ERROR_RT_PARAM_INVALID, "The kernel was loaded on another device.");
  }
  if (blocks == 0 || blocks > kMostBlocks) {
    return refuse(ACL_ERROR_RT_PARAM_INVALID, "numBlocks=" + std::to_string(blocks) + ", 1 to 65535 are possible.");
  }
  if (arguments.host.size() < function->kernel.args_bytes) {
    return refuse(ACL_ERROR_RT_PARAM_INVALID, "The kernel's arguments have " +
                                                  std::to_string(function->kernel.args_bytes) + " bytes, " +
                                                  std::to_string(arguments.host.size()) + " are given.");
  }
  Operation operation;
  operation.kind = OperationKind::kKernel;
  operation.name = function->kernel.name;
  operation.run = [function, blocks, arguments = std::move(arguments)](Stream&) -> Result {
    std::vector<char> args = arguments.host;
    if (arguments.device != 0 && !read_device(arguments.device, args)) {
      return on_its_cores(*function, ACL_ERROR_RT_AICORE_EXCEPTION);
    }
    if (!has_good_prefix(*function, args)) return on_its_cores(*function, ACL_ERROR_RT_AICORE_EXCEPTION);
    return on_its_cores(*function, run_kernel(*function, {blocks, 1, 1}, std::move(args)));
  };
  return submit(call, stream, std::move(operation));
}

// No memory lies there: kernels of the CPU do not synchronise by it.
uint64_t sync_address(const Device& device) {
  constexpr uint64_t kFirst = uint64_t{1} << 46;
  constexpr uint64_t kStep = uint64_t{1} << 24;
  return kFirst + kStep * static_cast<uint64_t>(device.index);
}

}  // namespace unify::simulator
