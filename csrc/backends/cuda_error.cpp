// The driver's codes as statuses, and which operations may stand behind one.
#include <tuple>
#include <utility>

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

// The operations of all streams that are not known to have ended well.
std::pair<uint64_t, uint64_t> suspects(Device& device) {
  const std::lock_guard<std::mutex> lock(device.mutex);
  uint64_t first = 0;
  uint64_t end = 0;
  for (const std::shared_ptr<Stream>& stream : device.streams) {
    const uint64_t unproven = stream->first_unproven.load(std::memory_order_relaxed);
    if (unproven == 0) continue;
    first = first == 0 ? unproven : std::min(first, unproven);
    end = std::max(end, stream->last_enqueued.load(std::memory_order_relaxed));
  }
  return {first, end};
}

}  // namespace

unify_status status_of(Device* device, CUresult code, uint64_t operation) {
  if (code == CUDA_SUCCESS) return UNIFY_OK;
  const Meaning meaning = meaning_of(code);
  if (code == CUDA_ERROR_NOT_READY) return meaning.status;
  last = {meaning.status, code, {}, operation, 0};
  if (!meaning.is_sticky || device == nullptr) return meaning.status;
  if (code != CUDA_ERROR_CONTEXT_IS_DESTROYED) std::tie(last.operation, last.operation_last) = suspects(*device);
  if (last.operation == last.operation_last) last.operation_last = 0;
  if (meaning.status == UNIFY_DEVICE_LOST) device->is_gone = true;
  CUresult none = CUDA_SUCCESS;
  if (device->fault.compare_exchange_strong(none, code)) run_forgotten_calls(*device);
  return meaning.status;
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
