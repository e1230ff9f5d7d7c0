// Who looks on while streams work. A front may have one, for reports; without it that costs a load for each work.
#pragma once

#include <atomic>
#include <chrono>

#include "stream.h"

namespace unify::simulator {

using Time = std::chrono::steady_clock::time_point;

// Called once a piece of work is done, on its stream's thread, without the driver's mutex.
using Observer = void (*)(const Stream& stream, const Operation& operation, Time begin, Time end, Result result);

inline std::atomic<Observer> observer{nullptr};

}  // namespace unify::simulator
