// A bar on standard error for work that takes long.
#pragma once

#include <chrono>
#include <cstdint>
#include <string_view>

namespace daxfs {

class ProgressBar {
 public:
  // Without `at_once` it appears when the work has taken a second.
  ProgressBar(bool wanted, bool at_once);
  void show(std::string_view phase, std::uint64_t done, std::uint64_t total);
  void clear();  // takes it away

 private:
  using Clock = std::chrono::steady_clock;

  const bool wanted_;
  Clock::time_point next_ = Clock::now();
  bool shown_ = false;
};

}  // namespace daxfs
