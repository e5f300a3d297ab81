// The work of a holder while it holds: writing the pattern, generation after generation, and
// checking it.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <vector>

#include "blockmap/unique_fd.h"
#include "blockmap/units.h"
#include "tools/hold_options.h"
#include "tools/hold_pattern.h"
#include "tools/hold_pin.h"
#include "tools/hold_report.h"

namespace daxfs::hold {

// SIGINT and SIGTERM, blocked from construction on and received only here.
class StopRequest {
 public:
  StopRequest();
  // Waits so long at most; true once a signal has come.
  bool wait(std::chrono::milliseconds at_most);

 private:
  UniqueFd signals_;
  bool stopped_ = false;
};

// When to stop holding.
struct Schedule {
  using Clock = std::chrono::steady_clock;
  std::optional<Clock::time_point> round_end;
  // With the daemon gone there will be no further round: the mapping is then held until here.
  std::optional<Clock::time_point> overall_end;
  bool one_sweep = false;  // the round is over when every block has been checked once
};

// Visits 0 .. n-1 once each, in an order that differs from time to time, without a table of n
// entries.
class Shuffle {
 public:
  Shuffle(std::uint64_t n, std::mt19937_64& random);
  std::uint64_t at_start() const { return start_; }
  std::uint64_t after(std::uint64_t current) const { return (current + stride_) % n_; }

 private:
  std::uint64_t n_;
  std::uint64_t start_;
  std::uint64_t stride_;  // coprime to n
};

// One round: from taking possession of a pinned range to the last look at it. Not thread-safe.
class Worker {
 public:
  Worker(int file, const PinnedRange& pinned, const ByteRange& range, const Options& options,
         const Pattern& pattern, Report& report, Totals& totals);

  // The first generation is written (a read-only holder: the snapshot is taken).
  Outcome<void> begin();
  // Writes and checks until the schedule says enough or a stop is requested.
  void work(const Schedule& schedule, StopRequest& stop);
  // Every block is checked a last time.
  void finish();
  bool daemon_gone() const { return daemon_gone_; }

 private:
  struct Span {
    FileOffset at;
    std::size_t size;
  };
  Span span_of(std::uint64_t index) const;
  void visit(std::uint64_t index);
  void check(std::uint64_t index, Generation generation);
  void check_file(std::uint64_t index, Generation generation);
  void found(const Foreign& foreign, std::string_view seen_in);
  std::optional<Foreign> compare_with_expected(const Span& span, std::span<const std::byte> bytes,
                                               Generation generation) const;
  void start_sweep();
  void notice_daemon();

  const int file_;
  const PinnedRange& pinned_;
  const ByteRange range_;
  const FileRange blocks_;
  const Options& options_;
  const Pattern& pattern_;
  Report& report_;
  Totals& totals_;

  std::mt19937_64 random_;
  UniqueFd reader_;                  // --verify: opened while the pin is held, hence never stale
  std::vector<bool> detached_;       // --verify: blocks that the file no longer shows
  std::vector<std::byte> snapshot_;  // read-only holder: what must not change
  bool daemon_gone_ = false;

  // The sweep in progress writes generation_; the blocks that it has not visited yet hold the one
  // before.
  Generation generation_{1};
  Shuffle order_;
  std::uint64_t visited_ = 0;
  std::uint64_t next_ = 0;
};

}  // namespace daxfs::hold
