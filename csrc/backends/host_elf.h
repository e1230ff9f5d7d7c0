// Loads a relocatable ELF object, as the CPU compiler makes them, into this process.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <unordered_map>

namespace unify::host {

// The image is taken as hostile: every offset is checked, and only the functions that host_kernel.h names
// can be reached from it. Code is never writable while it is executable.
class LoadedObject {
 public:
  // Null with `why` set when the image is damaged or asks for what it may not have.
  static std::unique_ptr<LoadedObject> load(const void* image, size_t bytes, std::string& why);
  ~LoadedObject();
  LoadedObject(const LoadedObject&) = delete;  // it owns the mapping
  LoadedObject& operator=(const LoadedObject&) = delete;

  // The address of a global function, or null.
  [[nodiscard]] void* find(const std::string& name) const;
  [[nodiscard]] size_t bytes() const noexcept { return bytes_; }

 private:
  LoadedObject() = default;
  void* base_ = nullptr;
  size_t bytes_ = 0;
  std::unordered_map<std::string, void*> functions_;
};

}  // namespace unify::host
