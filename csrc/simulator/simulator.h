// What the simulated driver offers besides the driver's own functions: configuration, faults, what is alive.
// Functions that return int return 0, or -1 with a text in unify_simulator_error() of the same thread.
#pragma once

#include <cstdint>
#include <string>

#define UNIFY_SIMULATOR_EXPORT extern "C" __attribute__((visibility("default")))

// Plans a fault: "CALL:AFTER:WHAT" for the call of that name ("*": any) that comes after AFTER others, or
// "time:SECONDS:WHAT". WHAT: a result by its name, lost, hang, corrupt, or a fault that the front names besides.
UNIFY_SIMULATOR_EXPORT int unify_simulator_fail(int device, const char* plan);

// Whether that is a plan. Plans nothing.
UNIFY_SIMULATOR_EXPORT int unify_simulator_check(const char* plan);

// Forgets the faults planned, and the bandwidth; lets go what hangs. A device that is lost stays lost.
UNIFY_SIMULATOR_EXPORT int unify_simulator_clear(int device);

// Lets the work go on that hangs.
UNIFY_SIMULATOR_EXPORT int unify_simulator_release(int device);

// Copies take at least their bytes divided by this. 0: as fast as the machine.
UNIFY_SIMULATOR_EXPORT int unify_simulator_slow(int device, double bytes_per_second);

// How many there are of: bytes, peak_bytes (the most there ever were), allocations, pinned_bytes, managed_bytes,
// physical (memory without addresses), reservations, streams, busy_streams (with work left), events, modules, graphs,
// graph_execs, retained. -1 for another name or device.
UNIFY_SIMULATOR_EXPORT int64_t unify_simulator_live(int device, const char* what);

// Why the last function here failed on this thread.
UNIFY_SIMULATOR_EXPORT const char* unify_simulator_error();

namespace unify::simulator {

struct Settings;

// For each front's own unify_simulator_configure: what it was asked for, before the first device is used, or the same
// again. Returns what that function returns.
int configure(const Settings& settings);
bool are_possible(const Settings& settings, std::string& why);
int fail_with(std::string why);

}  // namespace unify::simulator
