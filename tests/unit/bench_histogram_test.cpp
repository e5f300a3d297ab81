#include "tools/benchmark/bench_histogram.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "tests/unit/catch.h"

using daxfs::bench::Histogram;

TEST_CASE("an empty histogram has no percentiles") {
  const Histogram histogram;
  CHECK(histogram.count() == 0);
  CHECK(histogram.percentile(0.5) == 0);
}

TEST_CASE("every latency, from zero to the largest, is found again to within 1/128") {
  std::vector<std::uint64_t> values = {0, 1, 63, 64, 65, UINT64_MAX};
  for (unsigned bit = 1; bit < 64; ++bit) {
    const std::uint64_t power = std::uint64_t{1} << bit;
    values.insert(values.end(), {power - 1, power, power + 1});
  }
  for (const std::uint64_t value : values) {
    Histogram histogram;
    histogram.add(value);
    const auto exact = static_cast<double>(value);
    CAPTURE(value);
    CHECK(std::abs(histogram.percentile(0.5) - exact) <= exact / 128 + 0.5);
  }
}

TEST_CASE("percentiles agree with sorting, also after a merge") {
  std::mt19937_64 random(5);
  std::lognormal_distribution<double> latency(9, 1.5);
  Histogram merged;
  std::vector<std::uint64_t> all;
  for (int thread = 0; thread < 3; ++thread) {
    Histogram mine;
    for (int i = 0; i < 5000; ++i) {
      const auto value = static_cast<std::uint64_t>(latency(random));
      mine.add(value);
      all.push_back(value);
    }
    merged.merge(mine);
  }
  std::sort(all.begin(), all.end());
  CHECK(merged.count() == all.size());
  for (const double fraction : {0.01, 0.5, 0.9, 0.99}) {
    const auto index = static_cast<std::size_t>(fraction * static_cast<double>(all.size())) - 1;
    const auto exact = static_cast<double>(all[index]);
    CAPTURE(fraction);
    CHECK(std::abs(merged.percentile(fraction) - exact) <= exact / 128 + 0.5);
  }
}
