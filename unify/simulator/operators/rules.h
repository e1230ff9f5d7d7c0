// What the chip's operators take, as the vendor's documentation says: types, and numbers of dimensions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "descriptor.h"

#pragma GCC visibility push(default)  // also for libraries of the user's

namespace unify::operators {

// Of one operator on the simulated chip. What the documentation does not know takes everything.
class Rules {
 public:
  explicit Rules(const std::string& call);  // "aclnnAddGetWorkspaceSize"

  // Why the operator does not take this as its parameter of that number, in the vendor's words; empty: it does.
  [[nodiscard]] std::string refuse(size_t parameter, const aclTensor* given) const;
  [[nodiscard]] std::string refuse(size_t parameter, const aclTensorList* given) const;
  template <typename Other>
  [[nodiscard]] std::string refuse(size_t, const Other&) const {
    return {};
  }

 private:
  struct Rule {
    size_t parameter;
    std::string name;
    uint64_t types;  // a bit for each of torch's
    size_t most_dimensions;
  };
  std::vector<Rule> rules_;
};

}  // namespace unify::operators

#pragma GCC visibility pop
