#include "operator.h"

#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>

#include <cstdio>

namespace unify::operators {

const Out& Out::operator=(const Tensor& result) const {
  if (!is_wanted()) return *this;
  TORCH_CHECK(memory_.sizes() == result.sizes(), "a result of shape ", result.sizes(), " for memory of ",
              memory_.sizes(), ".");
  memory_.copy_(result);
  return *this;
}

const Shaped& Shaped::operator=(const Tensor& result) const {
  TORCH_CHECK(result.numel() <= memory_.numel(), "a result of shape ", result.sizes(), " for memory of ",
              memory_.sizes(), ".");
  memory_.view(-1).narrow(0, 0, result.numel()).copy_(result.reshape(-1));
  sizes_->assign(result.sizes().begin(), result.sizes().end());
  return *this;
}

void write(const Tensors& results, const Outs& outs) {
  TORCH_CHECK(results.size() == outs.size(), results.size(), " results for ", outs.size(), " tensors.");
  for (size_t i = 0; i < outs.size(); ++i) outs[i] = results[i];
}

Kept::Kept(const aclTensor* given, Memory& memory) {
  if (given == nullptr) return;
  tensor = *given;
  place = static_cast<uint32_t>(memory.size());
  memory.push_back({tensor.address, tensor.bytes()});
}

Tensor Kept::at(void* const* where) const {
  if (tensor.type == ScalarType::Undefined) return {};
  const at::TensorOptions options(tensor.type);
  if (where[place] == nullptr) return at::empty(tensor.sizes, options);
  return at::from_blob(where[place], tensor.sizes, tensor.strides, options);
}

auto Parameter<Tensors>::keep(C list, Memory& memory) -> Keeps {
  Keeps kept;
  for (const aclTensor* each : list->values) kept.emplace_back(each, memory);
  return kept;
}

Tensors Parameter<Tensors>::get(const Keeps& kept, void* const* where) {
  Tensors tensors;
  for (const Kept& each : kept) tensors.push_back(each.at(where));
  return tensors;
}

Outs Parameter<Outs>::get(const Keeps& kept, void* const* where) {
  Outs outs;
  for (const Kept& each : kept) outs.emplace_back(each.at(where));
  return outs;
}

auto Parameter<Scalars>::keep(C list, Memory&) -> Keeps {
  Keeps kept;
  for (const aclScalar* each : list->values) kept.push_back(each->value);
  return kept;
}

int32_t refuse_null(const char* name, size_t parameter) {
  return unify_simulator_refuse(name, kNullPointer,
                                ("Parameter " + std::to_string(parameter) + " is a null pointer.").c_str());
}

int32_t refuse(const char* name, const std::exception& error) {
  const auto* of_torch = dynamic_cast<const c10::Error*>(&error);
  return unify_simulator_refuse(name, kInvalid, of_torch ? of_torch->what_without_backtrace() : error.what());
}

namespace {

constexpr int32_t kCoreException = 507015;  // ACL_ERROR_RT_AICORE_EXCEPTION

int32_t run(void* data, void* const* where, char* why, size_t why_bytes) {
  const c10::InferenceMode guard;  // nothing here is to be differentiated: torch_npu does that
  try {
    static_cast<const aclOpExecutor*>(data)->run(where);
    return 0;
  } catch (const c10::Error& error) {
    std::snprintf(why, why_bytes, "%s", error.what_without_backtrace());
  } catch (const std::exception& error) {
    std::snprintf(why, why_bytes, "%s", error.what());
  }
  return kCoreException;
}

void release(void* data) { delete static_cast<aclOpExecutor*>(data); }

}  // namespace

int32_t enqueue(const char* name, aclOpExecutor* executor, void* stream) {
  if (executor == nullptr) return refuse_null(name, 3);
  const unify_simulated_operator op = {
      name, executor->memory.data(), static_cast<uint32_t>(executor->memory.size()), run, release, executor,
  };
  return unify_simulator_operate(&op, stream);
}

}  // namespace unify::operators

UNIFY_EXPORT int aclDestroyAclOpExecutor(aclOpExecutor* executor) {
  delete executor;
  return 0;
}
