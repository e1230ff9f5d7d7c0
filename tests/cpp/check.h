// All that these tests need of a framework.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>

#define CHECK(condition)                                                             \
  do {                                                                               \
    if (!(condition)) {                                                              \
      std::fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                                  \
    }                                                                                \
  } while (false)

namespace unify {

void test_each_record_of_an_event_holds_its_own_waiters();
void test_a_fault_stays_until_a_synchronize_returned_it();
void test_a_stream_without_a_thread_says_so_and_works_later();
void test_loops_of_many_streams_run_each_program_once();
void test_a_worker_makes_room_for_another_caller();
void test_streams_and_workers_start_anew_after_a_fork();
void test_the_host_answers_what_the_caller_knows();
void test_cores_follow_the_control_groups(const std::string& folder);
void test_validation_names_what_breaks_a_rule();
void test_faults_come_when_they_are_asked_for();

}  // namespace unify
