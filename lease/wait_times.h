// How long requests have waited at the gate, by policy: a histogram for metrics.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "lease/policy.h"

namespace daxfs {

// Not thread-safe (the gate's lock guards it).
class WaitTimes {
 public:
  using Duration = std::chrono::microseconds;
  // Upper bounds of the buckets; what took longer than the last is in one more.
  static constexpr std::array<Duration, 7> kBounds = {
      std::chrono::milliseconds(1),   std::chrono::milliseconds(10),
      std::chrono::milliseconds(100), std::chrono::milliseconds(1000),
      std::chrono::seconds(10),       std::chrono::seconds(60),
      std::chrono::seconds(600)};
  struct Histogram {
    std::array<std::uint64_t, kBounds.size() + 1> counts{};  // each bucket alone
    Duration sum{};
  };

  // A request that `policy` was in force for has waited for so long, whatever came of it.
  void add(PinPolicy policy, Duration waited) {
    Histogram& histogram = by_policy_[static_cast<std::size_t>(policy)];
    const auto bucket = std::lower_bound(kBounds.begin(), kBounds.end(), waited);
    ++histogram.counts[static_cast<std::size_t>(bucket - kBounds.begin())];
    histogram.sum += waited;
  }
  const Histogram& of(PinPolicy policy) const {
    return by_policy_[static_cast<std::size_t>(policy)];
  }

 private:
  std::array<Histogram, static_cast<std::size_t>(PinPolicy::ignore) + 1> by_policy_{};
};

}  // namespace daxfs
