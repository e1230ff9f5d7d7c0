// A wait on the device.
#include <chrono>
#include <thread>

#include "operator.h"

using namespace unify::operators;

namespace {

constexpr double kCyclesPerSecond = 1.65e9;  // of a 950: aclnnSleep's documentation

void sleep(const Ints& cycles) {
  TORCH_CHECK(cycles.size() == 1 && cycles[0] > 0, "one number of cycles above 0 is wanted, not ", cycles, ".");
  std::this_thread::sleep_for(std::chrono::duration<double>(static_cast<double>(cycles[0]) / kCyclesPerSecond));
}

}  // namespace

OPERATOR(aclnnSleep, (Ints cycles), sleep(cycles))
