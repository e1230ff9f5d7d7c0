// How many cores this process may use.
#pragma once

#include <cstdint>
#include <string>

namespace unify::host {

// By its affinity mask and the quotas of its control groups, rounded up; at least 1.
uint32_t available_cores();

// The least quota, in cores, of the control groups that `membership` (the form of /proc/self/cgroup) lists and of those
// around them, with the hierarchies mounted under `root` (as at /sys/fs/cgroup). UINT32_MAX: none.
uint32_t cores_of_groups(const std::string& membership, const std::string& root);

}  // namespace unify::host
