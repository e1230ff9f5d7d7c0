// The Ascend backend alone, behind the table that the core sees, over the stub: `backend LIBRARY TEST`.
#include <dlfcn.h>
#include <elf.h>
#include <unify/backend.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "backends/ascend_types.h"

using namespace unify::ascend;

extern "C" const unify_backend* unify_ascend_backend_get(unify_backend_get_args* args);

namespace {

#define CHECK(condition)                                                             \
  do {                                                                               \
    if (!(condition)) {                                                              \
      std::fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                                  \
    }                                                                                \
  } while (false)

const unify_backend* table = nullptr;
void* library = nullptr;

template <typename Function>
Function* symbol(const char* name) {
  auto* found = reinterpret_cast<Function*>(dlsym(library, name));
  CHECK(found != nullptr);
  return found;
}
void set(const std::string& key, long value) { symbol<void(const char*, long)>("stub_set")(key.c_str(), value); }
long get(const std::string& key) { return symbol<long(const char*)>("stub_get")(key.c_str()); }
// The calls since the last time, in a context.
std::string calls() { return symbol<const char*()>("stub_calls")(); }
bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

unify_error error() {
  unify_error error{};
  error.struct_size = sizeof error;
  table->last_error(&error);
  return error;
}
std::string message() { return error().message != nullptr ? error().message : ""; }

unify_device open_device(uint32_t index = 0) {
  const unify_device_open_args args{sizeof args, nullptr, index, nullptr};
  unify_device device = nullptr;
  CHECK(table->device_open(&args, &device) == UNIFY_OK);
  return device;
}
unify_stream make_stream(unify_device device, int32_t priority = 0, void* native = nullptr) {
  unify_stream_args args{sizeof args, nullptr, priority, 0, native};
  unify_stream stream = nullptr;
  CHECK(table->stream_create(device, &args, &stream) == UNIFY_OK);
  return stream;
}
unify_event make_event(unify_device device, uint32_t flags = 0) {
  const unify_event_args args{sizeof args, nullptr, flags};
  unify_event event = nullptr;
  CHECK(table->event_create(device, &args, &event) == UNIFY_OK);
  return event;
}
unify_address allocate(unify_device device, size_t bytes, unify_memory_kind kind = UNIFY_MEMORY_DEVICE) {
  const unify_allocate_args args{sizeof args, nullptr, kind, bytes};
  unify_address address = 0;
  CHECK(table->memory_allocate(device, &args, &address) == UNIFY_OK);
  return address;
}
template <typename T>
T* pointer(unify_address address) {
  return reinterpret_cast<T*>(static_cast<uintptr_t>(address));
}
unify_address address_of(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); }

unify_status copy(unify_stream stream, unify_address dst, unify_device dst_device, unify_address src,
                  unify_device src_device, size_t bytes, uint64_t operation = 1) {
  const unify_copy_args args{sizeof args, nullptr, dst, src, dst_device, src_device, bytes, operation};
  return table->copy(stream, &args);
}
unify_status fill(unify_stream stream, unify_address dst, uint32_t value, uint32_t value_bytes, size_t count) {
  const unify_fill_args args{sizeof args, nullptr, dst, value, value_bytes, count, 1};
  return table->fill(stream, &args);
}

// ---- contexts ----

void test_a_thread_keeps_the_context_that_it_had() {
  const unify_device first = open_device(0);
  const unify_device second = open_device(1);
  const unify_stream stream = make_stream(second);
  aclrtContext own = nullptr;
  std::thread([&] {
    const auto current = symbol<aclError(aclrtContext*)>("aclrtGetCurrentContext");
    aclrtContext now = nullptr;
    CHECK(current(&now) == ACL_ERROR_RT_CONTEXT_NULL);
    symbol<aclError(int32_t)>("aclrtSetDevice")(0);  // as a program does that uses ACL itself
    CHECK(current(&own) == ACL_SUCCESS);
    const unify_address memory = allocate(second, 64);
    CHECK(fill(stream, memory, 1, 1, 64) == UNIFY_OK);
    CHECK(table->stream_synchronize(stream) == UNIFY_OK);
    CHECK(table->memory_free(second, UNIFY_MEMORY_DEVICE, memory) == UNIFY_OK);
    CHECK(current(&now) == ACL_SUCCESS && now == own);
  }).join();
  std::thread([&] {  // one that has none, as ACL's threads begin, can use every device
    CHECK(table->stream_synchronize(stream) == UNIFY_OK);
    CHECK(table->memory_free(first, UNIFY_MEMORY_DEVICE, allocate(first, 64)) == UNIFY_OK);
  })
      .join();
  table->stream_destroy(stream);
  table->device_close(second);
  set("log", 1);
  table->device_close(first);
  CHECK(has(calls(), "aclrtResetDevice"));  // gives back the one reference that it took
}

void test_nobody_elses_capture_forbids_a_call() {
  const unify_device device = open_device();
  allocate(device, 64);
  CHECK(get("mode_inside") == 2 && get("mode") == 0);  // relaxed, and then the thread's own again
  set("fail:aclrtMalloc", 107030);
  const unify_allocate_args args{sizeof args, nullptr, UNIFY_MEMORY_DEVICE, 64};
  unify_address address = 0;
  CHECK(table->memory_allocate(device, &args, &address) == UNIFY_INVALID_ARGUMENT);
  CHECK(get("mode") == 0);
}

void test_a_device_is_described() {
  const unify_device device = open_device(1);
  unify_device_info info{};
  info.struct_size = sizeof info;
  CHECK(table->device_info(device, &info) == UNIFY_OK);
  CHECK(std::string(info.name) == "Ascend910B3 (simulated)" && std::string(info.target) == "ascend:910B3");
  CHECK(info.cores == 20 && info.shared_bytes == 192 << 10 && info.memory_bytes == 64ull << 30);
  CHECK(info.dlpack_type == 12 && info.dlpack_id == 1 && info.uuid[0] == 2);
  CHECK(info.priority_least == 7 && info.priority_greatest == 0);
  const unify_device_open_args args{sizeof args, nullptr, 7, nullptr};
  unify_device none = nullptr;
  CHECK(table->device_open(&args, &none) == UNIFY_NOT_FOUND && has(message(), "no such device"));
}

// ---- faults ----

void test_a_fault_is_told_in_acls_words_and_stays_until_a_reset() {
  const unify_device device = open_device(0);
  const unify_device other = open_device(1);
  const unify_stream stream = make_stream(device);
  const unify_address memory = allocate(device, 64);
  CHECK(fill(stream, memory, 0, 1, 64) == UNIFY_OK);
  CHECK(table->stream_synchronize(stream) == UNIFY_OK);
  CHECK(copy(stream, memory, device, memory, device, 64, 5) == UNIFY_OK);
  CHECK(copy(stream, memory, device, memory, device, 64, 6) == UNIFY_OK);
  set("late", 507015);
  CHECK(table->stream_synchronize(stream) == UNIFY_KERNEL_FAULT);
  const unify_error found = error();
  CHECK(found.native_code == 507015 && std::string(found.native_name) == "ACL_ERROR_RT_AICORE_EXCEPTION");
  CHECK(std::string(found.message) == "aicore exception: EE9999: the kernel did it");
  CHECK(has(found.advice, "UNIFY_CHECK_BOUNDS") && found.operation == 1 && found.operation_last == UINT64_MAX);
  CHECK(table->stream_query(stream) == UNIFY_KERNEL_FAULT);
  CHECK(copy(stream, memory, device, memory, device, 64, 7) == UNIFY_KERNEL_FAULT);
  unify_device_state state{};
  CHECK(table->device_status(device, &state) == UNIFY_OK && state == UNIFY_DEVICE_FAULTED);
  CHECK(table->device_status(other, &state) == UNIFY_OK && state == UNIFY_DEVICE_HEALTHY);
  CHECK(table->memory_free(other, UNIFY_MEMORY_DEVICE, allocate(other, 64)) == UNIFY_OK);
  set("log", 1);
  CHECK(table->device_reset(device) == UNIFY_OK);
  const std::string reset = calls();
  CHECK(reset.find("aclrtDeviceTaskAbort") < reset.find("aclrtResetDeviceForce"));  // or a hanging kernel is waited for
  CHECK(get("device_memory") == 0);
  CHECK(table->device_status(device, &state) == UNIFY_OK && state == UNIFY_DEVICE_HEALTHY);
  CHECK(fill(make_stream(device), allocate(device, 64), 0, 1, 64) == UNIFY_OK);
}

void test_a_fault_of_a_stream_that_goes_on_is_not_passed_over() {
  const unify_device device = open_device();
  aclrtStream foreign = nullptr;
  CHECK(symbol<aclError(int32_t)>("aclrtSetDevice")(0) == 0);
  CHECK(symbol<aclError(aclrtStream*, uint32_t, uint32_t)>("aclrtCreateStreamWithConfig")(&foreign, 0, 3) == 0);
  const unify_stream stream = make_stream(device, 0, foreign);
  set("late", 507054);
  CHECK(table->stream_synchronize(stream) == UNIFY_KERNEL_FAULT);
  CHECK(has(message(), "hbm multi bit ecc error"));
  CHECK(table->stream_synchronize(stream) == UNIFY_KERNEL_FAULT);  // ACL itself says it once
  CHECK(table->device_synchronize(device) == UNIFY_KERNEL_FAULT);
  CHECK(table->stream_destroy(stream) == UNIFY_KERNEL_FAULT);
  CHECK(get("streams") == 1);  // the owner's
}

void test_what_is_no_fault_of_the_device_leaves_it_healthy() {
  const unify_device device = open_device();
  const std::map<long, unify_status> expected = {{207001, UNIFY_OUT_OF_MEMORY},    {207018, UNIFY_OUT_OF_MEMORY},
                                                 {107000, UNIFY_INVALID_ARGUMENT}, {207000, UNIFY_UNSUPPORTED},
                                                 {507899, UNIFY_INTERNAL},         {99, UNIFY_INTERNAL}};
  for (const auto& [code, status] : expected) {
    const unify_allocate_args args{sizeof args, nullptr, UNIFY_MEMORY_DEVICE, 64};
    unify_address address = 0;
    set("fail:aclrtMalloc", code);
    CHECK(table->memory_allocate(device, &args, &address) == status);
    CHECK(error().native_code == code && has(message(), "aclrtMalloc"));
    CHECK((error().native_name == nullptr) == (code == 99));
    unify_device_state state{};
    CHECK(table->device_status(device, &state) == UNIFY_OK && state == UNIFY_DEVICE_HEALTHY);
  }
}

void test_a_lost_device_stays_lost() {
  const unify_device device = open_device();
  const unify_stream stream = make_stream(device);
  set("late", 507010);
  CHECK(table->stream_synchronize(stream) == UNIFY_DEVICE_LOST);
  unify_device_state state{};
  CHECK(table->device_status(device, &state) == UNIFY_OK && state == UNIFY_DEVICE_GONE);
  set("gone", 1);
  CHECK(table->device_reset(device) == UNIFY_DEVICE_LOST && error().native_code == 507010);
  CHECK(table->device_status(device, &state) == UNIFY_OK && state == UNIFY_DEVICE_GONE);
  const unify_allocate_args args{sizeof args, nullptr, UNIFY_MEMORY_DEVICE, 64};
  unify_address address = 0;
  CHECK(table->memory_allocate(device, &args, &address) != UNIFY_OK);
  table->device_close(device);
  const unify_device other = open_device(1);
  set("abnormal", 1);
  CHECK(table->device_status(other, &state) == UNIFY_OK && state == UNIFY_DEVICE_GONE);
}

// ---- streams and events ----

void test_a_stream_that_runs_is_given_up_without_waiting() {
  const unify_device device = open_device();
  const unify_stream stream = make_stream(device);
  const unify_address memory = allocate(device, 64);
  *pointer<char>(memory) = 1;
  set("held", 1);
  CHECK(fill(stream, memory, 7, 1, 64) == UNIFY_OK);
  CHECK(table->stream_query(stream) == UNIFY_NOT_READY);
  CHECK(table->stream_destroy(stream) == UNIFY_OK);
  CHECK(get("streams") == 1 && get("destroy_waits") == 0 && *pointer<char>(memory) == 1);
  set("held", 0);
  CHECK(*pointer<char>(memory) == 7);
  table->stream_destroy(make_stream(device));
  CHECK(get("streams") == 0 && get("destroy_waits") == 0);
}

void test_a_stream_has_a_priority_within_the_range_and_stops_at_a_failure() {
  const unify_device device = open_device();
  make_stream(device, 7);
  CHECK(get("stops") == 1);
  unify_stream_args args{sizeof args, nullptr, 8, 0, nullptr};
  unify_stream none = nullptr;
  CHECK(table->stream_create(device, &args, &none) == UNIFY_INVALID_ARGUMENT && has(message(), "between 0 and 7"));
}

void test_waiting_for_the_device_includes_what_was_given_up() {
  const unify_device device = open_device();
  const unify_stream stream = make_stream(device);
  const unify_address memory = allocate(device, 64);
  set("held", 1);
  CHECK(fill(stream, memory, 7, 1, 64) == UNIFY_OK);
  CHECK(table->stream_destroy(stream) == UNIFY_OK);
  CHECK(table->device_synchronize(device) == UNIFY_OK);
  CHECK(*pointer<char>(memory) == 7 && get("streams") == 0);
}

void test_an_event_that_was_never_recorded_holds_nobody() {
  const unify_device device = open_device();
  const unify_stream stream = make_stream(device);
  const unify_event event = make_event(device);
  CHECK(table->event_query(event) == UNIFY_OK && table->event_synchronize(event) == UNIFY_OK);
  CHECK(table->stream_wait_event(stream, event) == UNIFY_OK);
  set("held", 1);
  CHECK(table->event_record(event, stream) == UNIFY_OK);
  CHECK(table->event_query(event) == UNIFY_NOT_READY);
  CHECK(table->stream_wait_event(make_stream(device), event) == UNIFY_OK);
  set("held", 0);
  CHECK(table->event_query(event) == UNIFY_OK);
  CHECK(table->event_destroy(event) == UNIFY_OK && get("events") == 0);
}

void test_times_are_signed_and_asked_of_events_that_have_them() {
  const unify_device device = open_device();
  const unify_stream stream = make_stream(device);
  const unify_event start = make_event(device, UNIFY_EVENT_TIMING);
  const unify_event stop = make_event(device, UNIFY_EVENT_TIMING);
  int64_t nanoseconds = 0;
  CHECK(table->event_elapsed(start, stop, &nanoseconds) == UNIFY_INVALID_ARGUMENT);
  table->event_record(start, stream);
  set("held", 1);
  table->event_record(stop, stream);
  CHECK(table->event_elapsed(start, stop, &nanoseconds) == UNIFY_NOT_READY);
  set("held", 0);
  CHECK(table->event_elapsed(start, stop, &nanoseconds) == UNIFY_OK && nanoseconds == 1500000);
  set("reversal", *reinterpret_cast<long*>(reinterpret_cast<char*>(stop) + sizeof(void*)));  // ACL's event
  CHECK(table->event_elapsed(stop, start, &nanoseconds) == UNIFY_OK && nanoseconds == -1500000);
  const unify_event plain = make_event(device);
  table->event_record(plain, stream);
  CHECK(table->event_elapsed(start, plain, &nanoseconds) == UNIFY_INVALID_ARGUMENT);
}

void count(void* user) { static_cast<std::atomic<int>*>(user)->fetch_add(1); }

void test_host_calls_run_once_also_where_the_context_forgets_them() {
  const unify_device device = open_device();
  const unify_stream stream = make_stream(device);
  std::atomic<int> calls_made{0};
  CHECK(table->host_call(stream, count, &calls_made) == UNIFY_OK);
  for (int i = 0; i < 200 && calls_made < 1; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  CHECK(calls_made == 1);
  set("held", 1);
  CHECK(table->host_call(stream, count, &calls_made) == UNIFY_OK);
  CHECK(table->host_call(stream, count, &calls_made) == UNIFY_OK);
  set("fault:0", 507035);
  const unify_status asked = table->stream_query(stream);
  CHECK(asked == UNIFY_KERNEL_FAULT || asked == UNIFY_NOT_READY);  // as long as they run
  CHECK(table->stream_synchronize(stream) == UNIFY_KERNEL_FAULT && calls_made == 3);
  CHECK(table->stream_query(stream) == UNIFY_KERNEL_FAULT);
  set("held", 0);  // now ACL comes to them after all
  CHECK(table->device_synchronize(device) == UNIFY_KERNEL_FAULT && calls_made == 3);
  CHECK(table->device_reset(device) == UNIFY_OK);
  CHECK(table->host_call(make_stream(device), count, &calls_made) == UNIFY_OK);
  for (int i = 0; i < 200 && calls_made < 4; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  CHECK(calls_made == 4);
  table->device_close(device);
}

void test_acl_may_come_to_host_calls_after_their_device_was_closed() {
  const unify_device device = open_device();
  const unify_stream stream = make_stream(device);
  std::atomic<int> calls_made{0};
  set("held", 1);
  for (int i = 0; i < 3; ++i) CHECK(table->host_call(stream, count, &calls_made) == UNIFY_OK);
  set("fault:0", 507035);
  CHECK(table->stream_synchronize(stream) == UNIFY_KERNEL_FAULT && calls_made == 3);
  CHECK(table->stream_destroy(stream) == UNIFY_KERNEL_FAULT);
  table->device_close(device);
  set("held", 0);
  CHECK(calls_made == 3);
}

// ---- memory ----

void test_copies_know_where_both_ends_are() {
  const unify_device first = open_device(0);
  const unify_device second = open_device(1);
  const unify_stream stream = make_stream(first);
  char host[64] = "host";
  char other[64] = {};
  const unify_address a = allocate(first, 64);
  const unify_address b = allocate(second, 64);
  CHECK(copy(stream, a, first, address_of(host), nullptr, 64) == UNIFY_OK && get("kind") == 1);
  CHECK(copy(stream, b, second, a, first, 64) == UNIFY_OK && get("kind") == 3);
  CHECK(copy(stream, address_of(other), nullptr, b, second, 64) == UNIFY_OK && get("kind") == 2);
  CHECK(std::string(other) == "host");
  char third[64] = {};
  CHECK(copy(stream, address_of(third), nullptr, address_of(other), nullptr, 64) == UNIFY_OK);  // ACL has no such kind
  for (int i = 0; i < 200 && third[0] == 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  CHECK(std::string(third) == "host");
}

void test_what_acl_does_not_copy_within_a_device_is_left_to_the_core() {
  const unify_device first = open_device(0);
  const unify_device second = open_device(1);
  const unify_stream stream = make_stream(first);
  const unify_address a = allocate(first, 4096);
  const unify_address b = allocate(second, 4096);
  set("log", 1);
  calls();
  CHECK(copy(stream, a + 1024, first, a + 3, first, 64) == UNIFY_UNSUPPORTED && has(message(), "64 bytes"));
  CHECK(copy(stream, a + 1032, first, a, first, 64) == UNIFY_UNSUPPORTED);
  unify_copy_rows_args rows{};
  rows.struct_size = sizeof rows;
  rows.dst = a + 1024;
  rows.src = a;
  rows.dst_device = rows.src_device = first;
  rows.bytes = rows.dst_pitch = rows.src_pitch = 64;
  rows.rows = 2;
  CHECK(table->copy_rows(stream, &rows) == UNIFY_UNSUPPORTED);
  CHECK(calls().empty());
  CHECK(copy(stream, a + 1024, first, a + 64, first, 3) == UNIFY_OK);
  CHECK(copy(stream, b + 1, second, a + 2, first, 3) == UNIFY_OK);  // two devices
  char host[128] = {};
  rows.dst = address_of(host);
  rows.dst_device = nullptr;
  CHECK(table->copy_rows(stream, &rows) == UNIFY_OK);
  for (const long code : {100000, 107000, 207000}) {  // not as wide, nor as many
    set("fail:aclrtMemcpy2dAsync", code);
    CHECK(table->copy_rows(stream, &rows) == UNIFY_UNSUPPORTED);
  }
  set("fail:aclrtMemcpy2dAsync", 507015);
  CHECK(table->copy_rows(stream, &rows) == UNIFY_KERNEL_FAULT);
}

void test_a_graph_has_no_fill_of_words() {
  const unify_device device = open_device();
  const unify_stream stream = make_stream(device);
  const unify_address memory = allocate(device, 64);
  CHECK(table->capture_begin(stream) == UNIFY_OK);
  CHECK(fill(stream, memory, 0x01020304, 4, 16) == UNIFY_UNSUPPORTED && has(message(), "in a graph"));
  CHECK(fill(stream, memory, 0x0102, 2, 16) == UNIFY_UNSUPPORTED);
  CHECK(fill(stream, memory, 7, 1, 64) == UNIFY_OK);
  unify_graph graph = nullptr;
  CHECK(table->capture_end(stream, &graph) == UNIFY_OK);
  CHECK(fill(stream, memory, 0x01020304, 4, 16) == UNIFY_OK);
}

void test_fills_of_several_widths_or_none() {
  const unify_device device = open_device();
  const unify_stream stream = make_stream(device);
  const unify_address memory = allocate(device, 64);
  const bool has_words = symbol<void*>("aclrtMalloc") != nullptr && dlsym(library, "aclrtMemsetD32Async") != nullptr;
  CHECK(fill(stream, memory, 0x1ff, 1, 64) == UNIFY_OK && pointer<unsigned char>(memory)[63] == 0xff);
  const unify_status words = has_words ? UNIFY_OK : UNIFY_UNSUPPORTED;
  CHECK(fill(stream, memory, 0x12345678, 4, 16) == words);
  if (has_words) CHECK(pointer<uint32_t>(memory)[15] == 0x12345678);
  CHECK(fill(stream, memory, 0xabcd, 2, 32) == words);
  if (has_words) CHECK(pointer<uint16_t>(memory)[31] == 0xabcd);
  CHECK(fill(stream, memory, 0xabcd, 2, 31) == UNIFY_UNSUPPORTED);
  CHECK(fill(stream, memory + 2, 0xabcd, 2, 2) == UNIFY_UNSUPPORTED);
  uint32_t elsewhere[16] = {};  // as memory that is mapped: ACL repeats words only in what it allocated
  CHECK(fill(stream, address_of(elsewhere), 0x12345678, 4, 16) == UNIFY_UNSUPPORTED);
}

void test_virtual_memory_comes_and_goes() {
  const unify_device device = open_device();
  constexpr size_t kBytes = 2 << 20;
  unify_address address = 0;
  CHECK(table->virtual_reserve(device, 4 * kBytes, &address) == UNIFY_OK);
  CHECK(table->virtual_commit(device, address, kBytes) == UNIFY_OK);
  CHECK(table->virtual_commit(device, address + kBytes, kBytes) == UNIFY_OK);
  CHECK(table->virtual_decommit(device, address, kBytes) == UNIFY_OK);
  CHECK(table->virtual_decommit(device, address, kBytes) == UNIFY_INVALID_ARGUMENT);
  set("fail:aclrtMapMem", 207018);
  CHECK(table->virtual_commit(device, address, kBytes) == UNIFY_OUT_OF_MEMORY);
  CHECK(get("device_memory") == 2);  // the reserved range and one commit
  CHECK(table->device_reset(device) == UNIFY_OK && get("device_memory") == 0);
}

void test_peers_are_opened_at_both_ends_once() {
  const unify_device first = open_device(0);
  const unify_device second = open_device(1);
  uint32_t can = 0;
  CHECK(table->peer_access(first, second, 0, &can) == UNIFY_OK && can == 1 && get("open:01") == 0);
  unify_address address = 0;
  CHECK(table->virtual_reserve(second, 2 << 20, &address) == UNIFY_OK);
  CHECK(table->virtual_commit(second, address, 2 << 20) == UNIFY_OK);
  set("access", 9);
  for (int i = 0; i < 2; ++i) CHECK(table->peer_access(first, second, 1, &can) == UNIFY_OK && can == 1);
  CHECK(get("open:01") == 1 && get("open:10") == 1 && get("access") == 0);
  CHECK(table->peer_access(second, first, 1, &can) == UNIFY_OK && get("open:10") == 1);
  set("apart", 1);
  CHECK(table->peer_access(first, second, 1, &can) == UNIFY_OK && can == 0);
}

void test_a_reset_of_either_end_closes_the_way_for_both() {
  const unify_device ends[] = {open_device(0), open_device(1)};
  uint32_t can = 0;
  for (const int reset : {0, 1}) {
    CHECK(table->peer_access(ends[0], ends[1], 1, &can) == UNIFY_OK && can == 1);
    const long before = get("open:01");
    CHECK(table->device_reset(ends[reset]) == UNIFY_OK);
    CHECK(table->peer_access(ends[0], ends[1], 1, &can) == UNIFY_OK && get("open:01") == before + 1);
    CHECK(table->peer_access(ends[1], ends[0], 1, &can) == UNIFY_OK && get("open:01") == before + 1);
  }
  table->device_close(ends[1]);
  const unify_device again = open_device(1);
  const long before = get("open:01");
  CHECK(table->peer_access(ends[0], again, 1, &can) == UNIFY_OK && get("open:01") == before + 1);
}

void test_tokens_carry_whole_allocations_to_other_processes() {
  const unify_device device = open_device();
  unify_ipc_args args{};
  args.struct_size = sizeof args;
  args.kind = UNIFY_IPC_MEMORY;
  const unify_address memory = allocate(device, 4096);
  args.address = memory;
  for (int i = 0; i < 2; ++i) CHECK(table->ipc_export(device, &args) == UNIFY_OK && get("exports") == 1);
  CHECK(table->ipc_import(device, &args) == UNIFY_INVALID_ARGUMENT && has(message(), "same process"));
  args.token[16] = static_cast<uint8_t>(args.token[16] ^ 1);  // of another container's process with this one's number
  CHECK(table->ipc_import(device, &args) == UNIFY_OK && args.address == 0x1000);
  CHECK(table->ipc_close(device, &args) == UNIFY_OK && get("closed") == 4096);
  set("closed", 0);
  args.token[16] = static_cast<uint8_t>(args.token[16] ^ 1);
  args.token[12] = static_cast<uint8_t>(args.token[12] ^ 1);  // of another process
  CHECK(table->ipc_import(device, &args) == UNIFY_OK && args.address == 0x1000);
  CHECK(table->ipc_close(device, &args) == UNIFY_OK && get("closed") == 4096);
  CHECK(table->ipc_close(device, &args) == UNIFY_INVALID_ARGUMENT);
  CHECK(table->memory_free(device, UNIFY_MEMORY_DEVICE, memory) == UNIFY_OK);
  CHECK(get("closes") == 3 && get("closes_at_free") == 3);  // by its owner too, before it is freed
  args.token[24] = 'x';
  CHECK(table->ipc_import(device, &args) == UNIFY_NOT_FOUND);
  args.kind = UNIFY_IPC_EVENT;
  CHECK(table->ipc_import(device, &args) == UNIFY_INVALID_ARGUMENT);
  args.event = make_event(device, UNIFY_EVENT_IPC);
  CHECK(table->ipc_export(device, &args) == UNIFY_OK);
  args.token[12] = static_cast<uint8_t>(args.token[12] ^ 1);
  CHECK(table->ipc_import(device, &args) == UNIFY_OK && table->ipc_close(device, &args) == UNIFY_OK);
  const unify_event_args timed{sizeof timed, nullptr, UNIFY_EVENT_IPC | UNIFY_EVENT_TIMING};
  CHECK(table->event_create(device, &timed, &args.event) == UNIFY_UNSUPPORTED);
}

// ---- kernels ----

struct ImageHeader {
  char magic[8] = {'U', 'N', 'I', 'F', 'Y', 'A', 'S', 'C'};
  uint32_t version = 1;
  uint32_t header_bytes = 64;
  uint32_t kind = 0;
  uint32_t mode = 2;
  uint64_t payload_bytes = 0;
  uint64_t lock_count = 0;
  int64_t lock_init = 0;
  uint32_t grid_offset = 32;
  uint32_t logical_grid_offset = 0;
  uint32_t blocks = 0;
  char chip[4] = {};
};
static_assert(sizeof(ImageHeader) == 64);

std::vector<char> elf() {
  std::vector<char> object(sizeof(Elf64_Ehdr) + sizeof(Elf64_Shdr));
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_shoff = sizeof header;
  header.e_shentsize = sizeof(Elf64_Shdr);
  header.e_shnum = 1;
  std::memcpy(object.data(), &header, sizeof header);
  return object;
}

std::vector<char> image(ImageHeader header) {
  const std::vector<char> object = elf();
  header.payload_bytes = object.size();
  std::vector<char> whole(sizeof header);
  std::memcpy(whole.data(), &header, sizeof header);
  whole.insert(whole.end(), object.begin(), object.end());
  return whole;
}

unify_status load(unify_device device, const std::vector<char>& bytes, unify_module* out) {
  const unify_module_args args{sizeof args, nullptr, bytes.data(), bytes.size(), nullptr};
  return table->module_load(device, &args, out);
}

unify_function function_of(unify_device device, const std::vector<char>& bytes) {
  unify_module module = nullptr;
  CHECK(load(device, bytes, &module) == UNIFY_OK);
  unify_function_args args{};
  args.struct_size = sizeof args;
  args.name = "kernel";
  unify_function function = nullptr;
  CHECK(table->function_get(module, &args, &function) == UNIFY_OK && args.max_threads == 1);
  return function;
}

unify_status launch(unify_stream stream, unify_function function, std::vector<uint32_t> grid, const std::string& bytes,
                    uint64_t shared_bytes = 0) {
  unify_launch_args args{};
  args.struct_size = sizeof args;
  std::copy(grid.begin(), grid.end(), args.grid);
  args.threads = 1;
  args.shared_bytes = shared_bytes;
  args.args = bytes.data();
  args.args_bytes = bytes.size();
  args.operation = 1;
  return table->launch(stream, function, &args);
}

template <typename T>
T argument(size_t offset) {
  T value;
  std::memcpy(&value, symbol<const char*()>("stub_arguments")() + offset, sizeof value);
  return value;
}
bool grid_is(size_t offset, int32_t x, int32_t y, int32_t z) {
  return argument<int32_t>(offset) == x && argument<int32_t>(offset + 4) == y && argument<int32_t>(offset + 8) == z;
}

void test_the_block_of_arguments_is_the_vendors() {
  const unify_device device = open_device();
  const unify_stream stream = make_stream(device);
  const unify_function function = function_of(device, image({}));
  CHECK(get("magic") == 0x43554245);
  std::string arguments(44, '\0');
  std::memcpy(&arguments[16], "workspac", 8);  // by the core
  std::memcpy(&arguments[24], "user's 8", 8);
  CHECK(launch(stream, function, {4, 3, 2}, arguments, 4096) == UNIFY_OK);
  CHECK(get("blocks") == 24 && get("scratch") == 4096);
  CHECK(argument<uint64_t>(0) == 0xff7500 && argument<uint64_t>(8) == 0);
  CHECK(std::memcmp(symbol<const char*()>("stub_arguments")() + 16, "workspacuser's 8", 16) == 0);
  CHECK(grid_is(32, 4, 3, 2));
  CHECK(arguments.substr(32) == std::string(12, '\0'));  // the caller's are as they were
  CHECK(launch(stream, function, {65535, 1, 1}, arguments) == UNIFY_OK && get("blocks") == 65535);
  CHECK(launch(stream, function, {256, 256, 1}, arguments) == UNIFY_INVALID_ARGUMENT &&
        has(message(), "65536 programs") && has(message(), "loops over its grid"));
  CHECK(launch(stream, function, {1 << 20, 1 << 20, 4}, arguments) == UNIFY_INVALID_ARGUMENT &&
        has(message(), "1048576 x 1048576 x 4 is 4398046511104 programs"));
  CHECK(launch(stream, function, {0x7fffffff, 0x7fffffff, 0x7fffffff}, arguments) == UNIFY_INVALID_ARGUMENT);
  CHECK(launch(stream, function, {1, 1, 1}, arguments.substr(0, 40)) == UNIFY_INVALID_ARGUMENT);
  CHECK(launch(stream, function, {1, 1, 1}, arguments, 1 << 20) == UNIFY_INVALID_ARGUMENT);
  std::string large(4096, 'x');
  CHECK(launch(stream, function, {1, 1, 1}, large) == UNIFY_OK && grid_is(32, 1, 1, 1) && argument<char>(4000) == 'x');
}

void test_a_kernel_that_loops_over_its_grid_starts_a_block_for_each_core() {
  const unify_device device = open_device();
  const unify_stream stream = make_stream(device);
  ImageHeader header;
  header.mode = 0;
  header.logical_grid_offset = 32;
  header.grid_offset = 44;
  const unify_function vectors = function_of(device, image(header));
  CHECK(get("magic") == 0x41415246);
  const std::string arguments(56, '\0');
  CHECK(launch(stream, vectors, {100000, 7, 1}, arguments) == UNIFY_OK);
  CHECK(get("blocks") == 40 && grid_is(32, 100000, 7, 1) && grid_is(44, 40, 1, 1));
  CHECK(launch(stream, vectors, {5, 1, 2}, arguments) == UNIFY_OK && get("blocks") == 10 && grid_is(44, 10, 1, 1));
  CHECK(launch(stream, vectors, {1 << 16, 1 << 15, 1}, arguments) == UNIFY_INVALID_ARGUMENT);
  CHECK(has(message(), "2147483648 programs; this kernel loops over 2147418112 at most") &&
        !has(message(), "or a kernel that loops"));
  header.mode = 1;
  const unify_function cubes = function_of(device, image(header));
  CHECK(get("magic") == 0x43554245);
  CHECK(launch(stream, cubes, {1000, 1, 1}, arguments) == UNIFY_OK && get("blocks") == 20);
}

void test_a_lock_is_set_anew_before_each_launch() {
  const unify_device device = open_device();
  ImageHeader header;
  header.lock_count = 3;
  header.lock_init = -5;
  unify_module module = nullptr;
  const std::vector<char> bytes = image(header);
  CHECK(load(device, bytes, &module) == UNIFY_OK);
  const unify_function function = function_of(device, bytes);
  const unify_stream one = make_stream(device);
  const std::string arguments(44, '\0');
  CHECK(launch(one, function, {2, 1, 1}, arguments) == UNIFY_OK);
  auto* lock = argument<int64_t*>(8);
  CHECK(lock[0] == -5 && lock[2] == -5);
  lock[1] = 12;
  CHECK(launch(one, function, {2, 1, 1}, arguments) == UNIFY_OK);
  CHECK(argument<int64_t*>(8) == lock && lock[1] == -5);
  CHECK(launch(make_stream(device), function, {2, 1, 1}, arguments) == UNIFY_OK && argument<int64_t*>(8) != lock);
  const long before = get("device_memory");
  unify_graph graph = nullptr;
  CHECK(table->capture_begin(one) == UNIFY_OK);
  CHECK(launch(one, function, {2, 1, 1}, arguments) == UNIFY_OK && argument<int64_t*>(8) != lock);
  auto* first = argument<int64_t*>(8);
  CHECK(launch(one, function, {2, 1, 1}, arguments) == UNIFY_OK && argument<int64_t*>(8) != first);
  CHECK(table->capture_end(one, &graph) == UNIFY_OK && get("device_memory") == before + 2);
  first[0] = 1;
  CHECK(table->graph_launch(graph, one) == UNIFY_OK && first[0] == -5);
  CHECK(table->graph_destroy(graph) == UNIFY_OK && get("device_memory") == before);
  CHECK(table->module_unload(module) == UNIFY_OK && get("device_memory") == before - 1);
}

void test_locks_end_with_their_stream() {
  const unify_device device = open_device();
  ImageHeader header;
  header.lock_count = 3;
  const unify_function small = function_of(device, image(header));
  header.lock_count = 300;
  const unify_function large = function_of(device, image(header));
  const std::string arguments(44, '\0');
  const long before = get("device_memory");
  for (int i = 0; i < 3; ++i) {
    const unify_stream stream = make_stream(device);
    CHECK(launch(stream, small, {1, 1, 1}, arguments) == UNIFY_OK);
    CHECK(launch(stream, large, {1, 1, 1}, arguments) == UNIFY_OK && get("device_memory") == before + 2);
    CHECK(table->stream_destroy(stream) == UNIFY_OK && get("device_memory") == before);
  }
  // Another library's stream still runs when it is let go: nobody waits for it.
  void* native = nullptr;
  symbol<aclError(int32_t)>("aclrtSetDevice")(0);
  CHECK(symbol<aclError(void**, uint32_t, uint32_t)>("aclrtCreateStreamWithConfig")(&native, 0, 0) == ACL_SUCCESS);
  set("held", 1);
  const unify_stream wrapper = make_stream(device, 0, native);
  CHECK(launch(wrapper, small, {1, 1, 1}, arguments) == UNIFY_OK);
  CHECK(table->stream_destroy(wrapper) == UNIFY_OK && get("device_memory") == before + 1);
  set("held", 0);
  CHECK(symbol<aclError(void*)>("aclrtSynchronizeStream")(native) == ACL_SUCCESS);
  const unify_stream stream = make_stream(device);
  CHECK(launch(stream, small, {1, 1, 1}, arguments) == UNIFY_OK && get("device_memory") == before + 1);
  CHECK(table->stream_destroy(stream) == UNIFY_OK && get("device_memory") == before);
}

void test_a_plain_object_gets_its_arguments_as_they_are() {
  const unify_device device = open_device();
  const unify_stream stream = make_stream(device);
  const unify_function function = function_of(device, elf());
  CHECK(launch(stream, function, {2, 3, 1}, "12345678") == UNIFY_OK);
  CHECK(get("blocks") == 6 && get("scratch") == 0 &&
        std::string(symbol<const char*()>("stub_arguments")()) == "12345678");
  CHECK(launch(stream, function, {1, 1, 1}, "") == UNIFY_OK);
}

void test_damaged_and_foreign_images_are_refused_with_the_reason() {
  const unify_device device = open_device();
  const auto why = [&](const std::vector<char>& bytes, unify_status status = UNIFY_INVALID_ARGUMENT) {
    unify_module module = nullptr;
    CHECK(load(device, bytes, &module) == status);
    return message();
  };
  ImageHeader header;
  header.kind = 1;
  CHECK(has(why(image(header), UNIFY_UNSUPPORTED), "hivmc"));
  header = {};
  header.version = 2;
  CHECK(has(why(image(header)), "version 2"));
  header = {};
  header.mode = 3;
  CHECK(has(why(image(header)), "unknown kind"));
  for (const uint32_t offset : {8u, 33u}) {
    header = {};
    header.grid_offset = offset;
    CHECK(has(why(image(header)), "laid out"));
  }
  for (const uint32_t offset : {32u, 0xFFFFFFF8u}) {
    header = {};
    header.logical_grid_offset = offset;
    CHECK(has(why(image(header)), "laid out"));
  }
  header = {};
  std::memcpy(header.chip, "950", 3);
  CHECK(has(why(image(header)), "for chips of the 950's kind, and this is Ascend910B3"));
  for (const char* chip : {"910B", "910C"}) {  // with the same cores
    header = {};
    std::memcpy(header.chip, chip, 4);
    unify_module module = nullptr;
    CHECK(load(device, image(header), &module) == UNIFY_OK && table->module_unload(module) == UNIFY_OK);
  }
  header = {};
  header.lock_count = ~uint64_t{0};
  CHECK(has(why(image(header)), "locks"));
  const std::vector<char> whole = image({});
  for (size_t size = 1; size < whole.size(); ++size) {
    const std::vector<char> cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
    CHECK(!why(cut).empty());
  }
  std::vector<char> object = elf();
  Elf64_Shdr section{};
  section.sh_type = SHT_PROGBITS;
  section.sh_offset = ~uint64_t{7};
  section.sh_size = 16;
  std::memcpy(object.data() + sizeof(Elf64_Ehdr), &section, sizeof section);
  CHECK(has(why(object), "cut off"));
  Elf64_Ehdr segments{};
  object = elf();
  std::memcpy(&segments, object.data(), sizeof segments);
  segments.e_phnum = 1;
  segments.e_phentsize = sizeof(Elf64_Phdr);
  segments.e_phoff = object.size();
  std::memcpy(object.data(), &segments, sizeof segments);
  CHECK(has(why(object), "program headers are cut off"));
  CHECK(has(why({'x', 'y'}), "too short"));
  unify_module module = nullptr;
  CHECK(load(device, elf(), &module) == UNIFY_OK);
  unify_function_args args{};
  args.struct_size = sizeof args;
  args.name = "missing";
  unify_function function = nullptr;
  CHECK(table->function_get(module, &args, &function) == UNIFY_NOT_FOUND && has(message(), "no kernel 'missing'"));
  args.name = "kernel";
  args.shared_bytes = 1 << 20;
  CHECK(table->function_get(module, &args, &function) == UNIFY_INVALID_ARGUMENT);
  CHECK(table->module_unload(module) == UNIFY_OK && get("binaries") == 0);
}

void test_a_graph_that_runs_is_given_up_without_waiting() {
  const unify_device device = open_device();
  const unify_stream stream = make_stream(device);
  const unify_address memory = allocate(device, 64);
  unify_graph graph = nullptr;
  CHECK(table->capture_end(stream, &graph) == UNIFY_INVALID_ARGUMENT && graph == nullptr);
  CHECK(table->capture_begin(stream) == UNIFY_OK);
  CHECK(fill(stream, memory, 9, 1, 64) == UNIFY_OK);
  CHECK(table->device_synchronize(device) == UNIFY_OK);  // not the stream that records
  CHECK(table->capture_end(stream, &graph) == UNIFY_OK);
  set("held", 1);
  CHECK(table->graph_launch(graph, stream) == UNIFY_OK);
  CHECK(table->graph_destroy(graph) == UNIFY_OK);
  CHECK(get("graphs") == 1 && get("destroy_waits") == 0);
  set("held", 0);
  CHECK(*pointer<char>(memory) == 9);
  CHECK(table->device_synchronize(device) == UNIFY_OK && get("graphs") == 0 && get("events") == 0);
}

void test_a_graph_that_runs_too_long_keeps_its_locks() {
  const unify_device device = open_device();
  ImageHeader header;
  header.lock_count = 1;
  const unify_function function = function_of(device, image(header));
  const unify_stream streams[] = {make_stream(device), make_stream(device)};
  const long before = get("device_memory");
  const auto record = [&] {
    unify_graph graph = nullptr;
    CHECK(table->capture_begin(streams[0]) == UNIFY_OK);
    CHECK(launch(streams[0], function, {2, 1, 1}, std::string(44, '\0')) == UNIFY_OK);
    CHECK(table->capture_end(streams[0], &graph) == UNIFY_OK && get("device_memory") == before + 1);
    return graph;
  };
  unify_graph graph = record();
  set("held:1", 1);  // the second stream alone
  for (const unify_stream stream : {streams[1], streams[0]}) CHECK(table->graph_launch(graph, stream) == UNIFY_OK);
  CHECK(table->graph_destroy(graph) == UNIFY_OK);
  CHECK(get("graphs") == 1 && get("destroy_waits") == 0 && get("device_memory") == before + 1);
  set("held:1", 0);
  CHECK(table->device_synchronize(device) == UNIFY_OK && get("graphs") == 0 && get("device_memory") == before);
  graph = record();
  set("fail:aclmdlRIDestroy", 107037);
  CHECK(table->graph_destroy(graph) == UNIFY_OK && get("device_memory") == before + 1);
}

void test_nothing_is_left_when_a_device_is_closed() {
  const unify_device device = open_device();
  const unify_stream stream = make_stream(device);
  ImageHeader header;
  header.lock_count = 1;
  unify_module module = nullptr;
  CHECK(load(device, image(header), &module) == UNIFY_OK);
  unify_function_args args{};
  args.struct_size = sizeof args;
  args.name = "kernel";
  unify_function function = nullptr;
  CHECK(table->function_get(module, &args, &function) == UNIFY_OK);
  set("held", 1);
  CHECK(launch(stream, function, {1, 1, 1}, std::string(44, '\0')) == UNIFY_OK);
  CHECK(table->stream_destroy(stream) == UNIFY_OK);
  set("held", 0);
  CHECK(table->module_unload(module) == UNIFY_OK);
  table->device_close(device);
  CHECK(get("device_memory") == 0 && get("streams") == 0 && get("events") == 0);
}

void test_an_old_version_has_less() {
  CHECK(has(table->version, ", without aclsysGetVersionStr") && has(table->version, "aclmdlRICaptureBegin"));
  CHECK(table->capture_begin == nullptr && table->graph_launch == nullptr && table->virtual_reserve == nullptr);
  CHECK(table->ipc_export == nullptr && table->copy_rows == nullptr && table->host_call != nullptr);
  const unify_device device = open_device();
  unify_device_info info{};
  info.struct_size = sizeof info;
  CHECK(table->device_info(device, &info) == UNIFY_OK);
  CHECK(info.cores == 20 && info.priority_least == 0 && info.virtual_granularity == 0);
  unify_module module = nullptr;
  CHECK(load(device, elf(), &module) == UNIFY_UNSUPPORTED && has(message(), "aclrtLaunchKernelWithHostArgs"));
  const unify_event_args args{sizeof args, nullptr, UNIFY_EVENT_IPC};
  unify_event event = nullptr;
  CHECK(table->event_create(device, &args, &event) == UNIFY_UNSUPPORTED);
  unify_device_state state{};
  CHECK(table->device_status(device, &state) == UNIFY_OK && state == UNIFY_DEVICE_HEALTHY);
  set("late", 507015);
  CHECK(table->stream_synchronize(make_stream(device)) == UNIFY_KERNEL_FAULT);
  CHECK(table->device_reset(device) == UNIFY_OK);
}

}  // namespace

#define TEST(name) {#name, test_##name}
int main(int argc, char** argv) {
  const std::map<std::string, void (*)()> tests = {
      TEST(a_thread_keeps_the_context_that_it_had),
      TEST(nobody_elses_capture_forbids_a_call),
      TEST(a_device_is_described),
      TEST(a_fault_is_told_in_acls_words_and_stays_until_a_reset),
      TEST(a_fault_of_a_stream_that_goes_on_is_not_passed_over),
      TEST(what_is_no_fault_of_the_device_leaves_it_healthy),
      TEST(a_lost_device_stays_lost),
      TEST(a_stream_that_runs_is_given_up_without_waiting),
      TEST(a_stream_has_a_priority_within_the_range_and_stops_at_a_failure),
      TEST(waiting_for_the_device_includes_what_was_given_up),
      TEST(an_event_that_was_never_recorded_holds_nobody),
      TEST(times_are_signed_and_asked_of_events_that_have_them),
      TEST(host_calls_run_once_also_where_the_context_forgets_them),
      TEST(acl_may_come_to_host_calls_after_their_device_was_closed),
      TEST(copies_know_where_both_ends_are),
      TEST(what_acl_does_not_copy_within_a_device_is_left_to_the_core),
      TEST(fills_of_several_widths_or_none),
      TEST(a_graph_has_no_fill_of_words),
      TEST(virtual_memory_comes_and_goes),
      TEST(peers_are_opened_at_both_ends_once),
      TEST(a_reset_of_either_end_closes_the_way_for_both),
      TEST(tokens_carry_whole_allocations_to_other_processes),
      TEST(the_block_of_arguments_is_the_vendors),
      TEST(a_kernel_that_loops_over_its_grid_starts_a_block_for_each_core),
      TEST(a_lock_is_set_anew_before_each_launch),
      TEST(locks_end_with_their_stream),
      TEST(a_plain_object_gets_its_arguments_as_they_are),
      TEST(damaged_and_foreign_images_are_refused_with_the_reason),
      TEST(a_graph_that_runs_is_given_up_without_waiting),
      TEST(a_graph_that_runs_too_long_keeps_its_locks),
      TEST(nothing_is_left_when_a_device_is_closed),
      TEST(an_old_version_has_less),
  };
  if (argc == 1) {
    for (const auto& [name, test] : tests) std::puts(name.c_str());
    return 0;
  }
  library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  CHECK(library != nullptr && argc == 3);
  unify_backend_get_args args{};
  args.struct_size = sizeof args;
  args.library = argv[1];
  table = unify_ascend_backend_get(&args);
  if (table == nullptr) std::fprintf(stderr, "%s\n", args.why);
  CHECK(table != nullptr);
  tests.at(argv[2])();
  return 0;
}
