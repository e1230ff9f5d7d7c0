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
#include <utility>
#include <vector>

#include "descriptor.h"

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

using Memory = std::vector<unify_simulated_memory>;

// A tensor as an executor keeps it: the caller's own is destroyed before the work runs.
struct Kept {
  aclTensor tensor;    // of no type if it is absent
  uint32_t place = 0;  // in the operator's memory

  Kept(const aclTensor* given, Memory& memory);
  [[nodiscard]] Tensor at(void* const* where) const;  // undefined if it is absent
};

// What C calls a parameter, what is kept of it, and what the operator gets. `is_good` is false for a null pointer where
// something must be.
template <typename T>
struct Parameter {  // numbers
  using C = T;
  using Keeps = T;
  static bool is_good(C) { return true; }
  static Keeps keep(C value, Memory&) { return value; }
  static T get(const Keeps& kept, void* const*) { return kept; }
};

template <>
struct Parameter<Tensor> {
  using C = const aclTensor*;
  using Keeps = Kept;
  static bool is_good(C value) { return value != nullptr; }
  static Keeps keep(C value, Memory& memory) { return {value, memory}; }
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
  static Keeps keep(C value, Memory& memory) {
    value->found = std::make_shared<c10::SmallVector<int64_t, 5>>(value->sizes);
    return {value, memory};
  }
  static Shaped get(const Keeps& kept, void* const* where) { return {kept.at(where), kept.tensor.found}; }
};

template <>
struct Parameter<Tensors> {
  using C = const aclTensorList*;
  using Keeps = std::vector<Kept>;
  static bool is_good(C value) { return value != nullptr; }
  static Keeps keep(C list, Memory& memory);
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
  static Keeps keep(C value, Memory&) { return value->value; }
  static Scalar get(const Keeps& kept, void* const*) { return kept; }
};
template <>
struct Parameter<optional<Scalar>> {
  using C = const aclScalar*;
  using Keeps = optional<Scalar>;
  static bool is_good(C) { return true; }
  static Keeps keep(C value, Memory&) { return value == nullptr ? std::nullopt : Keeps(value->value); }
  static Keeps get(const Keeps& kept, void* const*) { return kept; }
};
template <>
struct Parameter<Scalars> {
  using C = const aclScalarList*;
  using Keeps = Scalars;
  static bool is_good(C value) { return value != nullptr; }
  static Keeps keep(C list, Memory&);
  static const Scalars& get(const Keeps& kept, void* const*) { return kept; }
};

template <typename Array, typename Values>
struct ArrayParameter {
  using C = const Array*;
  using Keeps = Values;
  static bool is_good(C value) { return value != nullptr; }
  static Keeps keep(C value, Memory&) { return value->values; }
  static const Values& get(const Keeps& kept, void* const*) { return kept; }
};
template <>
struct Parameter<Ints> : ArrayParameter<aclIntArray, Ints> {};
template <>
struct Parameter<Floats> : ArrayParameter<aclFloatArray, Floats> {};
template <>
struct Parameter<Bools> : ArrayParameter<aclBoolArray, Bools> {};
template <>
struct Parameter<optional<Ints>> {
  using C = const aclIntArray*;
  using Keeps = optional<Ints>;
  static bool is_good(C) { return true; }
  static Keeps keep(C value, Memory&) { return value == nullptr ? std::nullopt : Keeps(value->values); }
  static Keeps get(const Keeps& kept, void* const*) { return kept; }
};

template <>
struct Parameter<ScalarType> {
  using C = int;
  using Keeps = ScalarType;
  static bool is_good(C) { return true; }
  static Keeps keep(C value, Memory&) { return type_of(value); }
  static ScalarType get(const Keeps& kept, void* const*) { return kept; }
};
template <>
struct Parameter<std::string> {
  using C = const char*;
  using Keeps = std::string;
  static bool is_good(C) { return true; }
  static Keeps keep(C value, Memory&) { return value == nullptr ? "" : value; }
  static const std::string& get(const Keeps& kept, void* const*) { return kept; }
};

}  // namespace unify::operators

// Made by aclnnXGetWorkspaceSize, run and given up by aclnnX.
struct aclOpExecutor {
  virtual ~aclOpExecutor() = default;
  virtual void run(void* const* where) const = 0;
  unify::operators::Memory memory;
};

namespace unify::operators {

template <typename... P>
struct Bound final : aclOpExecutor {
  using Function = void (*)(P...);
  Bound(Function function, typename Parameter<P>::C... values)
      : function(function), kept{Parameter<P>::keep(values, memory)...} {}
  void run(void* const* where) const override {
    std::apply([&](const auto&... each) { function(Parameter<P>::get(each, where)...); }, kept);
  }
  Function function;
  std::tuple<typename Parameter<P>::Keeps...> kept;
};

int32_t refuse_null(const char* name, size_t parameter);
int32_t refuse(const char* name, const std::exception& error);
int32_t enqueue(const char* name, aclOpExecutor* executor, void* stream);

// The first phase of an operator whose work is `function`.
template <auto function, const char* name>
struct Phase;
template <typename... P, void (*function)(P...), const char* name>
struct Phase<function, name> {
  static int32_t prepare(typename Parameter<P>::C... values, uint64_t* workspace, aclOpExecutor** executor) {
    size_t number = 0;
    const bool is_good = ((++number, Parameter<P>::is_good(values)) && ...);
    if (!is_good) return refuse_null(name, number);
    try {
      *executor = new Bound<P...>(function, values...);
    } catch (const std::exception& error) {
      return refuse(name, error);
    }
    *workspace = 0;
    return 0;
  }
};

}  // namespace unify::operators

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
