#include "error.h"

#include <array>
#include <cstdio>

#include "device.h"
#include "failures.h"
#include "launch.h"
#include "registry.h"
#include "stream.h"

namespace unify {
namespace {

ErrorKind kind_of(unify_status status) {
  switch (status) {
    case UNIFY_INVALID_ARGUMENT:
      return ErrorKind::kInvalidArgument;
    case UNIFY_OUT_OF_MEMORY:
      return ErrorKind::kOutOfMemory;
    case UNIFY_UNSUPPORTED:
      return ErrorKind::kUnsupported;
    case UNIFY_NOT_FOUND:
      return ErrorKind::kNotFound;
    case UNIFY_KERNEL_FAULT:
      return ErrorKind::kKernelFault;
    case UNIFY_DEVICE_LOST:
      return ErrorKind::kDeviceLost;
    case UNIFY_TIMEOUT:
      return ErrorKind::kTimeout;
    default:
      return ErrorKind::kInternal;
  }
}

const char* words_for(unify_status status) {
  switch (status) {
    case UNIFY_INVALID_ARGUMENT:
      return "invalid argument";
    case UNIFY_OUT_OF_MEMORY:
      return "out of memory";
    case UNIFY_NOT_READY:
      return "not ready";
    case UNIFY_UNSUPPORTED:
      return "not supported by this device";
    case UNIFY_NOT_FOUND:
      return "not found";
    case UNIFY_KERNEL_FAULT:
      return "a kernel failed";
    case UNIFY_DEVICE_LOST:
      return "the device does not answer";
    case UNIFY_TIMEOUT:
      return "timed out";
    case UNIFY_INTERNAL:
      return "the backend failed";
    default:
      return "the backend answered with a status that there is not";
  }
}

// A fault may or may not leave the device in doubt: only the backend knows.
void note_device_state(Device& device, unify_status status, const std::string& what, const Error& error) {
  if (status == UNIFY_DEVICE_LOST) {
    device.poison(UNIFY_DEVICE_GONE, what, error);
  } else if (status == UNIFY_KERNEL_FAULT) {
    unify_device_state state = UNIFY_DEVICE_FAULTED;
    if (device.table().device_status != nullptr) device.table().device_status(device.handle(), &state);
    if (state != UNIFY_DEVICE_HEALTHY) device.poison(state, what, error);
  }
}

void name_cause(Device& device, const unify_error& native, Error& error) {
  error.operation = native.operation;
  if (native.operation_last > native.operation) {
    OperationRing::Cause cause =
        device.operations().cause_among(native.operation, native.operation_last, device.proven());
    error.operation = cause.operation;
    error.kernel = std::move(cause.text);
  } else if (native.operation != 0) {
    error.kernel = device.operations().describe(native.operation);
  }
}

}  // namespace

Error::Error(ErrorKind kind, std::string message) : kind(kind), message(std::move(message)) {}

Error error_of(Device& device, const std::string& stream, unify_status status, const std::string& what) {
  unify_error native{};
  native.struct_size = sizeof native;
  device.table().last_error(&native);
  const bool has_native = native.status == status;

  Error error(kind_of(status), {});
  error.device = device.name();
  error.stream = stream;
  std::string text = device.name();
  if (!stream.empty()) text += ", " + stream;
  text += ": " + what + ": ";
  error.reason = has_native && native.message != nullptr ? native.message : words_for(status);
  if (!error.reason.empty() && error.reason.back() == '.') error.reason.pop_back();
  if (static_cast<int>(status) > UNIFY_INTERNAL) error.reason += ", " + std::to_string(static_cast<int>(status));
  if (has_native && native.native_name != nullptr) {
    error.native_name = native.native_name;
    error.native_code = native.native_code;
    error.reason += " (" + error.native_name + ", " + std::to_string(native.native_code) + ")";
  }
  text += error.reason + ".";
  if (has_native) name_cause(device, native, error);
  if (!error.kernel.empty()) text += " Caused by " + error.kernel + ".";
  if (has_native && native.advice != nullptr) {
    error.advice = native.advice;
    text += " " + error.advice;
  }
  if (status == UNIFY_KERNEL_FAULT || status == UNIFY_DEVICE_LOST || status == UNIFY_INTERNAL) {
    for (const std::string& line : device.operations().recent()) error.recent += "\n  " + line;
    if (!error.recent.empty()) text += "\nLast operations on " + device.name() + ", newest last:" + error.recent;
  }
  error.message = text;
  note_device_state(device, status, what, error);
  return error;
}

void throw_status(Device& device, const Stream* stream, unify_status status, const std::string& what) {
  Error error = error_of(device, stream == nullptr ? std::string() : stream->name(), status, what);
  device.failures().was_told(error);
  throw error;
}

std::string reason_of(const Device& device, unify_status status) {
  unify_error native{};
  native.struct_size = sizeof native;
  device.table().last_error(&native);
  if (native.status != status || native.message == nullptr) return {};
  if (native.native_name == nullptr) return native.message;
  return std::string(native.message) + " (" + native.native_name + ", " + std::to_string(native.native_code) + ")";
}

std::string format_bytes(uint64_t bytes) {
  constexpr std::array<const char*, 5> kUnits = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.1f %s", value, kUnits.at(unit));
  return text;
}

}  // namespace unify
