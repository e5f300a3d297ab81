#include "src/grace.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "blockmap/pinned_pages.h"
#include "blockmap/process_identity.h"
#include "lease/background_thread.h"

namespace daxfs {
namespace {

using std::chrono::milliseconds;

// How often it looks whether pages are pinned: soon at first, as most holders leave nothing behind.
constexpr milliseconds kFirstLook{5};
constexpr milliseconds kLongestSleep{500};

// Only of a process that is seen to be gone is it known that it submits nothing any more.
bool is_gone(pid_t process) {
  if (process <= 0) return false;
  const auto start = process_start_time(process);
  return !start && start.error().code == ESRCH;
}

}  // namespace

Grace::Grace(Gate& gate)
    : gate_(gate), thread_(background_thread("daxfs-grace", [this] { run(); })) {}

Grace::~Grace() { stop(); }

void Grace::stop() {
  {
    const std::lock_guard guard(mutex_);
    stopping_ = true;
  }
  attention_.notify_one();
  if (thread_.joinable()) thread_.join();
}

bool Grace::is_due(HolderId holder) const {
  if (gate_.options().exit_grace_ms == 0) return false;
  const auto processes = gate_.pin_processes(holder);
  return std::ranges::any_of(processes,
                             [](const auto& one) { return is_ending(one.first, one.second); });
}

void Grace::begin(HolderId holder, Ended ended) {
  Leaver leaver{.holder = holder,
                .processes = {},
                .since = std::chrono::steady_clock::now(),
                .ended = std::move(ended)};
  for (const auto& [process, last] : gate_.pin_processes(holder))
    leaver.processes.push_back(process);
  gate_.leave(holder);
  {
    const std::lock_guard guard(mutex_);
    leavers_.push_back(std::move(leaver));
    news_ = true;
  }
  attention_.notify_one();
}

std::optional<milliseconds> Grace::left(HolderId holder) const {
  const auto grace = milliseconds(gate_.options().exit_grace_ms);
  const std::lock_guard guard(mutex_);
  const auto found = std::ranges::find(leavers_, holder, &Leaver::holder);
  if (found == leavers_.end()) return std::nullopt;
  const auto passed = std::chrono::steady_clock::now() - found->since;
  return std::max(milliseconds(0), std::chrono::duration_cast<milliseconds>(grace - passed));
}

std::vector<Grace::Leaver> Grace::take_ended(SteadyTime now) {
  const auto grace = milliseconds(gate_.options().exit_grace_ms);
  // Asked after the processes were seen to be gone: what they had submitted was pinned by then.
  std::vector<bool> gone;
  for (const Leaver& leaver : leavers_) {
    gone.push_back(std::ranges::all_of(leaver.processes, is_gone));
  }
  const bool idle = std::ranges::count(gone, true) > 0 && no_page_is_pinned();
  std::vector<Leaver> ended;
  std::vector<Leaver> staying;
  for (std::size_t i = 0; i < leavers_.size(); ++i) {
    const bool over = (idle && gone[i]) || now - leavers_[i].since >= grace;
    (over ? ended : staying).push_back(std::move(leavers_[i]));
  }
  leavers_ = std::move(staying);
  return ended;
}

void Grace::run() {
  milliseconds sleep = kFirstLook;
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (leavers_.empty()) {
      attention_.wait(lock, [this] { return stopping_ || news_; });
    } else if (attention_.wait_for(lock, sleep, [this] { return stopping_ || news_; })) {
      // Somebody has come: look soon again.
    } else {
      sleep = std::min(sleep * 2, kLongestSleep);
    }
    if (stopping_) return;
    if (std::exchange(news_, false)) sleep = kFirstLook;
    std::vector<Leaver> ended = take_ended(std::chrono::steady_clock::now());
    lock.unlock();
    for (const Leaver& leaver : ended) leaver.ended(gate_.drop(leaver.holder));
    ended.clear();
    lock.lock();
  }
}

}  // namespace daxfs
