// Live objects by handle. A handle is a number that is never given out again, so that a stale one is always noticed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>

namespace unify::simulator {

template <typename Object>
class Registry {
 public:
  explicit Registry(uintptr_t first) : next_(first) {}

  template <typename Handle>
  Handle add(std::shared_ptr<Object> object) {
    const uintptr_t handle = next_;
    next_ += kStep;
    objects_.emplace(handle, std::move(object));
    return reinterpret_cast<Handle>(handle);
  }

  // Null if it is unknown or was destroyed.
  template <typename Handle>
  [[nodiscard]] std::shared_ptr<Object> find(Handle handle) const {
    const auto found = objects_.find(reinterpret_cast<uintptr_t>(handle));
    return found == objects_.end() ? nullptr : found->second;
  }

  template <typename Handle>
  void remove(Handle handle) {
    objects_.erase(reinterpret_cast<uintptr_t>(handle));
  }

  template <typename Predicate>
  void remove_if(Predicate&& predicate) {
    for (auto it = objects_.begin(); it != objects_.end();) it = predicate(*it->second) ? objects_.erase(it) : ++it;
  }

  [[nodiscard]] size_t size() const noexcept { return objects_.size(); }
  [[nodiscard]] auto begin() const noexcept { return objects_.begin(); }
  [[nodiscard]] auto end() const noexcept { return objects_.end(); }

 private:
  static constexpr uintptr_t kStep = 0x40;  // odd addresses and 1, 2, 3 are never handles
  uintptr_t next_;
  std::unordered_map<uintptr_t, std::shared_ptr<Object>> objects_;
};

}  // namespace unify::simulator
