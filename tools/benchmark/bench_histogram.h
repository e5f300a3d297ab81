// Latencies in logarithmic buckets: constant memory, percentiles to within 1/128.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace daxfs::bench {

// Not thread-safe: one per thread, merged at the end.
class Histogram {
 public:
  void add(std::uint64_t nanoseconds) {
    ++buckets_[bucket(nanoseconds)];
    ++count_;
  }

  void merge(const Histogram& other) {
    for (std::size_t i = 0; i < kBuckets; ++i) buckets_[i] += other.buckets_[i];
    count_ += other.count_;
  }

  std::uint64_t count() const { return count_; }

  // The latency that `fraction` of the operations did not exceed (the middle of its bucket), 0 if
  // none.
  double percentile(double fraction) const {
    const auto wanted = static_cast<std::uint64_t>(fraction * static_cast<double>(count_));
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i < kBuckets; ++i) {
      seen += buckets_[i];
      if (buckets_[i] > 0 && seen >= wanted) return middle(i);
    }
    return 0;
  }

 private:
  // Values below kSteps have a bucket each; above, each power of two is divided into kSteps.
  static constexpr unsigned kStepBits = 6;
  static constexpr std::uint64_t kSteps = std::uint64_t{1} << kStepBits;
  static constexpr std::size_t kBuckets = std::size_t{64 - kStepBits + 1} << kStepBits;

  static std::size_t bucket(std::uint64_t value) {
    if (value < kSteps) return static_cast<std::size_t>(value);
    const auto shift = static_cast<unsigned>(std::bit_width(value)) - 1 - kStepBits;
    return static_cast<std::size_t>(((std::uint64_t{shift} + 1) << kStepBits) +
                                    ((value >> shift) - kSteps));
  }
  static double middle(std::size_t index) {
    if (index < kSteps) return static_cast<double>(index);
    const auto shift = static_cast<unsigned>(index >> kStepBits) - 1;
    const std::uint64_t low = (kSteps + (index & (kSteps - 1))) << shift;
    return static_cast<double>(low) + static_cast<double>(std::uint64_t{1} << shift) / 2;
  }

  std::array<std::uint64_t, kBuckets> buckets_ = {};
  std::uint64_t count_ = 0;
};

}  // namespace daxfs::bench
