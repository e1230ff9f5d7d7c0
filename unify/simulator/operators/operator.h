// How one of torch's operators on the CPU becomes one of the vendor's, in a line:
//
//   OPERATOR(aclnnAdd, (Tensor self, Tensor other, Scalar alpha, Out out), out = at::add(self, other, alpha))
//
// The parameters are those of aclnnAddGetWorkspaceSize, in its order; what follows runs on the stream's thread when its
// turn comes. One that torch refuses there, fails with torch's words.
#pragma once

#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>
#include <unify/simulated_operator.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "descriptor.h"
#include "rules.h"

#pragma GCC visibility push(default)  // also for libraries of the user's

namespace unify::operators {

using at::Scalar;
using at::ScalarType;
using at::Tensor;
using Ints = std::vector<int64_t>;
using Floats = std::vector<float>;
using Bools = std::vector<bool>;
using Tensors = std::vector<Tensor>;
using Scalars = std::vector<Scalar>;
using std::optional;

constexpr int32_t kNullPointer = 161001;  // ACLNN_ERR_PARAM_NULLPTR
constexpr int32_t kInvalid = 161002;      // ACLNN_ERR_PARAM_INVALID

// Where a result goes: memory of the device, of its own type and strides. Absent where the caller wants no such result.
class Out {
 public:
  Out() = default;
  explicit Out(Tensor memory) : memory_(std::move(memory)) {}
  // Writes a result of this shape, converted. Raises where the shape is another one.
  const Out& operator=(const Tensor& result) const;
  operator const Tensor&() const { return memory_; }
  const Tensor* operator->() const { return &memory_; }
  [[nodiscard]] bool is_wanted() const { return memory_.defined(); }

 private:
  Tensor memory_;
};
using Outs = std::vector<Out>;

// An Out for a result whose shape only the work knows: the caller waits for it and asks aclGetViewShape. The result
// lies densely at the start of the memory, which has room for the largest one.
class Shaped {
 public:
  Shaped(Tensor memory, std::shared_ptr<c10::SmallVector<int64_t, 5>> sizes)
      : memory_(std::move(memory)), sizes_(std::move(sizes)) {}
  // Raises where the memory is too small.
  const Shaped& operator=(const Tensor& result) const;

 private:
  Tensor memory_;
  std::shared_ptr<c10::SmallVector<int64_t, 5>> sizes_;
};

// Writes several results: write(at::max(self, dim), values, indices).
template <typename... Results, typename... Memory>
void write(const std::tuple<Results...>& results, const Memory&... outs) {
  static_assert(sizeof...(Results) == sizeof...(Memory));
  std::apply([&](const auto&... each) { ((outs = each), ...); }, results);
}
void write(const Tensors& results, const Outs& outs);

// What an operator was given.
struct Operands {
  std::vector<unify_simulated_memory> memory;
  uint64_t form = 0;  // a hash of what the shapes of results depend on: numbers with a fraction are left out

  void add(uint64_t value) { form = (form ^ value) * 0x9E3779B97F4A7C15 + (form >> 29); }
  template <typename Values>
  void add_all(const Values& values) {
    add(values.size());
    for (const auto& each : values) add(static_cast<uint64_t>(each));
  }
  void add(const Scalar& value) {
    if (value.isIntegral(true)) add(static_cast<uint64_t>(value.toLong()));
  }
};

// A tensor as an executor keeps it: the caller's own is destroyed before the work runs.
struct Kept {
  aclTensor tensor;    // of no type if it is absent
  uint32_t place = 0;  // in the operator's memory

  Kept(const aclTensor* given, Operands& operands);
  // Undefined if it is absent. Where there is no memory at all, a tensor of torch's `meta`, which has only a shape.
  [[nodiscard]] Tensor at(void* const* where) const;
};

// What C calls a parameter, what is kept of it, and what the operator gets. `is_good` is false for a null pointer where
// something must be.
template <typename T>
struct Parameter {  // numbers
  using C = T;
  using Keeps = T;
  static bool is_good(C) { return true; }
  static Keeps keep(C value, Operands& operands) {
    if constexpr (std::is_integral_v<T>) operands.add(static_cast<uint64_t>(value));
    return value;
  }
  static T get(const Keeps& kept, void* const*) { return kept; }
};

template <>
struct Parameter<Tensor> {
  using C = const aclTensor*;
  using Keeps = Kept;
  static bool is_good(C value) { return value != nullptr; }
  static Keeps keep(C value, Operands& operands) { return {value, operands}; }
  static Tensor get(const Keeps& kept, void* const* where) { return kept.at(where); }
};
template <>
struct Parameter<optional<Tensor>> : Parameter<Tensor> {
  static bool is_good(C) { return true; }
  static optional<Tensor> get(const Keeps& kept, void* const* where) {
    Tensor tensor = kept.at(where);
    return tensor.defined() ? optional<Tensor>(std::move(tensor)) : std::nullopt;
  }
};
template <>
struct Parameter<Out> : Parameter<Tensor> {
  static bool is_good(C) { return true; }
  static Out get(const Keeps& kept, void* const* where) { return Out(kept.at(where)); }
};
template <>
struct Parameter<Shaped> : Parameter<Tensor> {
  static Keeps keep(C value, Operands& operands) {
    value->found = std::make_shared<c10::SmallVector<int64_t, 5>>(value->sizes);
    return {value, operands};
  }
  static Shaped get(const Keeps& kept, void* const* where) { return {kept.at(where), kept.tensor.found}; }
};

template <>
struct Parameter<Tensors> {
  using C = const aclTensorList*;
  using Keeps = std::vector<Kept>;
  static bool is_good(C value) { return value != nullptr; }
  static Keeps keep(C list, Operands& operands);
  static Tensors get(const Keeps& kept, void* const* where);
};
template <>
struct Parameter<Outs> : Parameter<Tensors> {
  static Outs get(const Keeps& kept, void* const* where);
};

template <>
struct Parameter<Scalar> {
  using C = const aclScalar*;
  using Keeps = Scalar;
  static bool is_good(C value) { return value != nullptr; }
  static Keeps keep(C value, Operands& operands) {
    operands.add(value->value);
    return value->value;
  }
  static Scalar get(const Keeps& kept, void* const*) { return kept; }
};
template <>
struct Parameter<optional<Scalar>> {
  using C = const aclScalar*;
  using Keeps = optional<Scalar>;
  static bool is_good(C) { return true; }
  static Keeps keep(C value, Operands& operands) {
    if (value == nullptr) return std::nullopt;
    operands.add(value->value);
    return value->value;
  }
  static Keeps get(const Keeps& kept, void* const*) { return kept; }
};
template <>
struct Parameter<Scalars> {
  using C = const aclScalarList*;
  using Keeps = Scalars;
  static bool is_good(C value) { return value != nullptr; }
  static Keeps keep(C list, Operands& operands);
  static const Scalars& get(const Keeps& kept, void* const*) { return kept; }
};

template <typename Array, typename Values>
struct ArrayParameter {
  using C = const Array*;
  using Keeps = Values;
  static bool is_good(C value) { return value != nullptr; }
  static Keeps keep(C value, Operands& operands) {
    if constexpr (!std::is_same_v<Values, Floats>) operands.add_all(value->values);
    return value->values;
  }
  static const Values& get(const Keeps& kept, void* const*) { return kept; }
};
template <>
struct Parameter<Ints> : ArrayParameter<aclIntArray, Ints> {};
template <>
struct Parameter<Floats> : ArrayParameter<aclFloatArray, Floats> {};
template <>
struct Parameter<Bools> : ArrayParameter<aclBoolArray, Bools> {};
template <typename Array, typename Values>
struct OptionalArrayParameter {
  using C = const Array*;
  using Keeps = optional<Values>;
  static bool is_good(C) { return true; }
  static Keeps keep(C value, Operands& operands) {
    operands.add(value != nullptr);
    return value == nullptr ? std::nullopt : Keeps(ArrayParameter<Array, Values>::keep(value, operands));
  }
  static Keeps get(const Keeps& kept, void* const*) { return kept; }
};
template <>
struct Parameter<optional<Ints>> : OptionalArrayParameter<aclIntArray, Ints> {};
template <>
struct Parameter<optional<Bools>> : OptionalArrayParameter<aclBoolArray, Bools> {};

template <>
struct Parameter<ScalarType> {
  using C = int;
  using Keeps = ScalarType;
  static bool is_good(C) { return true; }
  static Keeps keep(C value, Operands& operands) {
    operands.add(static_cast<uint64_t>(value));
    return type_of(value);
  }
  static ScalarType get(const Keeps& kept, void* const*) { return kept; }
};
template <>
struct Parameter<std::string> {
  using C = const char*;
  using Keeps = std::string;
  static bool is_good(C) { return true; }
  static Keeps keep(C value, Operands& operands) {
    Keeps kept = value == nullptr ? "" : value;
    operands.add_all(kept);
    return kept;
  }
  static const std::string& get(const Keeps& kept, void* const*) { return kept; }
};

}  // namespace unify::operators

// Made by aclnnXGetWorkspaceSize, run and given up by aclnnX.
struct aclOpExecutor {
  virtual ~aclOpExecutor() = default;
  virtual void run(void* const* where) const = 0;
  unify::operators::Operands operands;
};

namespace unify::operators {

template <typename... P>
struct Bound final : aclOpExecutor {
  using Function = void (*)(P...);
  Bound(Function function, typename Parameter<P>::C... values)
      : function(function), kept{Parameter<P>::keep(values, operands)...} {}
  void run(void* const* where) const override {
    std::apply([&](const auto&... each) { function(Parameter<P>::get(each, where)...); }, kept);
  }
  Function function;
  std::tuple<typename Parameter<P>::Keeps...> kept;
};

int32_t refuse_null(const char* name, size_t parameter);
int32_t refuse(const char* name, const std::string& why);
int32_t refuse(const char* name, const std::exception& error);
int32_t enqueue(const char* name, aclOpExecutor* executor, void* stream);

// Thrown by work on tensors without memory where it comes to values; what stands before was checked.
struct ValuesNeeded final : std::exception {};

// Why torch refuses these shapes, by doing the work on tensors without memory: once for each form of operands. Empty if
// it doesn't, or if that takes values.
std::string misfit(const char* name, const aclOpExecutor& executor);

// The first phase of an operator whose work is `function`.
template <auto function, const char* name>
struct Phase;
template <typename... P, void (*function)(P...), const char* name>
struct Phase<function, name> {
  static int32_t prepare(typename Parameter<P>::C... values, uint64_t* workspace, aclOpExecutor** executor) {
    size_t number = 0;
    const bool is_good = ((++number, Parameter<P>::is_good(values)) && ...);
    if (!is_good) return refuse_null(name, number);
    static const Rules rules(name);
    std::string why;
    number = 0;
    const bool is_taken = ((why = rules.refuse(number++, values)).empty() && ...);
    if (!is_taken) return refuse(name, why);
    try {
      auto made = std::make_unique<Bound<P...>>(function, values...);
      if (why = misfit(name, *made); !why.empty()) return refuse(name, why);
      *executor = made.release();
    } catch (const std::exception& error) {
      return refuse(name, error);
    }
    *workspace = 0;
    return 0;
  }
};

}  // namespace unify::operators

#pragma GCC visibility pop

// An exported name has no type: its address is that of an instantiation (ifunc), which has the parameters' types.
#define OPERATOR(NAME, PARAMETERS, ...)                                                                         \
  namespace {                                                                                                   \
  constexpr char NAME##_name[] = #NAME "GetWorkspaceSize";                                                      \
  void NAME##_run PARAMETERS { __VA_ARGS__; }                                                                   \
  }                                                                                                             \
  extern "C" {                                                                                                  \
  static void (*NAME##_prepare())() {                                                                           \
    return reinterpret_cast<void (*)()>(&::unify::operators::Phase<&NAME##_run, NAME##_name>::prepare);         \
  }                                                                                                             \
  __attribute__((visibility("default"), ifunc(#NAME "_prepare"))) void NAME##GetWorkspaceSize();                \
  __attribute__((visibility("default"))) int32_t NAME(void*, uint64_t, aclOpExecutor* executor, void* stream) { \
    return ::unify::operators::enqueue(#NAME, executor, stream);                                                \
  }                                                                                                             \
  }
