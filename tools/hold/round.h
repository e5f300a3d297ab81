// One round of holding: lease, pins, mapping, work, and whatever comes in between: breaks of the
// lease, the death of the daemon, its return.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>

#include "base/result.h"
#include "tools/hold/engine.h"
#include "tools/hold/file.h"
#include "tools/hold/lease.h"
#include "tools/hold/options.h"
#include "tools/hold/pattern.h"
#include "tools/hold/pin.h"
#include "tools/hold/report.h"
#include "tools/hold/watch.h"
#include "tools/hold/worker.h"

namespace daxfs::hold {

// When to stop holding.
struct Schedule {
  using Clock = std::chrono::steady_clock;
  std::optional<Clock::time_point> round_end;
  // With the daemon gone there will be no further round: the mapping is then held until here.
  std::optional<Clock::time_point> overall_end;
  bool one_sweep = false;  // the round is over when every block has been checked once
};

// Used once. Not thread-safe.
class Round {
 public:
  // All of them outlive it. `engine` may be null.
  Round(File& file, const Options& options, const ByteRange& range, const Pattern& pattern,
        Engine* engine, Watch& watch, Report& report, Totals& totals);
  ~Round();
  Round(const Round&) = delete;
  Round& operator=(const Round&) = delete;

  Outcome<void> take();
  Outcome<void> work(const Schedule& schedule);
  Outcome<void> release();

  // There is nothing for a further round to hold, or nobody to hold it from.
  bool was_last() const { return stopped_ || daemon_gone_ || pinned_->left() == 0; }

 private:
  using Clock = Schedule::Clock;
  Outcome<void> read_news();
  Report::Answer answer_to(const daxfs_event& event) const;
  Outcome<void> give_way(FileRange asked);
  Outcome<void> remember();
  void lose_daemon();
  void look_for_daemon();
  Outcome<std::uint64_t> lease_again();

  File& file_;
  const Options& options_;
  const ByteRange range_;
  const Pattern& pattern_;
  Engine* const engine_;
  Watch& watch_;
  Report& report_;
  Totals& totals_;

  Leases leases_;
  std::optional<PinnedRange> pinned_;
  std::optional<Worker> worker_;
  bool stopped_ = false;
  bool daemon_gone_ = false;
  // With the daemon gone: when to look for a new one; nothing: not at all.
  std::optional<Clock::time_point> next_look_;
  Clock::duration look_period_{};
};

}  // namespace daxfs::hold
