// The Ascend backend alone, behind the table that the core sees, over the stub: `backend LIBRARY TEST`. Contexts,
// faults, streams, memory; kernels and graphs are in kernels.cpp.
#include "backend.h"

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>

namespace {

// ---- contexts ----

TEST(a_thread_keeps_the_context_that_it_had) {
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

TEST(nobody_elses_capture_forbids_a_call) {
  const unify_device device = open_device();
  allocate(device, 64);
  CHECK(get("mode_inside") == 2 && get("mode") == 0);  // relaxed, and then the thread's own again
  set("fail:aclrtMalloc", 107030);
  const unify_allocate_args args{sizeof args, nullptr, UNIFY_MEMORY_DEVICE, 64};
  unify_address address = 0;
  CHECK(table->memory_allocate(device, &args, &address) == UNIFY_INVALID_ARGUMENT);
  CHECK(get("mode") == 0);
}

TEST(a_device_is_described) {
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

TEST(a_fault_is_told_in_acls_words_and_stays_until_a_reset) {
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

TEST(a_fault_of_a_stream_that_goes_on_is_not_passed_over) {
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

TEST(what_is_no_fault_of_the_device_leaves_it_healthy) {
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

TEST(a_lost_device_stays_lost) {
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

TEST(a_stream_that_runs_is_given_up_without_waiting) {
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

TEST(a_stream_has_a_priority_within_the_range_and_stops_at_a_failure) {
  const unify_device device = open_device();
  make_stream(device, 7);
  CHECK(get("stops") == 1);
  unify_stream_args args{sizeof args, nullptr, 8, 0, nullptr};
  unify_stream none = nullptr;
  CHECK(table->stream_create(device, &args, &none) == UNIFY_INVALID_ARGUMENT && has(message(), "between 0 and 7"));
}

TEST(waiting_for_the_device_includes_what_was_given_up) {
  const unify_device device = open_device();
  const unify_stream stream = make_stream(device);
  const unify_address memory = allocate(device, 64);
  set("held", 1);
  CHECK(fill(stream, memory, 7, 1, 64) == UNIFY_OK);
  CHECK(table->stream_destroy(stream) == UNIFY_OK);
  CHECK(table->device_synchronize(device) == UNIFY_OK);
  CHECK(*pointer<char>(memory) == 7 && get("streams") == 0);
}

TEST(an_event_that_was_never_recorded_holds_nobody) {
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

TEST(times_are_signed_and_asked_of_events_that_have_them) {
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

// Counts calls, and waits for them.
class HostCalls {
 public:
  static void count(void* user) {
    auto& self = *static_cast<HostCalls*>(user);
    const std::lock_guard<std::mutex> lock(self.mutex_);
    ++self.made_;
    self.changed_.notify_all();
  }
  int made() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return made_;
  }
  bool reach(int count) {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(20), [&] { return made_ >= count; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int made_ = 0;
};

TEST(host_calls_run_once_also_where_the_context_forgets_them) {
  const unify_device device = open_device();
  const unify_stream stream = make_stream(device);
  HostCalls host_calls;
  CHECK(table->host_call(stream, HostCalls::count, &host_calls) == UNIFY_OK);
  CHECK(host_calls.reach(1) && host_calls.made() == 1);
  set("held", 1);
  CHECK(table->host_call(stream, HostCalls::count, &host_calls) == UNIFY_OK);
  CHECK(table->host_call(stream, HostCalls::count, &host_calls) == UNIFY_OK);
  set("fault:0", 507035);
  const unify_status asked = table->stream_query(stream);
  CHECK(asked == UNIFY_KERNEL_FAULT || asked == UNIFY_NOT_READY);  // as long as they run
  CHECK(table->stream_synchronize(stream) == UNIFY_KERNEL_FAULT && host_calls.made() == 3);
  CHECK(table->stream_query(stream) == UNIFY_KERNEL_FAULT);
  set("held", 0);  // now ACL comes to them after all
  CHECK(table->device_synchronize(device) == UNIFY_KERNEL_FAULT && host_calls.made() == 3);
  CHECK(table->device_reset(device) == UNIFY_OK);
  CHECK(table->host_call(make_stream(device), HostCalls::count, &host_calls) == UNIFY_OK);
  CHECK(host_calls.reach(4) && host_calls.made() == 4);
  table->device_close(device);
}

TEST(acl_may_come_to_host_calls_after_their_device_was_closed) {
  const unify_device device = open_device();
  const unify_stream stream = make_stream(device);
  HostCalls host_calls;
  set("held", 1);
  for (int i = 0; i < 3; ++i) CHECK(table->host_call(stream, HostCalls::count, &host_calls) == UNIFY_OK);
  set("fault:0", 507035);
  CHECK(table->stream_synchronize(stream) == UNIFY_KERNEL_FAULT && host_calls.made() == 3);
  CHECK(table->stream_destroy(stream) == UNIFY_KERNEL_FAULT);
  table->device_close(device);
  set("held", 0);
  CHECK(host_calls.made() == 3);
}

// ---- memory ----

TEST(copies_know_where_both_ends_are) {
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
  HostCalls host_calls;
  CHECK(table->host_call(stream, HostCalls::count, &host_calls) == UNIFY_OK && host_calls.reach(1));
  CHECK(std::string(third) == "host");
}

TEST(what_acl_does_not_copy_within_a_device_is_left_to_the_core) {
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

TEST(a_graph_has_no_fill_of_words) {
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

TEST(fills_of_several_widths_or_none) {
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

TEST(virtual_memory_comes_and_goes) {
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

TEST(peers_are_opened_at_both_ends_once) {
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

TEST(a_reset_of_either_end_closes_the_way_for_both) {
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

TEST(tokens_carry_whole_allocations_to_other_processes) {
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

}  // namespace

extern "C" const unify_backend* unify_ascend_backend_get(unify_backend_get_args* args);

int main(int argc, char** argv) {
  if (argc == 1) {
    for (const auto& [name, test] : tests()) std::puts(name.c_str());
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
  tests().at(argv[2])();
  return 0;
}
