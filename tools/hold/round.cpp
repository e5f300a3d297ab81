#include "tools/hold/round.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "client/daxfs.h"

namespace daxfs::hold {
namespace {

constexpr std::chrono::milliseconds kFirstLook(200);
constexpr std::chrono::milliseconds kSlowestLook(2000);

}  // namespace

Round::Round(File& file, const Options& options, const ByteRange& range, const Pattern& pattern,
             Engine* engine, Watch& watch, Report& report, Totals& totals)
    : file_(file),
      options_(options),
      range_(range),
      pattern_(pattern),
      engine_(engine),
      watch_(watch),
      report_(report),
      totals_(totals),
      leases_(file.get(), options) {}

Round::~Round() {
  // Before the memory goes, whatever went wrong.
  if (engine_ != nullptr) engine_->forget();
}

Outcome<void> Round::take() {
  const Clock::time_point begin = Clock::now();
  std::uint64_t lease = 0;
  // A detach that comes between lease and pins waits for the lease, and the pins would wait for it:
  // so all is given back, and the next try queues with nothing in hand.
  while (!pinned_) {
    if (options_.lease) {
      auto taken = leases_.take(covering(range_.begin, range_.length));
      if (!taken) return std::unexpected(taken.error());
      lease = *taken;
    }
    auto pinned = PinnedRange::take(file_.get(), range_, options_, !options_.lease);
    if (!pinned) return std::unexpected(pinned.error());
    if (*pinned) {
      pinned_.emplace(std::move(**pinned));
    } else if (auto released = leases_.release(); !released) {
      return released;
    }
  }
  const std::chrono::duration<double> took = Clock::now() - begin;
  worker_.emplace(file_.get(), *pinned_, range_, options_, pattern_, engine_, report_, totals_);
  if (auto begun = worker_->begin(); !begun) return begun;
  if (auto remembered = remember(); !remembered) return remembered;
  report_.held({.pin = pinned_->first_id(),
                .pins = options_.pins,
                .range = range_,
                .extents = pinned_->extents(),
                .lease = lease,
                .took = took},
               pattern_.holder());
  return {};
}

Outcome<void> Round::work(const Schedule& schedule) {
  for (;;) {
    const auto swept = worker_->step();
    if (!swept) return std::unexpected(swept.error());
    const Clock::time_point now = Clock::now();
    const auto& end = daemon_gone_ ? schedule.overall_end : schedule.round_end;
    if (end && now >= *end) return {};
    const bool one_sweep = schedule.one_sweep && !daemon_gone_;
    if (one_sweep && *swept) return {};
    auto pause = options_.interval;
    if (end) pause = std::min(pause, std::chrono::ceil<std::chrono::milliseconds>(*end - now));
    if (one_sweep) pause = std::chrono::milliseconds(0);

    const Watch::Seen seen = watch_.wait(pause);
    if (seen.stop) {
      stopped_ = true;
      return {};
    }
    if (seen.daemon_gone) lose_daemon();
    if (seen.news && !daemon_gone_) {
      if (auto read = read_news(); !read) return read;
      if (pinned_->left() == 0) {
        report_.nothing_left();
        return {};
      }
    }
    if (next_look_ && now >= *next_look_) look_for_daemon();
  }
}

Outcome<void> Round::release() {
  worker_->finish();
  if (engine_ != nullptr) engine_->forget();
  if (auto released = pinned_->release(); !released) return released;
  return leases_.release();
}

Outcome<void> Round::read_news() {
  daxfs_event event = {};
  while (daxfs_next_event(file_.get(), &event) == 0) {
    const Report::Answer answer = answer_to(event);
    report_.told(event, answer);
    if (event.type == DAXFS_EVENT_REVOKED) leases_.revoked(event.lease_id);
    if (event.type != DAXFS_EVENT_BREAK || answer != Report::Answer::gives_way) continue;
    const FileRange asked = covering(FileOffset(event.offset), ByteCount(event.length));
    if (auto gone = give_way(asked); !gone) return gone;
  }
  return {};
}

// News can be old: of a holder that was stopped, say. If the request has ended meanwhile, giving
// way would help nobody. One that comes after this look is told again.
Report::Answer Round::answer_to(const daxfs_event& event) const {
  if (options_.ignore_breaks) return Report::Answer::ignores;
  if (event.type == DAXFS_EVENT_BREAK && !leases_.is_asked_for(event.lease_id))
    return Report::Answer::too_late;
  return Report::Answer::gives_way;
}

Outcome<void> Round::give_way(FileRange asked) {
  const FileRange range = leases_.split_at(pinned_->whole_pins(asked));
  if (range.empty()) return {};
  worker_->leave(range);
  if (engine_ != nullptr) engine_->forget();
  const auto pins = pinned_->give_up(range);
  if (!pins) return std::unexpected(pins.error());
  if (auto given = leases_.give_up(range); !given) return given;
  if (*pins > 0) report_.gave_up(range, *pins, pinned_->left());
  return remember();
}

Outcome<void> Round::remember() {
  if (engine_ == nullptr || pinned_->left() == 0) return {};
  return engine_->remember(pinned_->memory());
}

void Round::lose_daemon() {
  report_.daemon_gone(options_.short_term);
  daemon_gone_ = true;
  leases_.forget();
  worker_->close_reader();
  file_.forsake();
  if (options_.short_term) return;
  look_period_ = kFirstLook;
  next_look_ = Clock::now() + look_period_;
}

void Round::look_for_daemon() {
  look_period_ = std::min<Clock::duration>(look_period_ * 3 / 2, kSlowestLook);
  next_look_ = Clock::now() + look_period_;
  const UniqueFd fresh = file_.find_again();
  if (!fresh) return;
  const auto adopted = pinned_->adopt(fresh.get());
  // It has died again: the next one may come.
  if (!adopted) return;
  next_look_.reset();
  if (*adopted == 0) {
    report_.note(
        {fmt::format(
             "{}: the daemon is back and gives this process none of these pins: "
             "another file is at this path, the pool was made anew, or the daemon cannot see "
             "whose they are (it lives in another pid namespace; daxfsctl pins shows them "
             "then); still holding the mapping",
             options_.path),
         ENOENT});
    return;
  }
  file_.replace(fresh);
  daemon_gone_ = false;
  watch_.add(file_.get());
  const auto leases = lease_again();
  report_.adopted(*adopted, pinned_->left(), leases.value_or(0));
  if (!leases) report_.note(leases.error());
  if (auto opened = worker_->open_reader(); !opened) report_.note(opened.error());
}

Outcome<std::uint64_t> Round::lease_again() {
  if (!options_.lease) return 0;
  const std::vector<FileRange> held = pinned_->held();
  for (const FileRange& run : held) {
    if (auto taken = leases_.take(run); !taken) return std::unexpected(taken.error());
  }
  return held.size();
}

}  // namespace daxfs::hold
