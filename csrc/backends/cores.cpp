#include "cores.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <thread>

namespace unify::host {
namespace {

uint32_t in_cores(double quota, double period) {
  return quota > 0 && period > 0 ? static_cast<uint32_t>(std::max(1.0, (quota + period - 1) / period)) : UINT32_MAX;
}

// Of one group: cpu.max says "QUOTA PERIOD" or "max PERIOD" (version 2), version 1 has a file for each, -1 for none.
uint32_t cores_of_group(const std::string& folder) {
  double quota = 0;
  double period = 0;
  if (std::ifstream(folder + "/cpu.max") >> quota >> period) return in_cores(quota, period);
  quota = period = 0;
  std::ifstream(folder + "/cpu.cfs_quota_us") >> quota;
  std::ifstream(folder + "/cpu.cfs_period_us") >> period;
  return in_cores(quota, period);
}

// A quota holds for all groups inside. In a container the outer part of `path` may not be mounted; then nothing is read
// there, and the group's own files are those of the root.
uint32_t cores_of_path(const std::string& mount, std::string path) {
  uint32_t cores = cores_of_group(mount);
  while (path.size() > 1) {
    cores = std::min(cores, cores_of_group(mount + path));
    path.erase(path.rfind('/'));
  }
  return cores;
}

bool has_word(const std::string& list, const std::string& word) {
  return ("," + list + ",").find("," + word + ",") != std::string::npos;
}

}  // namespace

uint32_t cores_of_groups(const std::string& membership, const std::string& root) {
  uint32_t cores = UINT32_MAX;
  std::istringstream lines(membership);
  for (std::string line; std::getline(lines, line);) {  // "0::/user.slice" (version 2), "4:cpu,cpuacct:/docker/1f"
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos || line.compare(second + 1, 1, "/") != 0) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (controllers.empty()) {
      cores = std::min({cores, cores_of_path(root, path), cores_of_path(root + "/unified", path)});
    } else if (has_word(controllers, "cpu")) {
      cores = std::min({cores, cores_of_path(root + "/" + controllers, path), cores_of_path(root + "/cpu", path)});
    }
  }
  return cores;
}

uint32_t available_cores() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  uint32_t cores = std::max(1U, std::thread::hardware_concurrency());
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) cores = static_cast<uint32_t>(std::max(1, CPU_COUNT(&mask)));
  std::ostringstream membership;
  membership << std::ifstream("/proc/self/cgroup").rdbuf();
  return std::min(cores, cores_of_groups(membership.str(), "/sys/fs/cgroup"));
}

}  // namespace unify::host
