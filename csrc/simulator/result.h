// What calls and work end in, for every vendor: a code of the vendor's own.
#pragma once

namespace unify::simulator {

using Result = int;
constexpr Result kSuccess = 0;

// The codes of what the shared half finds out by itself. Each front has its own: cuda/rules.cpp, ascend/rules.cpp.
struct Results {
  Result invalid_value;
  Result out_of_memory;
  Result no_resources;  // for a launch
  Result context_is_over;
  Result device_is_lost;
  Result peer_is_gone;  // the process that was to end this process's wait
  // A kernel's end.
  Result illegal_address;
  Result illegal_instruction;
  Result arithmetic;
  Result assertion;
  // Captures.
  Result capture_twice;
  Result not_capturing;
  Result capture_of_another_stream;
  Result capture_of_another_thread;
  Result capture_is_invalid;
  Result capture_is_not_joined;
  Result capture_depends_on_others;
  Result captures_would_merge;
  Result capture_forbids;
  Result event_is_captured;
};
extern const Results kResults;

}  // namespace unify::simulator
