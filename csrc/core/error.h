// The one exception of the core, and the one place where its text is composed.
#pragma once

#include <unify/backend.h>

#include <cstdint>
#include <exception>
#include <string>

namespace unify {

class Device;
class Stream;

// Which Python class an error becomes. The first ten follow unify_status.
enum class ErrorKind {
  kInvalidArgument,
  kOutOfMemory,
  kUnsupported,
  kNotFound,
  kKernelFault,
  kDeviceLost,
  kTimeout,
  kInternal,
  kShape,
  kDType,
  kLayout,
  kDeviceMismatch,
  kBackend,  // a backend's library is broken, or of another version
  kGraph,
};

// What failed, where, with which values, and what to do about it. `what()` is all of it as text.
class Error : public std::exception {
 public:
  Error(ErrorKind kind, std::string message);

  [[nodiscard]] const char* what() const noexcept override { return message.c_str(); }

  ErrorKind kind;
  std::string message;
  std::string device;       // "cuda:0", empty if none is concerned
  std::string stream;       // "stream 2", empty if none
  std::string kernel;       // the kernel or copy that caused it, empty if unknown
  std::string reason;       // what the backend said, with the vendor's name and number
  int64_t native_code = 0;  // the vendor's own
  std::string native_name;
  std::string advice;
  std::string recent;      // the last operations of the device, a line each, newest last
  uint64_t operation = 0;  // the one that caused it, or the first that may have, by its number; 0 if unknown
};

// Composes from a backend's answer: asks its last_error, names the operation that caused it, appends the recent
// operations, and marks the device as faulted or lost where the status says so. Of a range of operations that the
// backend suspects, those are named that are not known to have ended well.
// `what` is the call in words: "copy of 4096 bytes to cuda:0". `stream` is its name, or empty.
Error error_of(Device& device, const std::string& stream, unify_status status, const std::string& what);

// Throws that to the user, who was told of it then. `stream` may be null.
[[noreturn]] void throw_status(Device& device, const Stream* stream, unify_status status, const std::string& what);

inline void check(Device& device, const Stream* stream, unify_status status, const char* what) {
  if (status != UNIFY_OK) throw_status(device, stream, status, what);
}

// The backend's own words for what it has just refused, or nothing.
std::string reason_of(const Device& device, unify_status status);

// "12.5 MiB" for people.
std::string format_bytes(uint64_t bytes);

}  // namespace unify
