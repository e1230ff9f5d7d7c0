#include "module.h"

#include "device.h"
#include "error.h"
#include "launch.h"

namespace unify {

std::shared_ptr<Module> Module::load(const std::shared_ptr<Device>& device, const void* image, size_t bytes,
                                     const std::string& name) {
  device->require_usable();
  if (bytes == 0) {
    throw Error(ErrorKind::kInvalidArgument, device->name() + ": loading kernel " + name + ": the image is empty.");
  }
  std::shared_ptr<Module> module(new Module);
  module->device_ = device;
  module->generation_ = device->generation();
  unify_module_args args{};
  args.struct_size = sizeof args;
  args.image = image;
  args.bytes = bytes;
  args.name = name.c_str();
  const std::string what = "loading kernel " + name + " (" + format_bytes(bytes) + ")";
  check(*device, nullptr, device->table().module_load(device->handle(), &args, &module->handle_), what.c_str());
  return module;
}

Module::~Module() {
  if (handle_ == nullptr || generation_ != device_->generation()) return;
  device_->table().device_synchronize(device_->handle());  // its code may be running
  device_->table().module_unload(handle_);
}

std::shared_ptr<Function> Function::get(const std::shared_ptr<Module>& module, const std::string& name,
                                        uint64_t shared_bytes, uint32_t threads, size_t args_bytes,
                                        const std::string& location) {
  auto function = std::make_shared<Function>();
  function->module = module;
  function->name = name;
  function->label = intern(location.empty() ? name : name + " (" + location + ")");
  function->shared_bytes = shared_bytes;
  function->threads = threads;
  function->args_bytes = args_bytes;
  unify_function_args args{};
  args.struct_size = sizeof args;
  args.name = name.c_str();
  args.shared_bytes = shared_bytes;
  Device& device = module->device();
  const std::string what = "finding kernel " + name;
  check(device, nullptr, device.table().function_get(module->handle(), &args, &function->handle), what.c_str());
  if (args.max_threads != 0 && threads > args.max_threads) {
    throw Error(ErrorKind::kInvalidArgument, device.name() + ": kernel " + name + " needs " + std::to_string(threads) +
                                                 " threads a program, at most " + std::to_string(args.max_threads) +
                                                 " run here. Use a smaller num_warps.");
  }
  return function;
}

}  // namespace unify
