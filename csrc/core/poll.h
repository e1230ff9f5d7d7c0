// Waiting with a time limit, by asking again and again: not every vendor can wait for a while only.
#pragma once

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>

#include "error.h"

namespace unify {

// Asks `is_done` until it says true. Throws Timeout naming the device and `what` after `timeout_s` seconds.
template <typename Question>
void poll_until(double timeout_s, const std::string& device, const std::string& what, Question is_done) {
  const auto start = std::chrono::steady_clock::now();
  std::chrono::microseconds pause{0};
  while (!is_done()) {
    if (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() >= timeout_s) {
      Error error(ErrorKind::kTimeout, device + ", " + what + " was not done after " + std::to_string(timeout_s) +
                                           " s. It goes on; wait again, or see what its stream does.");
      error.device = device;
      throw error;
    }
    std::this_thread::sleep_for(pause);
    pause = std::min(pause + std::chrono::microseconds(10), std::chrono::microseconds(1000));
  }
}

}  // namespace unify
