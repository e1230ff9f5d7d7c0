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
  static Keeps keep(C list, Operands& operands) {
    return list == nullptr ? Keeps() : Parameter<Tensors>::keep(list, operands);
  }
  static OptionalTensors get(const Keeps& kept, void* const* where) {
    return OptionalTensors(Parameter<Tensors>::get(kept, where));
  }
};

}  // namespace unify::operators
