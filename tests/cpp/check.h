// All that these tests need of a framework.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "core/error.h"

#define CHECK(condition)                                                             \
  do {                                                                               \
    if (!(condition)) {                                                              \
      std::fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                                  \
    }                                                                                \
  } while (false)

namespace unify {

// What it threw, or nothing.
template <typename Work>
std::string error_of(Work&& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.message;
  }
  return {};
}

inline bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

inline void in_threads(size_t count, const std::function<void(size_t)>& work) {
  std::vector<std::thread> threads;
  for (size_t i = 0; i < count; ++i) threads.emplace_back(work, i);
  for (std::thread& thread : threads) thread.join();
}

void test_a_backend_that_tells_no_times_gets_the_hosts();
void test_an_event_whose_record_failed_has_no_time();
void test_a_time_that_was_never_taken_is_none();
void test_a_trace_that_waits_leaves_what_it_was_told_to_the_user();
void test_the_default_stream_is_made_anew_after_a_reset();
void test_memory_asks_no_other_device_while_that_is_reset();
void test_memory_asks_no_stream_that_begins_a_recording();
void test_a_trace_ends_while_its_device_is_reset();
void test_each_record_of_an_event_holds_its_own_waiters();
void test_a_fault_stays_until_a_synchronize_returned_it();
void test_a_stream_without_a_thread_says_so_and_works_later();
void test_loops_of_many_streams_run_each_program_once();
void test_a_worker_makes_room_for_another_caller();
void test_streams_and_workers_start_anew_after_a_fork();
void test_the_host_answers_what_the_caller_knows();
void test_the_hosts_addresses_get_memory_and_lose_it();
void test_cores_follow_the_control_groups(const std::string& folder);
void test_validation_names_what_breaks_a_rule();
void test_a_launch_of_the_wrong_shape_is_refused();
void test_rows_stay_inside_their_memory_and_apart();
void test_a_graph_is_changed_by_a_living_one_of_its_device();
void test_virtual_and_shared_memory_have_their_rules();
void test_ranges_may_go_over_several_commits();
void test_nothing_is_written_through_a_null_pointer();
void test_a_module_outlives_its_launches_and_a_device_all_it_made();
void test_faults_come_when_they_are_asked_for();
void test_every_function_that_was_appended_fails_on_demand();
void test_what_a_device_still_had_is_said_at_its_close();
void test_a_graph_that_an_update_made_is_counted();
void test_a_default_stream_does_not_ask_for_its_line();
void test_a_segment_grows_where_its_last_block_ends();
void test_idle_chunks_go_back_from_the_middle_and_come_again();
void test_memory_that_runs_out_is_taken_from_what_lies_idle();
void test_a_commit_that_fails_leaves_nothing_behind();
void test_a_reset_takes_addresses_and_memory_away();
void test_expandable_segments_keep_blocks_apart();
void test_what_is_held_is_listed_by_line_the_largest_first();
void test_a_trace_has_calls_and_what_ran(const std::string& folder);

}  // namespace unify
