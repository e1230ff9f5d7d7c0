// The vendor's older operators, which are named by a type and have attributes, one in a line:
//
//   ACLOP(SignBitsPack, (Tensor x, const Attributes& with, Out y), y = packed(x, with.get<int64_t>("size")))
//
// Tensor and optional<Tensor> are its inputs in their order, Tensors the rest of them; Out and Outs are its outputs,
// and Shaped is one whose sizes only the work knows. In a report and in plans of faults it is aclopSignBitsPack. What
// follows the parameters runs on the stream's thread, as in operator.h.
#pragma once

#include <map>
#include <type_traits>
#include <variant>

#include "operator.h"

#pragma GCC visibility push(default)  // also for libraries of the user's

namespace unify::operators {

using IntLists = std::vector<Ints>;

// What an operator is told besides its tensors, by name.
class Attributes {
 public:
  using Value = std::variant<bool, int64_t, double, std::string, ScalarType, Bools, Ints, Floats, IntLists>;

  void set(const char* name, Value value) { values_[name] = std::move(value); }

  // Numbers are converted. Raises where there is none of this name and no fallback, or one of another type.
  template <typename T>
  [[nodiscard]] T get(const char* name, optional<T> fallback = std::nullopt) const {
    const auto found = values_.find(name);
    if (found == values_.end()) {
      TORCH_CHECK(fallback.has_value(), "there is no attribute ", name, ".");
      return *std::move(fallback);
    }
    return std::visit(
        [&](const auto& value) -> T {
          using Given = std::decay_t<decltype(value)>;
          if constexpr (std::is_same_v<Given, T> || (std::is_arithmetic_v<Given> && std::is_arithmetic_v<T>)) {
            return static_cast<T>(value);
          } else {
            TORCH_CHECK(false, "attribute ", name, " is of another type.");
          }
        },
        found->second);
  }

 private:
  std::map<std::string, Value> values_;
};

// Where an output of a call goes, and what its sizes turn out to be.
struct AclopResult {
  Tensor memory;  // undefined if it is absent
  std::shared_ptr<c10::SmallVector<int64_t, 5>> found;
};

// The tensors of a call as it runs; a parameter takes the next one, or what is left.
class AclopCall {
 public:
  AclopCall(Tensors inputs, std::vector<AclopResult> results, const Attributes& attributes)
      : inputs_(std::move(inputs)), results_(std::move(results)), attributes_(attributes) {}

  template <typename T>
  T take() {
    if constexpr (std::is_same_v<T, const Attributes&>) {
      return attributes_;
    } else if constexpr (std::is_same_v<T, Tensor>) {
      Tensor tensor = input();
      TORCH_CHECK(tensor.defined(), "input ", next_input_ - 1, " is absent.");
      return tensor;
    } else if constexpr (std::is_same_v<T, optional<Tensor>>) {
      Tensor tensor = input();
      return tensor.defined() ? optional<Tensor>(std::move(tensor)) : std::nullopt;
    } else if constexpr (std::is_same_v<T, Tensors>) {
      Tensors tensors;
      while (next_input_ < inputs_.size()) tensors.push_back(input());
      return tensors;
    } else if constexpr (std::is_same_v<T, Out>) {
      return Out(result().memory);
    } else if constexpr (std::is_same_v<T, Outs>) {
      Outs outs;
      while (next_result_ < results_.size()) outs.emplace_back(result().memory);
      return outs;
    } else {
      static_assert(std::is_same_v<T, Shaped>);
      const AclopResult given = result();
      TORCH_CHECK(given.memory.defined(), "output ", next_result_ - 1, " is absent.");
      return {given.memory, given.found};
    }
  }
  void finish() const;  // raises where the call has more tensors than the operator

 private:
  Tensor input() { return next_input_ < inputs_.size() ? inputs_[next_input_++] : Tensor(); }
  AclopResult result() { return next_result_ < results_.size() ? results_[next_result_++] : AclopResult(); }

  Tensors inputs_;
  std::vector<AclopResult> results_;
  const Attributes& attributes_;
  size_t next_input_ = 0, next_result_ = 0;
};

// Sizes, orders and the like, which are inputs in memory of the host.
Ints numbers_of(const Tensor& tensor);

using AclopWork = void (*)(AclopCall&);

// Makes an operator known by its type.
struct KnownAclop {
  KnownAclop(const char* type, const char* name, AclopWork work);
};

template <typename... P>
void run_aclop(void (*function)(P...), AclopCall& call) {
  const std::tuple<P...> taken{call.take<P>()...};  // in braces: from the first to the last
  call.finish();
  std::apply(function, taken);
}

}  // namespace unify::operators

#pragma GCC visibility pop

// The exported function is the work; plans of faults know its name by that.
#define ACLOP(TYPE, PARAMETERS, ...)                                                        \
  namespace {                                                                               \
  void TYPE##_run PARAMETERS { __VA_ARGS__; }                                               \
  }                                                                                         \
  UNIFY_EXPORT void aclop##TYPE(::unify::operators::AclopCall& call) {                      \
    ::unify::operators::run_aclop(&TYPE##_run, call);                                       \
  }                                                                                         \
  namespace {                                                                               \
  const ::unify::operators::KnownAclop TYPE##_is_known(#TYPE, "aclop" #TYPE, &aclop##TYPE); \
  }
