// ACL's codes as statuses.
#include <cctype>
#include <utility>

#include "ascend_backend.h"

namespace unify::ascend {
namespace {

struct Meaning {
  aclError code;
  const char* name;
  unify_status status;
  bool is_sticky;
  const char* advice;
};
constexpr Meaning kMeanings[] = {
#define ERROR(code, name, status, is_sticky, advice) {code, #name, UNIFY_##status, is_sticky, advice},
#include "ascend_errors.inc"
#undef ERROR
};

Meaning meaning_of(aclError code) {
  for (const Meaning& meaning : kMeanings) {
    if (meaning.code == code) return meaning;
  }
  return {code, nullptr, UNIFY_INTERNAL, false, nullptr};
}

// "aicore exception" for ACL_ERROR_RT_AICORE_EXCEPTION.
std::string words_of(const Meaning& meaning) {
  if (meaning.name == nullptr) return "error " + std::to_string(meaning.code);
  std::string words = meaning.name;
  for (const char* prefix : {"ACL_ERROR_", "RT_"}) {
    if (words.rfind(prefix, 0) == 0) words.erase(0, std::strlen(prefix));
  }
  for (char& letter : words) {
    letter = letter == '_' ? ' ' : static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
  }
  return words;
}

// What ACL has to say of the thread's last failure, which it then forgets. Whole: recovery tools search it for words.
std::string recent_text() {
  const char* recent = driver.aclGetRecentErrMsg != nullptr ? driver.aclGetRecentErrMsg() : nullptr;
  std::string text = recent != nullptr ? recent : "";
  text.erase(text.find_last_not_of(" \n\r\t") + 1);
  return text;
}

std::string message_of(const Meaning& meaning) {
  const std::string recent = recent_text();
  return words_of(meaning) + (recent.empty() ? "" : ": " + recent);
}

struct Failure {
  unify_status status = UNIFY_OK;
  aclError code = ACL_SUCCESS;
  std::string message;
  uint64_t operation = 0;
  uint64_t operation_last = 0;
};
thread_local Failure last;

// "…, task_id=3, flip_num=0, fault kernel_name=…": as the vendor's runtime writes of a task that failed.
bool is_of_task(const std::string& text) { return text.find("task_id=") != std::string::npos; }

// What ACL says of the work that failed. It tells that to who waits for the stream of it, and to nobody else. Only
// streams that answer a question by the failure are waited for: they have stopped.
std::string text_of_task(Device& device) {
  std::vector<std::shared_ptr<Stream>> streams;
  {
    const std::lock_guard<std::mutex> lock(device.mutex);
    for (const auto& stream : device.streams) {
      if (!may_be_recorded(*stream) && !stream->work.is_proven()) streams.push_back(stream);
    }
  }
  const Entered entered(device);
  for (const std::shared_ptr<Stream>& stream : streams) {
    bool records = false;
    int state = 0;
    if (!succeeds(is_recording(*stream, records)) || records) continue;
    if (succeeds(driver.aclrtStreamQuery(stream->handle, &state))) continue;
    driver.aclrtSynchronizeStream(stream->handle);
    std::string text = recent_text();
    if (is_of_task(text)) return text;
  }
  return {};
}

}  // namespace

unify_status status_of(Device* device, aclError code, uint64_t operation) {
  if (code == ACL_SUCCESS) return UNIFY_OK;
  const Meaning meaning = meaning_of(code);
  last = {meaning.status, code, message_of(meaning), operation, 0};
  if (!meaning.is_sticky || device == nullptr) return meaning.status;
  // Any operation may be it, as far as the core does not know better.
  last.operation = 1;
  last.operation_last = UINT64_MAX;
  if (meaning.status == UNIFY_DEVICE_LOST) device->is_gone = true;
  aclError none = ACL_SUCCESS;
  if (!device->fault.compare_exchange_strong(none, code)) return meaning.status;
  if (!is_of_task(last.message)) {
    if (const std::string text = text_of_task(*device); !text.empty()) last.message = words_of(meaning) + ": " + text;
  }
  device->calls.run_forgotten();
  return meaning.status;
}

unify_status status_as(unify_status status) {
  last.status = status;
  return status;
}

bool succeeds(aclError code) {
  if (code != ACL_SUCCESS) (void)recent_text();
  return code == ACL_SUCCESS;
}

unify_status refuse(unify_status status, std::string message) {
  last = {status, ACL_SUCCESS, std::move(message), 0, 0};
  return status;
}

unify_status refuse_after(aclError code, unify_status status, const std::string& message) {
  last = {status, code, message + ": " + message_of(meaning_of(code)), 0, 0};
  return status;
}

std::string text_of(aclError code) {
  const Meaning meaning = meaning_of(code);
  return message_of(meaning) + " (" + (meaning.name != nullptr ? meaning.name : "ACL") + ", " + std::to_string(code) +
         ")";
}

void last_error(unify_error* out) {
  unify_error error{};
  error.status = last.status;
  error.native_code = last.code;
  if (last.code != ACL_SUCCESS) {
    const Meaning meaning = meaning_of(last.code);
    error.native_name = meaning.name;
    error.advice = meaning.advice;
  }
  if (!last.message.empty()) error.message = last.message.c_str();
  error.operation = last.operation;
  error.operation_last = last.operation_last;
  answer(out, error);
}

}  // namespace unify::ascend
