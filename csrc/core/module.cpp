#include "module.h"

#include "device.h"
#include "error.h"
#include "failures.h"
#include "launch.h"

namespace unify {

std::shared_ptr<Module> Module::load(const std::shared_ptr<Device>& device, const void* image, size_t bytes,
                                     const std::string& name) {
  reclaim();
  device->require_usable();
  if (bytes == 0) {
    throw Error(ErrorKind::kInvalidArgument, device->name() + ": loading kernel " + name + ": the image is empty.");
  }
  const std::shared_ptr<Module> module = reclaimed(new Module);
  module->device_ = device;
  unify_module_args args{};
  args.struct_size = sizeof args;
  args.image = image;
  args.bytes = bytes;
  args.name = name.c_str();
  const std::string what = "loading kernel " + name + " (" + format_bytes(bytes) + ")";
  const auto call = device->call();
  module->generation_ = device->generation();
  check(*device, nullptr, device->table().module_load(device->handle(), &args, &module->handle_), what.c_str());
  return module;
}

bool Module::end() noexcept {
  const auto call = device_->call();
  if (handle_ == nullptr || generation_ != device_->generation()) return true;
  if (!work_.has_value()) work_ = device_->mark_work();
  if (!device_->has_passed(*work_)) return false;
  const unify_status status = device_->table().module_unload(handle_);
  if (status != UNIFY_OK) device_->failures().note(Failures::kNoStream, status, "unloading a kernel");
  return true;
}

std::shared_ptr<Function> Function::get(const std::shared_ptr<Module>& module, const std::string& name,
                                        const LaunchShape& shape, size_t args_bytes, const std::string& location) {
  auto function = std::make_shared<Function>();
  function->module = module;
  function->name = name;
  function->label = intern(location.empty() ? name : name + " (" + location + ")");
  function->shape = shape;
  function->shared_limit = shape.shared_bytes;
  function->args_bytes = args_bytes;
  unify_function_args args{};
  args.struct_size = sizeof args;
  args.name = name.c_str();
  args.shared_bytes = shape.shared_bytes;
  Device& device = module->device();
  const std::string what = "finding kernel " + name;
  const auto call = device.call();
  device.require_generation(module->generation(), "this kernel");
  check(device, nullptr, device.table().function_get(module->handle(), &args, &function->handle), what.c_str());
  function->max_threads = args.max_threads;
  function->registers = args.registers;
  function->local_bytes = args.local_bytes;
  if (args.max_threads != 0 && shape.threads > args.max_threads) {
    throw Error(ErrorKind::kInvalidArgument, device.name() + ": kernel " + name + " needs " +
                                                 std::to_string(shape.threads) + " threads a program, at most " +
                                                 std::to_string(args.max_threads) +
                                                 " run here. Use fewer: a smaller num_warps, or block.");
  }
  return function;
}

}  // namespace unify
