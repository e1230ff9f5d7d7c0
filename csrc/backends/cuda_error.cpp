// The driver's codes as statuses.
#include "cuda_backend.h"

namespace unify::cuda {
namespace {

struct Meaning {
  CUresult code;
  unify_status status;
  bool is_sticky;
  const char* advice;
};
constexpr Meaning kMeanings[] = {
#define ERROR(code, status, is_sticky, advice) {code, UNIFY_##status, is_sticky, advice},
#include "cuda_errors.inc"
#undef ERROR
};

Meaning meaning_of(CUresult code) {
  for (const Meaning& meaning : kMeanings) {
    if (meaning.code == code) return meaning;
  }
  return {code, UNIFY_INTERNAL, false, nullptr};
}

struct Failure {
  unify_status status = UNIFY_OK;
  CUresult code = CUDA_SUCCESS;
  std::string message;
  uint64_t operation = 0;
  uint64_t operation_last = 0;
};
thread_local Failure last;

}  // namespace

unify_status status_of(Device* device, CUresult code, uint64_t operation) {
  if (code == CUDA_SUCCESS) return UNIFY_OK;
  const Meaning meaning = meaning_of(code);
  if (code == CUDA_ERROR_NOT_READY) return meaning.status;
  last = {meaning.status, code, {}, operation, 0};
  if (!meaning.is_sticky || device == nullptr) return meaning.status;
  // CUDA does not say whose the failure is: any operation may be it, as far as the core does not know better.
  last.operation = code == CUDA_ERROR_CONTEXT_IS_DESTROYED ? 0 : 1;
  last.operation_last = code == CUDA_ERROR_CONTEXT_IS_DESTROYED ? 0 : UINT64_MAX;
  if (meaning.status == UNIFY_DEVICE_LOST) device->is_gone = true;
  CUresult none = CUDA_SUCCESS;
  if (device->fault.compare_exchange_strong(none, code)) device->calls.run_forgotten();
  return meaning.status;
}

unify_status status_as(unify_status status, CUresult code) {
  last = {status, code, {}, 0, 0};
  return status;
}

unify_status refuse(unify_status status, std::string message) {
  last = {status, CUDA_SUCCESS, std::move(message), 0, 0};
  return status;
}

unify_status add_to_message(const std::string& text) {
  const char* words = nullptr;
  driver.cuGetErrorString(last.code, &words);
  last.message = std::string(words != nullptr ? words : "it failed") + ": " + text;
  return last.status;
}

void last_error(unify_error* out) {
  unify_error error{};
  error.status = last.status;
  error.native_code = last.code;
  if (last.code != CUDA_SUCCESS) {
    driver.cuGetErrorName(last.code, &error.native_name);
    driver.cuGetErrorString(last.code, &error.message);
    error.advice = meaning_of(last.code).advice;
  }
  if (!last.message.empty()) error.message = last.message.c_str();
  error.operation = last.operation;
  error.operation_last = last.operation_last;
  answer(out, error);
}

}  // namespace unify::cuda
