// Lists that a caller may leave out.
#pragma once

#include "operator.h"

namespace unify::operators {

// Empty if it is absent.
struct OptionalTensors : Tensors {
  using Tensors::Tensors;
  explicit OptionalTensors(Tensors tensors) : Tensors(std::move(tensors)) {}
};
template <>
struct Parameter<OptionalTensors> : Parameter<Tensors> {
  static bool is_good(C) { return true; }
  static Keeps keep(C list, Memory& memory) {
    return list == nullptr ? Keeps() : Parameter<Tensors>::keep(list, memory);
  }
  static OptionalTensors get(const Keeps& kept, void* const* where) {
    return OptionalTensors(Parameter<Tensors>::get(kept, where));
  }
};

template <>
struct Parameter<optional<Bools>> {
  using C = const aclBoolArray*;
  using Keeps = optional<Bools>;
  static bool is_good(C) { return true; }
  static Keeps keep(C value, Memory&) { return value == nullptr ? std::nullopt : Keeps(value->values); }
  static Keeps get(const Keeps& kept, void* const*) { return kept; }
};

}  // namespace unify::operators
