#include "configure.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "calls.h"
#include "chips.h"
#include "report.h"
#include "simulator/front.h"

namespace unify::simulator {
namespace {

constexpr char kSettings[] = "UNIFY_SIMULATE";
constexpr char kFaults[] = "UNIFY_SIMULATED_FAULTS";
constexpr char kKind[] = "ascend:";

// With the mutex.
struct Environment {
  std::string wrong_settings;  // why UNIFY_SIMULATE cannot be followed
  std::string wrong_faults;
  bool is_configured = false;  // by a call: the environment's settings are not asked for
  bool has_faults = false;     // the devices that are there have its faults
};
Environment& environment() {
  static auto* const state = new Environment;
  return *state;
}

Settings settings_of(int chip) {
  Settings settings;
  settings.chip = chip;
  settings.name = std::string(chip_at(chip).soc) + " (simulated)";
  return settings;
}

std::vector<std::string> split(const std::string& text, char by) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(by, begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

// Digits alone, and few enough of them.
bool read_whole(const std::string& text, int& out) {
  if (text.empty() || text.size() > 6 || text.find_first_not_of("0123456789") != std::string::npos) return false;
  out = std::atoi(text.c_str());
  return true;
}

bool read_gib(const std::string& text, uint64_t& out) {
  if (text.size() < 2 || text.back() != 'g') return false;
  const std::string number = text.substr(0, text.size() - 1);
  if (number.find_first_not_of("0123456789.") != std::string::npos || number.front() == '.') return false;
  char* end = nullptr;
  const double gib = std::strtod(number.c_str(), &end);
  if (*end != 0 || gib > 1024) return false;
  out = static_cast<uint64_t>(gib * (uint64_t{1} << 30));
  return true;
}

// "ascend:910B3", "ascend:910B3x2", "ascend:910B3x2,64g".
bool read_settings(const std::string& text, Settings& out, std::string& why) {
  const size_t comma = text.find(',');
  std::string model = text.substr(std::strlen(kKind), comma == std::string::npos ? comma : comma - std::strlen(kKind));
  int count = 1;
  const size_t times = model.rfind('x');
  if (times != std::string::npos && read_whole(model.substr(times + 1), count)) model.resize(times);
  const int chip = find_chip(model);
  if (chip < 0) {
    why = "no chip is called '" + model + "'; known: " + known_chips();
    return false;
  }
  out = settings_of(chip);
  out.count = count;
  if (comma != std::string::npos && !read_gib(text.substr(comma + 1), out.memory_bytes)) {
    why = "say ascend:910B3, ascend:910B3x2 for two, or ascend:910B3x2,64g";
    return false;
  }
  return are_possible(out, why);
}

std::string quoted(const char* name, const std::string& text, const std::string& why) {
  return std::string(name) + "='" + text + "': " + why + ".";
}

// Plans the environment's faults for the devices that are there.
std::string plan_faults() {
  const std::string text = variable(kFaults);
  if (text.empty()) return {};
  for (const std::string& each : split(text, ';')) {
    const size_t colon = each.find(':');
    int number = 0;
    if (colon == std::string::npos || !read_whole(each.substr(0, colon), number)) {
      return quoted(kFaults, text, "'" + each + "' is not DEVICE:CALL:AFTER:WHAT or DEVICE:time:SECONDS:WHAT");
    }
    Device* device = find_device(number);
    if (device == nullptr) {
      return quoted(kFaults, text,
                    "there is no device " + std::to_string(number) + ", but " +
                        std::to_string(driver().devices.size()) + " from 0");
    }
    std::string why;
    if (!device->faults.add(each.substr(colon + 1), why)) return quoted(kFaults, text, why);
  }
  return {};
}

}  // namespace

std::string variable(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? "" : text;
}

Settings default_settings() {
  Settings settings = settings_of(find_chip("910B3"));
  for (const std::string& part : split(variable(kSettings), ';')) {
    if (part.compare(0, std::strlen(kKind), kKind) != 0) continue;  // another vendor's
    std::string why;
    if (!read_settings(part, settings, why)) environment().wrong_settings = quoted(kSettings, part, why);
  }
  return settings;
}

Result open_devices() {
  Environment& state = environment();
  if (!state.is_configured && !state.wrong_settings.empty()) {
    return refuse(ACL_ERROR_INVALID_PARAM, state.wrong_settings);
  }
  make_devices();
  if (!state.has_faults) {
    state.has_faults = true;
    state.wrong_faults = plan_faults();
    start_report();
  }
  return state.wrong_faults.empty() ? ACL_SUCCESS : refuse(ACL_ERROR_INVALID_PARAM, state.wrong_faults);
}

}  // namespace unify::simulator

using namespace unify::simulator;

UNIFY_SIMULATOR_EXPORT int unify_simulator_configure(int count, const char* name, uint64_t memory_bytes) {
  const int chip = find_chip(name == nullptr ? "" : name);
  if (chip < 0) {
    return fail_with("no chip is called '" + std::string(name == nullptr ? "" : name) + "'; known: " + known_chips());
  }
  Settings settings = settings_of(chip);
  settings.count = count;
  settings.memory_bytes = memory_bytes;
  {
    const Lock lock(driver().mutex);
    if (acl().contexts.size() > 0 && !(settings == driver().settings)) {
      return fail_with("a context is alive: configure before the first device is opened");
    }
    if (acl().contexts.size() > 0) return 0;
  }
  if (const int result = configure(settings); result != 0) return result;
  const Lock lock(driver().mutex);
  environment().is_configured = true;
  environment().has_faults = !driver().devices.empty() && environment().has_faults;
  return 0;
}
