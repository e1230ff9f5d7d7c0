// Loaded images and the functions in them.
#pragma once

#include <unify/backend.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "device.h"
#include "reclaim.h"

namespace unify {

class Module : public Reclaimable {
 public:
  static std::shared_ptr<Module> load(const std::shared_ptr<Device>& device, const void* image, size_t bytes,
                                      const std::string& name);
  bool end() noexcept override;  // unloaded after the device's work so far, which may run its code
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;
  [[nodiscard]] Device& device() const noexcept { return *device_; }
  [[nodiscard]] const std::shared_ptr<Device>& device_ptr() const noexcept { return device_; }
  [[nodiscard]] unify_module handle() const noexcept { return handle_; }
  [[nodiscard]] uint32_t generation() const noexcept { return generation_; }

 private:
  Module() = default;
  std::shared_ptr<Device> device_;
  unify_module handle_ = nullptr;
  uint32_t generation_ = 0;
  std::optional<Device::Work> work_;  // before its end
};

// How the programs of a launch are made, beside their number: see unify_launch_args.
struct LaunchShape {
  uint64_t shared_bytes = 0;
  uint32_t threads = 1;
  std::array<uint32_t, 3> block{};    // zeros: threads × 1 × 1
  std::array<uint32_t, 3> cluster{};  // zeros: none
  uint32_t flags = 0;                 // UNIFY_LAUNCH_*
};

// Device memory that a launch brings for its programs. Its address, or null, stands at `offset` of the arguments;
// offset 0: it does not.
struct Scratch {
  uint64_t bytes = 0;  // of one program
  uint32_t offset = 0;
  uint32_t programs = 0;  // that have some at most, whatever the grid; 0: all
};

// An entry point, ready to launch.
struct Function {
  static constexpr size_t kAnyBytes = SIZE_MAX;
  static std::shared_ptr<Function> get(const std::shared_ptr<Module>& module, const std::string& name,
                                       const LaunchShape& shape, size_t args_bytes, const std::string& location = {});
  std::shared_ptr<Module> module;
  unify_function handle = nullptr;
  std::string name;           // as people know it
  const char* label = "";     // "rms_norm (norm.py:12)", for errors; interned
  LaunchShape shape;          // of a launch that names no other
  uint64_t shared_limit = 0;  // the most that the backend was told of
  size_t args_bytes = 0;      // what launch() must be given; kAnyBytes: the caller knows
  uint32_t max_threads = 0;   // in a block; 0: unknown
  uint32_t registers = 0;     // per thread; 0: unknown
  uint64_t local_bytes = 0;   // spilled, per thread
  Scratch scratch;
};

}  // namespace unify
