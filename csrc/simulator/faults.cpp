#include "faults.h"

#include <cerrno>
#include <cstdlib>

#include "front.h"

namespace unify::simulator {
namespace {

bool read_fault(const std::string& text, Fault& out) {
  if (text == "lost") {
    out.kind = Fault::Kind::kLost;
    return true;
  }
  if (text == "hang") {
    out.kind = Fault::Kind::kHang;
    return true;
  }
  if (text == "corrupt") {
    out.kind = Fault::Kind::kCorrupt;
    out.bits = 1;
    return true;
  }
  if (!find_result(text, out.result)) return false;
  out.kind = Fault::Kind::kResult;
  return true;
}

bool read_number(const std::string& text, double& out) {
  char* end = nullptr;
  errno = 0;
  out = std::strtod(text.c_str(), &end);
  return !text.empty() && *end == 0 && errno == 0 && out >= 0 && out < 1e15;
}

}  // namespace

bool Faults::add(const std::string& plan, std::string& why) {
  const size_t first = plan.find(':');
  const size_t second = first == std::string::npos ? first : plan.find(':', first + 1);
  if (second == std::string::npos) {
    why = "the plan '" + plan + "' is not CALL:AFTER:WHAT or time:SECONDS:WHAT";
    return false;
  }
  Plan made;
  made.text = plan;
  made.call = plan.substr(0, first);
  const std::string number = plan.substr(first + 1, second - first - 1);
  double value = 0;
  if (made.call.empty() || !read_number(number, value)) {
    why = "in the plan '" + plan + "', '" + number + "' is not a number from 0";
    return false;
  }
  const std::string what = plan.substr(second + 1);
  if (!read_fault(what, made.fault)) {
    why = "in the plan '" + plan + "', '" + what + "' is neither " + known_faults();
    return false;
  }
  if (made.call == "time") {
    made.call.clear();
    made.due = Clock::now() + std::chrono::microseconds(static_cast<int64_t>(value * 1e6));
  } else {
    made.after = static_cast<uint64_t>(value);
  }
  plans_.push_back(made);
  return true;
}

Fault Faults::take(const char* call) {
  Fault fault;
  for (auto plan = plans_.begin(); plan != plans_.end();) {
    const bool is_meant = plan->call == call || plan->call == "*";
    if (is_meant && plan->after == 0 && fault.kind == Fault::Kind::kNone) {
      fault = plan->fault;
      plan = plans_.erase(plan);
      continue;
    }
    if (is_meant && plan->after > 0) --plan->after;
    ++plan;
  }
  return fault;
}

Fault Faults::take_due() {
  for (auto plan = plans_.begin(); plan != plans_.end(); ++plan) {
    if (!plan->call.empty() || plan->due > Clock::now()) continue;
    const Fault fault = plan->fault;
    plans_.erase(plan);
    return fault;
  }
  return {};
}

std::vector<std::string> Faults::left() const {
  std::vector<std::string> texts;
  for (const Plan& plan : plans_) texts.push_back(plan.text);
  return texts;
}

}  // namespace unify::simulator
