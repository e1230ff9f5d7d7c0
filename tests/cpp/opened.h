// A device of the CPU backend, behind layers and other changes of its table.
#pragma once

#include <unify/backend.h>

#include <unistd.h>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/lsan_interface.h>
#endif

#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <string>

#include "check.h"

extern "C" const unify_backend* unify_host_backend_get(unify_backend_get_args* args);

namespace unify {

// What `work` writes to stderr.
template <typename Work>
std::string said_by(Work&& work) {
  char path[] = "/tmp/unify-said-XXXXXX";
  const int file = ::mkstemp(path);
  std::fflush(stderr);
  const int before = ::dup(2);
  ::dup2(file, 2);
  work();
  std::fflush(stderr);
  ::dup2(before, 2);
  ::close(before);
  char text[4096];
  const ssize_t count = ::pread(file, text, sizeof text, 0);
  ::close(file);
  ::unlink(path);
  return {text, static_cast<size_t>(count > 0 ? count : 0)};
}

// Whatever is made while one lives is lost on purpose.
struct Losing {
#if defined(__SANITIZE_ADDRESS__)
  Losing() { __lsan_disable(); }
  ~Losing() { __lsan_enable(); }
#else
  ~Losing() {}
#endif
};

struct Opened {
  explicit Opened(std::initializer_list<void (*)(unify_backend&)> changes) : table(*unify_host_backend_get(nullptr)) {
    for (const auto change : changes) change(table);
    unify_device_open_args args{sizeof args, nullptr, 0, "threads=1"};
    CHECK(table.device_open(&args, &device) == UNIFY_OK);
  }
  unify_stream stream() const {
    unify_stream_args args{sizeof args, nullptr, 0, 0, nullptr};
    unify_stream made = nullptr;
    CHECK(table.stream_create(device, &args, &made) == UNIFY_OK);
    return made;
  }
  unify_event event() const {
    unify_event_args args{sizeof args, nullptr, 0};
    unify_event made = nullptr;
    CHECK(table.event_create(device, &args, &made) == UNIFY_OK);
    return made;
  }
  unify_address memory(size_t bytes) const {
    unify_allocate_args args{sizeof args, nullptr, UNIFY_MEMORY_DEVICE, bytes};
    unify_address made = 0;
    CHECK(table.memory_allocate(device, &args, &made) == UNIFY_OK);
    return made;
  }
  unify_status fill(unify_stream stream, unify_address dst, size_t count, uint32_t width = 1) const {
    unify_fill_args args{sizeof args, nullptr, dst, 0, width, count, 7};
    return table.fill(stream, &args);
  }
  unify_status copy(unify_stream stream, unify_address dst, unify_address src, size_t bytes) const {
    unify_copy_args args{sizeof args, nullptr, dst, src, device, device, bytes, 7};
    return table.copy(stream, &args);
  }
  // Whether `status` is a refusal whose text has all of `words`.
  bool is_refused(unify_status status, std::initializer_list<const char*> words) const {
    unify_error error{};
    error.struct_size = sizeof error;
    table.last_error(&error);
    if (status != UNIFY_INVALID_ARGUMENT || error.status != status || error.message == nullptr) return false;
    for (const char* word : words) {
      if (std::string(error.message).find(word) == std::string::npos) return false;
    }
    return true;
  }

  // The whole text of a refusal, or nothing.
  std::string refusal(unify_status status) const {
    unify_error error{};
    error.struct_size = sizeof error;
    table.last_error(&error);
    const bool is_refusal = status == UNIFY_INVALID_ARGUMENT && error.status == status && error.message != nullptr;
    return is_refusal ? error.message : "";
  }

  unify_backend table;
  unify_device device = nullptr;
};

}  // namespace unify
