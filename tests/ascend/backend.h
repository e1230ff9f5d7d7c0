// What tests of the Ascend backend share: the table that the core sees, the stub's numbers, and objects with a check.
#pragma once

#include <dlfcn.h>
#include <unify/backend.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include "backends/ascend_types.h"

using namespace unify::ascend;

#define CHECK(condition)                                                             \
  do {                                                                               \
    if (!(condition)) {                                                              \
      std::fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                                  \
    }                                                                                \
  } while (false)

// A test of the file that it stands in, by its name.
using Test = void (*)();
inline std::map<std::string, Test>& tests() {
  static std::map<std::string, Test> all;
  return all;
}
struct Registered {
  Registered(const char* name, Test test) { tests()[name] = test; }
};
#define TEST(name)                                        \
  static void name();                                     \
  static const Registered registered_##name(#name, name); \
  static void name()

inline const unify_backend* table = nullptr;
inline void* library = nullptr;

template <typename Function>
Function* symbol(const char* name) {
  auto* found = reinterpret_cast<Function*>(dlsym(library, name));
  CHECK(found != nullptr);
  return found;
}
inline void set(const std::string& key, long value) { symbol<void(const char*, long)>("stub_set")(key.c_str(), value); }
inline long get(const std::string& key) { return symbol<long(const char*)>("stub_get")(key.c_str()); }
// The calls since the last time, in a context.
inline std::string calls() { return symbol<const char*()>("stub_calls")(); }
inline bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

inline unify_error error() {
  unify_error error{};
  error.struct_size = sizeof error;
  table->last_error(&error);
  return error;
}
inline std::string message() { return error().message != nullptr ? error().message : ""; }

inline unify_device open_device(uint32_t index = 0) {
  const unify_device_open_args args{sizeof args, nullptr, index, nullptr};
  unify_device device = nullptr;
  CHECK(table->device_open(&args, &device) == UNIFY_OK);
  return device;
}
inline unify_stream make_stream(unify_device device, int32_t priority = 0, void* native = nullptr) {
  unify_stream_args args{sizeof args, nullptr, priority, 0, native};
  unify_stream stream = nullptr;
  CHECK(table->stream_create(device, &args, &stream) == UNIFY_OK);
  return stream;
}
inline unify_event make_event(unify_device device, uint32_t flags = 0) {
  const unify_event_args args{sizeof args, nullptr, flags};
  unify_event event = nullptr;
  CHECK(table->event_create(device, &args, &event) == UNIFY_OK);
  return event;
}
inline unify_address allocate(unify_device device, size_t bytes, unify_memory_kind kind = UNIFY_MEMORY_DEVICE) {
  const unify_allocate_args args{sizeof args, nullptr, kind, bytes};
  unify_address address = 0;
  CHECK(table->memory_allocate(device, &args, &address) == UNIFY_OK);
  return address;
}
template <typename T>
T* pointer(unify_address address) {
  return reinterpret_cast<T*>(static_cast<uintptr_t>(address));
}
inline unify_address address_of(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); }

inline unify_status copy(unify_stream stream, unify_address dst, unify_device dst_device, unify_address src,
                         unify_device src_device, size_t bytes, uint64_t operation = 1) {
  const unify_copy_args args{sizeof args, nullptr, dst, src, dst_device, src_device, bytes, operation};
  return table->copy(stream, &args);
}
inline unify_status fill(unify_stream stream, unify_address dst, uint32_t value, uint32_t value_bytes, size_t count) {
  const unify_fill_args args{sizeof args, nullptr, dst, value, value_bytes, count, 1};
  return table->fill(stream, &args);
}
