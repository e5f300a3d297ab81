// fsck.daxfs: checks a pool that is not mounted, and repairs it.
#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <exception>
#include <iostream>
#include <string>

#include "blockmap/fsck/fsck.h"
#include "blockmap/medium/pool.h"
#include "blockmap/medium/pool_lock.h"
#include "blockmap/medium/private_medium.h"
#include "blockmap/pin_lock.h"
#include "tools/fsck/options.h"
#include "tools/fsck/print.h"
#include "tools/standard_streams.h"

namespace daxfs {
namespace {

using fsck::Report;
using fsck::Severity;
using Repair = FsckOptions::Repair;

// fsck(8)
constexpr int kClean = 0;
constexpr int kCorrected = 1;
constexpr int kUncorrected = 4;
constexpr int kFailed = 8;
constexpr int kCancelled = 32;

std::atomic<bool> cancelled{false};
static_assert(std::atomic<bool>::is_always_lock_free);

void on_signal(int) { cancelled.store(true, std::memory_order_relaxed); }

int complain(const std::string& text, int code) {
  fmt::print(stderr, "fsck.daxfs: {}\n", text);
  return code;
}

int exit_code(const Report& report, const FsckOptions& options) {
  if (report.cancelled) return kCancelled;
  if (report.left != 0) return kUncorrected;
  if (options.repair == Repair::nothing) return report.damaged() ? kUncorrected : kClean;
  return report.fixed != 0 ? kCorrected : kClean;
}

class Command {
 public:
  explicit Command(const FsckOptions& options) : options_(options), progress_(options) {}

  int run() {
    auto pool = Pool::open(options_.pool, {.read_only = options_.repair == Repair::nothing,
                                           .lock_timeout_seconds = kFormerUserSeconds,
                                           .on_wait = [](const std::string& path) {
                                             fmt::print(stderr, "fsck.daxfs: {}: {}\n", path,
                                                        kFormerUserText);
                                           }});
    if (!pool) return complain(pool.error().text, kFailed);
    pool_ = std::move(*pool);
    const bool safe_only = options_.repair == Repair::safe || options_.repair == Repair::ask;
    auto report = check(safe_only ? Severity::repairable : Severity::loss,
                        options_.repair == Repair::nothing);
    if (!report) return complain(report.error().text, kFailed);
    if (options_.repair == Repair::ask && needs_an_answer(*report)) {
      if (auto answered = ask(); !answered) {
        return complain(answered.error().text, kFailed);
      } else if (*answered) {
        report = check(Severity::loss, false);
        if (!report) return complain(report.error().text, kFailed);
        asked_ = true;
      }
    }
    return tell(*report);
  }

 private:
  // only_look: repairs in DRAM, so that what comes behind it is found as well.
  Outcome<Report> check(Severity repair_up_to, bool only_look) {
    fsck::Options options;
    options.repair_up_to = repair_up_to;
    options.private_copy = only_look;
    options.progress = &progress_;
    options.cancelled = &cancelled;
    options.locked = pin_locks_of(pool_->descriptor());
    options.next_data = [this](PoolOffset from) { return next_data(from); };
    std::unique_ptr<PrivateMedium> copy;
    if (only_look) {
      auto mapped = PrivateMedium::map(pool_->descriptor(), pool_->path(), pool_->medium().size());
      if (!mapped) return std::unexpected(std::move(mapped.error()));
      copy = std::move(*mapped);
    }
    auto report = fsck::check_and_repair(copy ? *copy : pool_->medium(), pool_->path(), options);
    progress_.clear();
    return report;
  }

  // A device has no holes, and does not know the question.
  PoolOffset next_data(PoolOffset from) const {
    const off_t at = ::lseek(pool_->descriptor(), static_cast<off_t>(from.value), SEEK_DATA);
    if (at >= 0) return PoolOffset(static_cast<std::uint64_t>(at));
    return errno == ENXIO ? PoolOffset(pool_->medium().size().value) : from;
  }

  bool needs_an_answer(const Report& report) const {
    return report.left != 0 && report.count(Severity::fatal) == 0 && !report.cancelled &&
           ::isatty(STDIN_FILENO) == 1 && ::isatty(STDOUT_FILENO) == 1;
  }

  // Shows all that a repair would do, since the safe one had to stop at the first pass.
  Outcome<bool> ask() {
    FsckOptions look = options_;
    look.repair = Repair::nothing;
    auto would = check(Severity::loss, true);
    if (!would) return std::unexpected(std::move(would.error()));
    print_findings(*would, look);
    fmt::print("{}: {} repairs lose something. Make them? [y/N] ", pool_->path(),
               would->count(Severity::loss));
    std::fflush(stdout);
    std::string answer;
    return std::getline(std::cin, answer) && (answer == "y" || answer == "Y" || answer == "yes");
  }

  int tell(const Report& report) {
    int code = exit_code(report, options_);
    if (asked_ && code == kClean) code = kCorrected;
    if (options_.json) {
      print_json(report, options_, pool_->path(), code);
    } else {
      print_findings(report, options_);
      std::fflush(stdout);
      print_summary(report, options_, pool_->path());
    }
    return code;
  }

  const FsckOptions options_;
  FsckProgress progress_;
  std::unique_ptr<Pool> pool_;
  bool asked_ = false;
};

}  // namespace
}  // namespace daxfs

int main(int argc, char** argv) try {
  daxfs::occupy_standard_streams();
  const auto options = daxfs::parse_fsck_options(argc, argv);
  if (!options) return options.error();
  struct sigaction action {};
  action.sa_handler = daxfs::on_signal;
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::sigaction(signal, &action, nullptr);
  return daxfs::Command(*options).run();
} catch (const std::bad_alloc&) {
  return daxfs::complain("not enough memory; free some and run it again", daxfs::kFailed);
} catch (const std::exception& error) {
  return daxfs::complain(error.what(), daxfs::kFailed);
}
