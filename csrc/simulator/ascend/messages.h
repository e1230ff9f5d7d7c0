// What calls say when they fail: each thread's last error, and the text that aclGetRecentErrMsg gives.
#pragma once

#include <string>

#include "simulator/result.h"

namespace unify::simulator {

// The vendor's reason for a code: "aicore exception".
const char* reason_of(Result result) noexcept;

// Says more about the failure that a call of this thread is about to return. Returns the code.
Result refuse(Result result, std::string why);

// What this thread said so, for work of a stream, which returns to no call. Forgets it.
std::string take_reason();

// Takes note of what a call returns, on its way out. Returns it.
Result finish(const char* call, Result result) noexcept;

// A call that this library does not offer: says so by name, on stderr too, the first time.
Result refuse_call(const char* call) noexcept;

Result last_error(bool forgets) noexcept;
// The texts of this thread since it last asked, the newest first. Null if there are none. Valid until it asks again.
const char* take_messages() noexcept;

}  // namespace unify::simulator
