// The CPU backend alone, behind the table that the core sees: streams, events, faults, workers, forks.
#include <pthread.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unify/backend.h>
#include <unify/host_kernel.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "backends/cores.h"
#include "backends/thread_pool.h"
#include "check.h"

extern "C" const unify_backend* unify_host_backend_get(unify_backend_get_args* args);

namespace unify {
namespace {

#if defined(__SANITIZE_THREAD__)  // ends the child of a process with threads at its first own one
constexpr bool kEndsForks = true;
#else
constexpr bool kEndsForks = false;
#endif

const unify_backend& table() { return *unify_host_backend_get(nullptr); }

unify_device open_device(const char* options) {
  unify_device_open_args args{sizeof args, nullptr, 0, options};
  unify_device device = nullptr;
  CHECK(table().device_open(&args, &device) == UNIFY_OK);
  return device;
}

unify_stream make_stream(unify_device device, bool is_default = false) {
  unify_stream_args args{sizeof args, nullptr, 0, is_default ? 1U : 0U, nullptr};
  unify_stream stream = nullptr;
  CHECK(table().stream_create(device, &args, &stream) == UNIFY_OK);
  return stream;
}

unify_event make_event(unify_device device) {
  unify_event_args args{sizeof args, nullptr, 0};
  unify_event event = nullptr;
  CHECK(table().event_create(device, &args, &event) == UNIFY_OK);
  return event;
}

// A kernel of this file: to the backend, a function is its address.
unify_status launch(unify_stream stream, unify_host_kernel kernel, void* argument, uint32_t programs,
                    uint64_t operation = 0) {
  unify_launch_args args{};
  args.struct_size = sizeof args;
  for (uint32_t& extent : args.grid) extent = 1;
  args.grid[0] = programs;
  args.threads = 1;
  args.args = &argument;
  args.args_bytes = sizeof argument;
  args.operation = operation;
  return table().launch(stream, reinterpret_cast<unify_function>(kernel), &args);
}

int32_t count_programs(const unify_host_call* call, uint64_t begin, uint64_t end) {
  auto* counts = *static_cast<std::atomic<int>* const*>(call->args);
  for (uint64_t i = begin; i < end; ++i) counts[i].fetch_add(1);
  return 0;
}

int32_t fail_at_once(const unify_host_call*, uint64_t, uint64_t) {
#if defined(__aarch64__)
  __asm__ volatile("udf #0");  // __builtin_trap is a breakpoint there
#endif
  __builtin_trap();
}

struct Gate {
  std::atomic<bool> is_open{false};
  void close(unify_stream stream) { CHECK(table().host_call(stream, hold, this) == UNIFY_OK); }
  void open() { is_open = true; }
  static void hold(void* gate) {
    while (!static_cast<Gate*>(gate)->is_open) std::this_thread::yield();
  }
};

void set(void* flag) { *static_cast<std::atomic<bool>*>(flag) = true; }

bool are_all(const std::vector<std::atomic<int>>& counts, int value) {
  for (const auto& count : counts) {
    if (count != value) return false;
  }
  return true;
}

// What a child of a fork does with its parent's handles. Nothing else runs in it.
bool works_after_fork(unify_stream served, unify_stream fresh, unify_event event) {
  std::vector<std::thread> threads;  // so that the system's thread numbers are in use again
  for (int i = 0; i < 4; ++i) threads.emplace_back([] {});
  for (std::thread& thread : threads) thread.join();
  std::vector<std::atomic<int>> counts(1000);
  bool is_well = table().event_query(event) == UNIFY_OK;
  for (const unify_stream stream : {served, fresh}) {
    is_well = is_well && table().stream_query(stream) == UNIFY_OK;
    is_well = is_well && launch(stream, count_programs, counts.data(), 1000) == UNIFY_OK;
    is_well = is_well && table().stream_synchronize(stream) == UNIFY_OK;
  }
  is_well = is_well && table().event_record(event, served) == UNIFY_OK;
  is_well = is_well && table().event_synchronize(event) == UNIFY_OK;
  return is_well && are_all(counts, 2) && table().stream_destroy(served) == UNIFY_OK;
}

}  // namespace

void test_each_record_of_an_event_holds_its_own_waiters() {
  const unify_device device = open_device("threads=1");
  const unify_stream held = make_stream(device);
  const unify_stream idle = make_stream(device);
  const unify_stream waiting = make_stream(device);
  const unify_event event = make_event(device);
  Gate gate;
  std::atomic<bool> has_run{false};
  gate.close(held);
  CHECK(table().event_record(event, held) == UNIFY_OK);
  CHECK(table().stream_wait_event(waiting, event) == UNIFY_OK);
  CHECK(table().host_call(waiting, set, &has_run) == UNIFY_OK);
  for (int i = 0; i < 100; ++i) {
    CHECK(table().event_record(event, idle) == UNIFY_OK);
    CHECK(table().event_synchronize(event) == UNIFY_OK);
    CHECK(!has_run && table().stream_query(waiting) == UNIFY_NOT_READY);
  }
  gate.open();
  CHECK(table().stream_synchronize(waiting) == UNIFY_OK && has_run);
  table().event_destroy(event);
  for (const unify_stream stream : {held, idle, waiting}) table().stream_destroy(stream);
  table().device_close(device);
}

void test_a_fault_stays_until_a_synchronize_returned_it() {
  const unify_device device = open_device("threads=2");
  const unify_stream stream = make_stream(device);
  const unify_event before = make_event(device);
  const unify_event after = make_event(device);
  CHECK(table().event_record(before, stream) == UNIFY_OK);
  CHECK(launch(stream, fail_at_once, nullptr, 1, 42) == UNIFY_OK);
  CHECK(table().event_record(after, stream) == UNIFY_OK);
  CHECK(table().event_synchronize(after) == UNIFY_KERNEL_FAULT);
  CHECK(table().event_query(after) == UNIFY_KERNEL_FAULT && table().event_query(before) == UNIFY_OK);
  unify_status asked = UNIFY_NOT_READY;
  while (asked == UNIFY_NOT_READY) asked = table().stream_query(stream);
  CHECK(asked == UNIFY_KERNEL_FAULT && table().stream_query(stream) == UNIFY_KERNEL_FAULT);
  CHECK(table().stream_synchronize(stream) == UNIFY_KERNEL_FAULT);
  unify_error error{};
  error.struct_size = sizeof error;
  table().last_error(&error);
  CHECK(error.operation == 42 && std::string(error.message).find("SIGILL") != std::string::npos);
  CHECK(table().stream_synchronize(stream) == UNIFY_OK && table().stream_query(stream) == UNIFY_OK);
  CHECK(table().event_query(after) == UNIFY_KERNEL_FAULT);
  CHECK(table().event_record(after, stream) == UNIFY_OK && table().event_synchronize(after) == UNIFY_OK);

  const unify_stream immediate = make_stream(device, true);
  CHECK(launch(immediate, fail_at_once, nullptr, 1) == UNIFY_KERNEL_FAULT);  // told at once: nothing stays
  CHECK(table().stream_synchronize(immediate) == UNIFY_OK);
  CHECK(launch(stream, fail_at_once, nullptr, 1) == UNIFY_OK);
  CHECK(table().device_synchronize(device) == UNIFY_KERNEL_FAULT && table().device_synchronize(device) == UNIFY_OK);
  CHECK(launch(stream, fail_at_once, nullptr, 1) == UNIFY_OK);
  CHECK(table().event_record(after, stream) == UNIFY_OK && table().event_synchronize(after) == UNIFY_KERNEL_FAULT);
  CHECK(table().stream_destroy(stream) == UNIFY_KERNEL_FAULT);
  for (const unify_event event : {before, after}) table().event_destroy(event);
  table().stream_destroy(immediate);
  table().device_close(device);
}

// A process at its limit: a stack that no address space holds fails as one too many does.
void test_a_stream_without_a_thread_says_so_and_works_later() {
  const unify_device device = open_device("threads=4");
  const unify_stream stream = make_stream(device);
  pthread_attr_t usual;
  pthread_attr_t endless;
  CHECK(pthread_getattr_default_np(&usual) == 0 && pthread_getattr_default_np(&endless) == 0);
  CHECK(pthread_attr_setstacksize(&endless, size_t{1} << 47) == 0 && pthread_setattr_default_np(&endless) == 0);
  std::vector<std::atomic<int>> counts(1000);
  const unify_status refused = launch(stream, count_programs, counts.data(), 1000);
  unify_error error{};
  error.struct_size = sizeof error;
  table().last_error(&error);
  const unify_stream immediate = make_stream(device, true);
  const unify_status alone = launch(immediate, count_programs, counts.data(), 1000);  // without workers
  CHECK(pthread_setattr_default_np(&usual) == 0);
  CHECK(refused == UNIFY_OUT_OF_MEMORY && error.status == refused && error.advice != nullptr);
  CHECK(alone == UNIFY_OK && are_all(counts, 1));
  CHECK(table().stream_query(stream) == UNIFY_OK);
  CHECK(launch(stream, count_programs, counts.data(), 1000) == UNIFY_OK);
  CHECK(table().stream_synchronize(stream) == UNIFY_OK && are_all(counts, 2));
  for (const unify_stream made : {stream, immediate}) table().stream_destroy(made);
  table().device_close(device);
}

void test_loops_of_many_streams_run_each_program_once() {
  const unify_device device = open_device("threads=4");
  std::vector<std::thread> threads;
  for (int number = 0; number < 4; ++number) {
    threads.emplace_back([device] {
      const unify_stream stream = make_stream(device);
      std::vector<std::atomic<int>> counts(999);
      for (int round = 0; round < 300; ++round) {
        CHECK(launch(stream, count_programs, counts.data(), 999) == UNIFY_OK);
        if (round % 100 == 50) CHECK(table().device_set_option(device, "threads", round < 100 ? "2" : "3") == UNIFY_OK);
      }
      CHECK(table().stream_synchronize(stream) == UNIFY_OK && are_all(counts, 300));
      table().stream_destroy(stream);
    });
  }
  for (std::thread& thread : threads) thread.join();
  table().device_close(device);
}

void test_a_worker_makes_room_for_another_caller() {
  struct Loop {
    std::thread::id caller;
    std::atomic<int> inside{0};
    std::atomic<bool> caller_goes_on{false};
    std::atomic<bool> worker_goes_on{false};
    std::atomic<uint64_t> done{0};
  };
  host::ThreadPool pool(2, false);
  const auto run = [&pool](Loop& loop) {
    loop.caller = std::this_thread::get_id();
    const auto body = [](void* context, uint64_t begin, uint64_t end) {
      auto& loop = *static_cast<Loop*>(context);
      auto& goes_on = std::this_thread::get_id() == loop.caller ? loop.caller_goes_on : loop.worker_goes_on;
      loop.inside.fetch_add(1);
      while (!goes_on) std::this_thread::yield();
      loop.done += end - begin;
    };
    pool.run(body, &loop, 80);
  };
  Loop shared;  // by its caller and the one worker, each held in its first chunk of ten
  std::thread first([&] { run(shared); });
  while (shared.inside < 2) std::this_thread::yield();
  CHECK(pool.running() == 2);
  Loop alone;  // the workers are taken
  std::thread second([&] { run(alone); });
  while (alone.inside < 1) std::this_thread::yield();
  CHECK(pool.running() == 3);
  shared.worker_goes_on = true;
  while (pool.running() > 2) std::this_thread::yield();
  CHECK(shared.done == 10);
  shared.caller_goes_on = true;
  first.join();
  CHECK(pool.running() == 1 && shared.done == 80);
  alone.caller_goes_on = true;
  second.join();
  CHECK(pool.running() == 0 && alone.done == 80 && alone.inside == 1);
}

void test_streams_and_workers_start_anew_after_a_fork() {
  if (kEndsForks) return;
  const unify_device device = open_device("threads=3");
  const unify_stream served = make_stream(device);
  const unify_stream fresh = make_stream(device);
  const unify_stream immediate = make_stream(device, true);
  const unify_event event = make_event(device);
  std::vector<std::atomic<int>> counts(1000);
  CHECK(launch(immediate, count_programs, counts.data(), 1000) == UNIFY_OK);  // starts the workers
  Gate gate;
  gate.close(served);
  CHECK(launch(served, count_programs, counts.data(), 1000) == UNIFY_OK);
  CHECK(table().event_record(event, served) == UNIFY_OK);
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    _exit(works_after_fork(served, fresh, event) ? 0 : 1);
  }
  gate.open();
  CHECK(table().stream_synchronize(served) == UNIFY_OK && are_all(counts, 2));
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
  table().event_destroy(event);
  for (const unify_stream stream : {served, fresh, immediate}) table().stream_destroy(stream);
  table().device_close(device);
}

void test_the_host_answers_what_the_caller_knows() {
  const unify_device device = open_device("threads=3;pin=1");
  for (const char* options : {"pin=maybe", "pin", "threads=many", "colour=red"}) {
    unify_device_open_args args{sizeof args, nullptr, 0, options};
    unify_device refused = nullptr;
    CHECK(table().device_open(&args, &refused) == UNIFY_INVALID_ARGUMENT && refused == nullptr);
  }
  unify_device_info info{};
  info.struct_size = sizeof info;
  CHECK(table().device_info(device, &info) == UNIFY_OK && info.cores == 3 && info.alignment > 0);
  unify_device_info older{};
  older.struct_size = offsetof(unify_device_info, cores);  // as a core knows it whose header ends there
  older.cores = 77;
  CHECK(table().device_info(device, &older) == UNIFY_OK && older.cores == 77);
  CHECK(older.struct_size == offsetof(unify_device_info, cores) && older.memory_bytes == info.memory_bytes);
  table().device_close(device);
}

void test_the_hosts_addresses_get_memory_and_lose_it() {
  const unify_device device = open_device("threads=1");
  unify_device_info info{};
  info.struct_size = sizeof info;
  CHECK(table().device_info(device, &info) == UNIFY_OK);
  const size_t granule = info.virtual_granularity;
  unify_address begin = 0;
  CHECK(table().virtual_reserve(device, SIZE_MAX / granule * granule, &begin) == UNIFY_OUT_OF_MEMORY);
  CHECK(table().virtual_reserve(device, info.memory_bytes / granule * granule, &begin) == UNIFY_OK);
  CHECK(begin % granule == 0);
  const auto bytes_at = [&](size_t offset) { return reinterpret_cast<char*>(static_cast<uintptr_t>(begin + offset)); };
  CHECK(table().virtual_commit(device, begin + granule, 2 * granule) == UNIFY_OK);
  CHECK(table().virtual_commit(device, begin + 3 * granule, granule) == UNIFY_OK);
  std::fill(bytes_at(granule), bytes_at(4 * granule), 'x');
  CHECK(table().virtual_decommit(device, begin + granule, 2 * granule) == UNIFY_OK);
  CHECK(*bytes_at(3 * granule) == 'x');
  CHECK(table().virtual_commit(device, begin + granule, granule) == UNIFY_OK);
  CHECK(*bytes_at(granule) == 0);  // another page
  CHECK(table().virtual_decommit(device, begin + granule, granule) == UNIFY_OK);
  CHECK(table().virtual_decommit(device, begin + 3 * granule, granule) == UNIFY_OK);
  CHECK(table().virtual_release(device, begin, info.memory_bytes / granule * granule) == UNIFY_OK);
  CHECK(table().virtual_release(device, begin + 1, granule) == UNIFY_INVALID_ARGUMENT);
  table().device_close(device);
}

void test_cores_follow_the_control_groups(const std::string& folder) {
  const std::string root = folder + "/groups";
  for (const char* name : {"", "/a", "/a/b", "/cpu", "/cpu/c", "/cpu,cpuacct"}) mkdir((root + name).c_str(), 0755);
  std::ofstream(root + "/a/cpu.max") << "250000 100000\n";
  std::ofstream(root + "/a/b/cpu.max") << "max 100000\n";
  std::ofstream(root + "/cpu/c/cpu.cfs_quota_us") << "100000\n";
  std::ofstream(root + "/cpu/c/cpu.cfs_period_us") << "100000\n";
  std::ofstream(root + "/cpu,cpuacct/cpu.cfs_quota_us") << "-1\n";
  std::ofstream(root + "/cpu,cpuacct/cpu.cfs_period_us") << "100000\n";
  CHECK(host::cores_of_groups("0::/\n", root) == UINT32_MAX);
  CHECK(host::cores_of_groups("0::/a\n", root) == 3);    // two and a half, rounded up
  CHECK(host::cores_of_groups("0::/a/b\n", root) == 3);  // a quota holds for the groups inside
  CHECK(host::cores_of_groups("0::/not/mounted\n", root) == UINT32_MAX);
  CHECK(host::cores_of_groups("5:memory:/c\n4:cpu:/c\n0::/\n", root) == 1);
  CHECK(host::cores_of_groups("5:cpuset:/c\n4:cpu,cpuacct:/c\n", root) == 1);
  CHECK(host::cores_of_groups("4:cpu,cpuacct:/d\n", root) == UINT32_MAX);
  CHECK(host::cores_of_groups("damaged\n::\n4:cpu:c\n", root) == UINT32_MAX);
  CHECK(host::available_cores() >= 1);
}

}  // namespace unify
