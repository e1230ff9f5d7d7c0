#include "operator.h"

#include <ATen/ops/empty_strided.h>
#include <ATen/ops/from_blob.h>
#include <ATen/record_function.h>
#include <c10/core/InferenceMode.h>

#include <cstdio>
#include <unordered_set>

namespace unify::operators {

const Out& Out::operator=(const Tensor& result) const {
  if (!is_wanted() || memory_.is_meta()) return *this;  // torch's own shapes of what only it needs differ there
  TORCH_CHECK(memory_.sizes() == result.sizes(), "a result of shape ", result.sizes(), " for memory of ",
              memory_.sizes(), ".");
  memory_.copy_(result);
  return *this;
}

const Shaped& Shaped::operator=(const Tensor& result) const {
  if (memory_.is_meta()) return *this;
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

Kept::Kept(const aclTensor* given, Operands& operands) {
  operands.add(given != nullptr);
  if (given == nullptr) return;
  tensor = *given;
  place = static_cast<uint32_t>(operands.memory.size());
  operands.memory.push_back({tensor.address, tensor.bytes()});
  operands.add(static_cast<uint64_t>(tensor.type));
  operands.add_all(tensor.sizes);
  operands.add_all(tensor.strides);
}

Tensor Kept::at(void* const* where) const {
  if (tensor.type == ScalarType::Undefined) return {};
  const at::TensorOptions options(tensor.type);
  if (where == nullptr) return at::empty_strided(tensor.sizes, tensor.strides, options.device(at::kMeta));
  if (where[place] == nullptr) return at::empty(tensor.sizes, options);
  return at::from_blob(where[place], tensor.sizes, tensor.strides, options);
}

auto Parameter<Tensors>::keep(C list, Operands& operands) -> Keeps {
  Keeps kept;
  for (const aclTensor* each : list->values) kept.emplace_back(each, operands);
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

auto Parameter<Scalars>::keep(C list, Operands& operands) -> Keeps {
  Keeps kept;
  for (const aclScalar* each : list->values) {
    kept.push_back(each->value);
    operands.add(each->value);
  }
  return kept;
}

int32_t refuse_null(const char* name, size_t parameter) {
  return unify_simulator_refuse(name, kNullPointer,
                                ("Parameter " + std::to_string(parameter) + " is a null pointer.").c_str());
}

int32_t refuse(const char* name, const std::string& why) {
  return unify_simulator_refuse(name, kInvalid, ("AclNN_Parameter_Error(EZ1001): " + why).c_str());
}

// What torch says, without where: a check that torch has in Python adds its lines.
std::string words(const std::exception& error) {
  if (const auto* of_torch = dynamic_cast<const c10::Error*>(&error)) return of_torch->what_without_backtrace();
  const std::string all = error.what();
  return all.substr(0, all.find("\n\nAt:"));
}

int32_t refuse(const char* name, const std::exception& error) { return refuse(name, words(error)); }

namespace {

// What an error of work on tensors without memory says of shapes. Empty if it is that there are no values, or a fault
// of torch's own checks in Python.
std::string words_about_shapes(const std::exception& error) {
  const std::string why = words(error);
  const bool has_no_values = dynamic_cast<const c10::NotImplementedError*>(&error) != nullptr;
  if (has_no_values || why.find("meta") != std::string::npos) return {};
  if (dynamic_cast<const c10::Error*>(&error) != nullptr) return why;
  for (const std::string kind : {"RuntimeError: ", "IndexError: ", "ValueError: "}) {
    if (why.rfind(kind, 0) == 0) return why.substr(kind.size());
  }
  return {};
}

}  // namespace

// Tries the work on tensors without memory, which takes longer than the chip's library does: once for each form.
std::string misfit(const char* name, const aclOpExecutor& executor) {
  // Of each thread, so that no lock is taken for each operator.
  static thread_local std::unordered_set<uint64_t> known;
  static thread_local std::unordered_set<const char*> unknowable;
  const uint64_t form = executor.operands.form ^ reinterpret_cast<uintptr_t>(name);
  if (known.count(form) > 0 || unknowable.count(name) > 0) return {};
  const c10::InferenceMode guard;
  const at::RecordFunctionGuard quiet(false);  // this is no work that a profiler should see
  try {
    executor.run(nullptr);
  } catch (const ValuesNeeded&) {
  } catch (const std::exception& error) {
    if (std::string why = words_about_shapes(error); !why.empty()) return why;
    unknowable.insert(name);
  }
  constexpr size_t kMost = 1 << 16;
  if (known.size() >= kMost) known.clear();
  known.insert(form);
  return {};
}

namespace {

constexpr int32_t kCoreException = 507015;  // ACL_ERROR_RT_AICORE_EXCEPTION

int32_t run(void* data, void* const* where, char* why, size_t why_bytes) {
  const c10::InferenceMode guard;  // nothing here is to be differentiated: torch_npu does that
  try {
    static_cast<const aclOpExecutor*>(data)->run(where);
    return 0;
  } catch (const std::exception& error) {
    std::snprintf(why, why_bytes, "%s", words(error).c_str());
  }
  return kCoreException;
}

void release(void* data) { delete static_cast<aclOpExecutor*>(data); }

}  // namespace

int32_t enqueue(const char* name, aclOpExecutor* executor, void* stream) {
  if (executor == nullptr) return refuse_null(name, 3);
  const unify_simulated_operator op = {
      name,     executor->operands.memory.data(), static_cast<uint32_t>(executor->operands.memory.size()), run, release,
      executor,
  };
  return unify_simulator_operate(&op, stream);
}

}  // namespace unify::operators

UNIFY_EXPORT int aclDestroyAclOpExecutor(aclOpExecutor* executor) {
  delete executor;
  return 0;
}
