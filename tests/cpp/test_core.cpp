// The core and the CPU backend without Python: what goes wrong here cannot be the binding's fault, and sanitizers see
// every thread. Run by test_core.py, and by .ci/sanitize under both sanitizers. Prints a line a case; ends at the first
// check that fails.
#include <unify/backend.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "core/allocator.h"
#include "core/device.h"
#include "core/error.h"
#include "core/event.h"
#include "core/failures.h"
#include "core/graph.h"
#include "core/memory.h"
#include "core/reclaim.h"
#include "core/registry.h"
#include "core/stream.h"
#include "statistics.h"

extern "C" const unify_backend* unify_host_backend_get(unify_backend_get_args* args);

namespace unify {
namespace {

using Streams = std::vector<std::shared_ptr<Stream>>;
using Block = std::shared_ptr<Storage>;

std::shared_ptr<Device> cpu() { return Registry::instance().device("cpu"); }

Streams make_streams(size_t count) {
  Streams streams;
  for (size_t i = 0; i < count; ++i) streams.push_back(Stream::create(cpu()));
  return streams;
}

void fill_bytes(Stream& stream, const Block& block, uint8_t value) {
  fill(stream, {&stream.device(), block->address()}, value, 1, block->bytes());
  block->used_on(stream);
}

void copy_bytes(Stream& stream, const Block& dst, const Block& src) {
  copy(stream, {&stream.device(), dst->address()}, {&stream.device(), src->address()}, dst->bytes());
  src->used_on(stream);
  dst->used_on(stream);
}

bool holds(const Block& block, uint8_t value) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(static_cast<uintptr_t>(block->address()));
  return std::all_of(bytes, bytes + block->bytes(), [&](uint8_t byte) { return byte == value; });
}

// Against a shadow: live blocks never overlap, lie aligned, and the figures add up after every step.
void test_random_allocations_never_overlap() {
  Allocator& allocator = cpu()->allocator();
  Streams streams = make_streams(4);
  std::mt19937_64 random(1);
  std::map<uint64_t, Block> live;  // by address
  for (int step = 0; step < 6000; ++step) {
    if (live.size() < 200 && random() % 5 < 3) {
      const size_t bytes = size_t{1} + random() % (size_t{1} << (4 + random() % 20));
      Block block = allocator.allocate(bytes, *streams[random() % streams.size()]);
      const uint64_t begin = block->address();
      CHECK(begin % cpu()->info().alignment == 0 && block->bytes() == bytes);
      const auto after = live.lower_bound(begin);
      CHECK(after == live.end() || after->first >= begin + bytes);
      CHECK(after == live.begin() || std::prev(after)->first + std::prev(after)->second->bytes() <= begin);
      live.emplace(begin, std::move(block));
    } else if (!live.empty()) {
      const auto victim = std::next(live.begin(), static_cast<int64_t>(random() % live.size()));
      if (random() % 3 == 0) victim->second->used_on(*streams[random() % streams.size()]);
      live.erase(victim);
    }
    if (step % 64 == 0) check_statistics(allocator);
    if (step % 1000 == 999) streams[random() % streams.size()] = Stream::create(cpu());  // one ends, its blocks stay
  }
  live.clear();
  cpu()->synchronize();
  allocator.trim();
  check_statistics(allocator);
  CHECK(allocator.statistics().reserved_bytes == 0);
}

// A block is given up by the host long before the streams are done with it; whoever gets it next writes to it.
void test_a_block_is_not_reused_before_the_streams_have_passed() {
  Allocator& allocator = cpu()->allocator();
  in_threads(4, [&](size_t number) {
    const Streams streams = make_streams(3);
    std::mt19937_64 random(number);
    std::vector<std::pair<Block, uint8_t>> results;
    for (int round = 0; round < 200; ++round) {
      const size_t bytes = size_t{1} << (10 + random() % 8);
      const auto value = static_cast<uint8_t>(random());
      Stream& writer = *streams[random() % streams.size()];
      Stream& reader = *streams[random() % streams.size()];
      Block scratch = allocator.allocate(bytes, writer);
      Block result = allocator.allocate(bytes, reader);
      fill_bytes(writer, scratch, value);
      reader.wait(writer);
      copy_bytes(reader, result, scratch);
      scratch.reset();
      results.emplace_back(std::move(result), value);
    }
    for (const auto& stream : streams) stream->synchronize();
    for (const auto& [result, value] : results) CHECK(holds(result, value));
  });
  cpu()->synchronize();
  check_statistics(allocator);
}

// A stream that ends with work under way: nobody may get its blocks before that work has run.
void test_blocks_of_a_stream_that_ends_are_reused_after_its_work() {
  Allocator& allocator = cpu()->allocator();
  const std::shared_ptr<Stream> reader = Stream::create(cpu());
  in_threads(4, [&](size_t number) {
    for (int round = 0; round < 100; ++round) {
      std::shared_ptr<Stream> stream = Stream::create(cpu());
      const Block block = allocator.allocate(1 << 16, *stream);
      const auto value = static_cast<uint8_t>(number * 50 + static_cast<size_t>(round));
      Block late = allocator.allocate(1 << 16, *stream);
      fill_bytes(*stream, late, 255);
      late.reset();  // free for others as soon as the fill has run, and not before
      fill_bytes(*stream, block, value);
      stream.reset();
      reader->host_call([] {});
      cpu()->synchronize();
      CHECK(holds(block, value));
    }
  });
}

void test_out_of_memory_trims_and_tries_again() {
  Allocator& allocator = cpu()->allocator();
  const std::shared_ptr<Stream> stream = Stream::create(cpu());
  const std::shared_ptr<Stream> other = Stream::create(cpu());
  allocator.trim();
  constexpr size_t kMiB = size_t{1} << 20;
  allocator.set_limit(allocator.statistics().reserved_bytes + 64 * kMiB);
  std::vector<Block> blocks;
  for (int i = 0; i < 4; ++i) blocks.push_back(allocator.allocate(16 * kMiB, *stream));
  const uint64_t refused = allocator.statistics().out_of_memory;
  const std::string message = error_of([&] { (void)allocator.allocate(16 * kMiB, *stream); });
  CHECK(message.find("16.0 MiB asked") != std::string::npos && message.find("allows") != std::string::npos);
  CHECK(allocator.statistics().out_of_memory == refused + 1);
  check_statistics(allocator);

  blocks.resize(2);  // two idle segments of 16 MiB: too small, so they must go back for one of 32
  const uint64_t trims = allocator.statistics().trims;
  Block large = allocator.allocate(32 * kMiB, *stream);
  CHECK(allocator.statistics().trims == trims + 1);

  fill_bytes(*other, large, 3);  // still in use by another stream: waited for, not refused
  large.reset();
  large = allocator.allocate(31 * kMiB, *stream);
  CHECK(allocator.statistics().out_of_memory == refused + 1);
  CHECK(!error_of([&] { (void)allocator.allocate(SIZE_MAX - 10, *stream); }).empty());
  blocks.clear();
  large.reset();
  allocator.set_limit(0);
  cpu()->synchronize();
  allocator.trim();
  check_statistics(allocator);
}

// Every thread works on every stream; the streams wait for each other in rings. One counter for each stream, changed
// by its host calls alone and without any lock, shows that calls of one stream never overlap.
void test_streams_and_events_from_many_threads() {
  const Streams streams = make_streams(5);
  std::vector<std::shared_ptr<Event>> events;
  for (size_t i = 0; i < streams.size(); ++i) events.push_back(Event::create(cpu(), true));
  std::vector<uint64_t> counted(streams.size());
  constexpr size_t kThreads = 6;
  constexpr size_t kRounds = 300;
  in_threads(kThreads, [&](size_t number) {
    std::mt19937_64 random(number);
    for (size_t round = 0; round < kRounds; ++round) {
      const size_t mine = random() % streams.size();
      const size_t other = random() % streams.size();
      streams[mine]->host_call([&counted, mine] { ++counted[mine]; });
      events[mine]->record(*streams[mine]);
      streams[other]->wait(*events[mine]);
      if (random() % 16 == 0) streams[mine]->wait(*streams[other]);
      (void)events[other]->query();
      if (random() % 32 == 0) events[other]->synchronize();
      if (random() % 32 == 0) (void)streams[other]->query();
    }
  });
  cpu()->synchronize();
  uint64_t total = 0;
  for (const uint64_t count : counted) total += count;
  CHECK(total == kThreads * kRounds);
  for (const auto& event : events) CHECK(event->query());
}

void test_events_keep_time_and_order() {
  const Streams streams = make_streams(2);
  const auto begin = Event::create(cpu(), true);
  const auto end = Event::create(cpu(), true);
  CHECK(begin->query());
  CHECK(error_of([&] { (void)begin->elapsed_ms(*end); }).find("never recorded") != std::string::npos);
  std::atomic<bool> is_open{false};
  begin->record(*streams[0]);
  streams[0]->host_call([&] {
    while (!is_open) std::this_thread::yield();
  });
  end->record(*streams[0]);
  std::vector<int> order;
  streams[1]->wait(*end);
  streams[1]->host_call([&] { order.push_back(2); });
  CHECK(!end->query() && !streams[1]->query());
  CHECK(!error_of([&] { streams[1]->synchronize(0.01); }).empty());
  order.push_back(1);
  is_open = true;
  streams[1]->synchronize();
  CHECK((order == std::vector<int>{1, 2}));
  CHECK(begin->elapsed_ms(*end) > 0 && end->elapsed_ms(*begin) < 0);
}

void test_a_graph_replays_what_was_recorded() {
  Allocator& allocator = cpu()->allocator();
  const Streams streams = make_streams(2);
  const Block source = allocator.allocate(1 << 16, *streams[0]);
  const Block result = allocator.allocate(1 << 16, *streams[0]);
  std::vector<int> calls;
  std::shared_ptr<Graph> graph = Graph::begin(streams[0]);
  {
    const Block scratch = allocator.allocate(1 << 16, *streams[0]);
    copy_bytes(*streams[0], scratch, source);
    streams[1]->wait(*streams[0]);  // drawn into the recording, and back
    copy_bytes(*streams[1], result, scratch);
    streams[0]->wait(*streams[1]);
    streams[0]->host_call([&] { calls.push_back(1); });
  }
  CHECK(error_of([&] { streams[1]->synchronize(); }).find("records") != std::string::npos);
  graph->end();
  CHECK(graph->size() == 3 && calls.empty());
  for (uint8_t value = 1; value < 20; ++value) {
    fill_bytes(*streams[0], source, value);
    const Block thief = allocator.allocate(1 << 16, *streams[0]);
    fill_bytes(*streams[0], thief, 255);
    graph->launch(*streams[0]);
    streams[0]->synchronize();
    CHECK(holds(result, value) && calls.size() == value);
  }
  graph->launch(*streams[0]);
  graph.reset();  // while it may be running
  streams[0]->synchronize();
  CHECK(calls.size() == 20);
}

void test_an_event_of_a_graph_marks_nothing_outside_of_it() {
  const Streams streams = make_streams(2);
  const auto event = Event::create(cpu(), false);
  const std::shared_ptr<Graph> graph = Graph::begin(streams[0]);
  event->record(*streams[0]);
  graph->end();
  CHECK(error_of([&] { streams[1]->wait(*event); }).find("graph") != std::string::npos);
  CHECK(streams[1]->recording() == nullptr);
  CHECK(error_of([&] { (void)event->query(); }).find("graph") != std::string::npos);
  event->record(*streams[1]);
  event->synchronize();
  CHECK(event->query());
}

void test_graphs_are_recorded_and_replayed_by_many_threads() {
  Allocator& allocator = cpu()->allocator();
  in_threads(4, [&](size_t number) {
    const std::shared_ptr<Stream> stream = Stream::create(cpu());
    const Block result = allocator.allocate(4096, *stream);
    for (int round = 0; round < 50; ++round) {
      const auto value = static_cast<uint8_t>(number * 60 + static_cast<size_t>(round));
      const std::shared_ptr<Graph> graph = Graph::begin(stream);
      const Block scratch = allocator.allocate(4096, *stream);
      fill_bytes(*stream, scratch, value);
      copy_bytes(*stream, result, scratch);
      if (round % 5 == 0) {
        graph->abandon();
        continue;
      }
      graph->end();
      graph->launch(*stream);
      stream->synchronize();
      CHECK(holds(result, value));
    }
  });
}

void test_a_broken_library_is_refused_and_the_rest_goes_on(const std::string& folder) {
  const std::string path = folder + "/broken.so";
  std::ofstream(path) << "not a library";
  const Backend& broken = Registry::instance().add_library(path);
  CHECK(broken.table == nullptr && broken.why.find("broken.so") != std::string::npos);
  CHECK(!Registry::instance().add_library(folder + "/absent.so").why.empty());
  // Any library that is none of ours: this program has no such symbol, libc neither.
  CHECK(Registry::instance().add_library("libc.so.6", "libc").why.find("unify_backend_get") != std::string::npos);
  CHECK(error_of([] { (void)Registry::instance().device("libc:0"); }).find("cannot be used") != std::string::npos);
  CHECK(error_of([] { (void)Registry::instance().device("cpv"); }).find("Did you mean 'cpu'") != std::string::npos);
  in_threads(4, [&](size_t) {
    CHECK(Registry::instance().device("cpu") == cpu());
    (void)Registry::instance().add_library(path);
    (void)Registry::instance().device_names();
  });
}

// The last holder of a stream is work of that stream: its own thread must neither wait for it nor call the backend.
void test_what_work_holds_last_ends_on_another_thread() {
  struct Probe : Reclaimable {
    explicit Probe(std::thread::id& out) : ended_on(out) {}
    bool end() noexcept override {
      ended_on = std::this_thread::get_id();
      return true;
    }
    std::thread::id& ended_on;
  };
  std::thread::id ran_on;
  std::thread::id ended_on;
  std::atomic<bool> is_open{false};
  std::weak_ptr<Stream> watched;
  {
    const std::shared_ptr<Stream> stream = Stream::create(cpu());
    watched = stream;
    const Block block = cpu()->allocator().allocate(1 << 16, *cpu()->default_stream());
    block->used_on(*stream);
    stream->host_call([&, stream, block, probe = reclaimed(new Probe(ended_on))] {
      ran_on = std::this_thread::get_id();
      while (!is_open) std::this_thread::yield();
    });
  }
  for (int i = 0; i < 100; ++i) (void)cpu()->allocator().allocate(4096, *cpu()->default_stream());  // waits for nothing
  CHECK(!watched.expired());
  is_open = true;
  cpu()->synchronize();
  cpu()->allocator().trim();
  CHECK(watched.expired());
  CHECK(ended_on == std::this_thread::get_id() && ran_on != ended_on);
  check_statistics(cpu()->allocator());
}

void test_what_the_core_found_out_is_raised_once_by_the_users_next_call() {
  const Streams streams = make_streams(2);
  const auto raised = [](auto&& use) { return error_of(use).find("found by the core") != std::string::npos; };
  Failures& failures = cpu()->failures();
  failures.note(streams[0]->id(), UNIFY_INTERNAL, "found by the core");
  CHECK(!raised([&] { streams[1]->synchronize(); }));
  CHECK(raised([&] { streams[0]->synchronize(); }));
  CHECK(!raised([&] { streams[0]->synchronize(); }));
  failures.note(streams[0]->id(), UNIFY_INTERNAL, "found by the core");
  CHECK(raised([&] { (void)streams[0]->query(); }));
  failures.note(streams[0]->id(), UNIFY_INTERNAL, "found by the core");
  failures.stream_ended(streams[0]->id());  // whoever is next
  CHECK(raised([&] { streams[1]->synchronize(); }));
  failures.note(Failures::kNoStream, UNIFY_INTERNAL, "found by the core");
  CHECK(raised([&] { cpu()->synchronize(); }));
  CHECK(!raised([&] { cpu()->synchronize(); }));
}

// Proof that the sanitizer would tell: each ends in its report, or does what nobody sees.
void do_wrong(const std::string& what) {
  std::vector<char> bytes(16);
  if (what == "overflow") {
    const volatile size_t beyond = bytes.size();
    bytes.data()[beyond] = 1;
  } else if (what == "race") {
    int unguarded = 0;
    in_threads(2, [&](size_t) {
      for (int i = 0; i < 1000; ++i) ++unguarded;
    });
  }
}

}  // namespace
}  // namespace unify

int main(int count, char** arguments) {
  using namespace unify;
  if (count == 3 && std::strcmp(arguments[1], "--wrong") == 0) {
    do_wrong(arguments[2]);
    return 0;
  }
  const std::string folder = count > 1 ? arguments[1] : ".";
  const std::pair<const char*, std::function<void()>> cases[] = {
#define CASE(name) {#name, test_##name}
      CASE(random_allocations_never_overlap),
      CASE(a_block_is_not_reused_before_the_streams_have_passed),
      CASE(blocks_of_a_stream_that_ends_are_reused_after_its_work),
      CASE(out_of_memory_trims_and_tries_again),
      CASE(a_segment_grows_where_its_last_block_ends),
      CASE(idle_chunks_go_back_from_the_middle_and_come_again),
      CASE(memory_that_runs_out_is_taken_from_what_lies_idle),
      CASE(a_commit_that_fails_leaves_nothing_behind),
      CASE(a_reset_takes_addresses_and_memory_away),
      CASE(expandable_segments_keep_blocks_apart),
      CASE(streams_and_events_from_many_threads),
      CASE(events_keep_time_and_order),
      CASE(a_graph_replays_what_was_recorded),
      CASE(an_event_of_a_graph_marks_nothing_outside_of_it),
      CASE(graphs_are_recorded_and_replayed_by_many_threads),
      {"a_broken_library_is_refused_and_the_rest_goes_on",
       [&] { test_a_broken_library_is_refused_and_the_rest_goes_on(folder); }},
      CASE(what_work_holds_last_ends_on_another_thread),
      CASE(what_the_core_found_out_is_raised_once_by_the_users_next_call),
      CASE(a_backend_that_tells_no_times_gets_the_hosts),
      CASE(an_event_whose_record_failed_has_no_time),
      CASE(a_time_that_was_never_taken_is_none),
      CASE(a_trace_that_waits_leaves_what_it_was_told_to_the_user),
      CASE(the_default_stream_is_made_anew_after_a_reset),
      CASE(memory_asks_no_other_device_while_that_is_reset),
      CASE(memory_asks_no_stream_that_begins_a_recording),
      CASE(a_trace_ends_while_its_device_is_reset),
      CASE(validation_names_what_breaks_a_rule),
      CASE(a_launch_of_the_wrong_shape_is_refused),
      CASE(rows_stay_inside_their_memory_and_apart),
      CASE(a_graph_is_changed_by_a_living_one_of_its_device),
      CASE(virtual_and_shared_memory_have_their_rules),
      CASE(ranges_may_go_over_several_commits),
      CASE(nothing_is_written_through_a_null_pointer),
      CASE(a_module_outlives_its_launches_and_a_device_all_it_made),
      CASE(faults_come_when_they_are_asked_for),
      CASE(every_function_that_was_appended_fails_on_demand),
      CASE(what_a_device_still_had_is_said_at_its_close),
      CASE(a_graph_that_an_update_made_is_counted),
      CASE(a_default_stream_does_not_ask_for_its_line),
      CASE(what_is_held_is_listed_by_line_the_largest_first),
      {"a_trace_has_calls_and_what_ran", [&] { test_a_trace_has_calls_and_what_ran(folder); }},
      CASE(each_record_of_an_event_holds_its_own_waiters),
      CASE(a_fault_stays_until_a_synchronize_returned_it),
      CASE(a_stream_without_a_thread_says_so_and_works_later),
      CASE(loops_of_many_streams_run_each_program_once),
      CASE(a_worker_makes_room_for_another_caller),
      CASE(streams_and_workers_start_anew_after_a_fork),
      CASE(the_host_answers_what_the_caller_knows),
      CASE(the_hosts_addresses_get_memory_and_lose_it),
      {"cores_follow_the_control_groups", [&] { test_cores_follow_the_control_groups(folder); }},
#undef CASE
  };
  for (const auto& [name, run] : cases) {
    std::printf("%s\n", name);
    std::fflush(stdout);
    try {
      run();
    } catch (const Error& error) {
      std::fprintf(stderr, "%s: %s\n", name, error.what());
      return 1;
    }
  }
  std::printf("%zu cases passed\n", std::size(cases));
  return 0;
}
