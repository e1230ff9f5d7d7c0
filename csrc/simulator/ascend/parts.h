// What threads collect, each in a part of its own, so that they do not wait for one another.
#pragma once

#include <mutex>
#include <vector>

namespace unify::simulator {

// Parts stay when their threads end: others read them at the end of the process.
template <typename Part>
class Parts {
 public:
  Part* add() {
    auto* part = new Part;
    const std::lock_guard<std::mutex> lock(mutex_);
    all_.push_back(part);
    return part;
  }

  template <typename Work>
  void for_each(Work&& work) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (Part* part : all_) work(*part);
  }

 private:
  std::mutex mutex_;
  std::vector<Part*> all_;
};

}  // namespace unify::simulator
