#include "src/grace.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/background_thread.h"
#include "base/pinned_pages.h"

namespace daxfs {
namespace {

using std::chrono::milliseconds;

// How often it looks whether pages are pinned: soon at first, as most holders leave nothing behind.
constexpr milliseconds kFirstLook{5};
constexpr milliseconds kLongestSleep{500};

}  // namespace

Grace::Grace(Gate& gate, Locks locks)
    : gate_(gate),
      locks_(std::move(locks)),
      thread_(background_thread("daxfs-grace", [this] { run(); })) {}

Grace::~Grace() { stop(); }

void Grace::stop() {
  {
    const MutexLock guard(mutex_);
    stopping_ = true;
  }
  attention_.notify_one();
  if (thread_.joinable()) thread_.join();
}

bool Grace::is_mapped(HolderId holder, const PinLocked& locked) const {
  return locked &&
         std::ranges::any_of(gate_.pins_of(holder), [&](PinId pin) { return locked(pin.value); });
}

std::optional<Grace::Awaited> Grace::due(HolderId holder,
                                         std::span<const ProcessMark> users) const {
  Awaited ending;
  bool in_doubt = false;
  for (const ProcessMark& user : users) {
    const Ending how = how_ends(user);
    if (how == Ending::ending) ending.push_back(user);
    in_doubt = in_doubt || how == Ending::in_doubt;
  }
  if (ending.empty() && !in_doubt) return std::nullopt;
  if (is_mapped(holder, locks())) return ending;
  if (gate_.options().exit_grace_ms == 0) return std::nullopt;
  if (ending.empty() && no_page_is_pinned()) return std::nullopt;
  return ending;
}

void Grace::begin(HolderId holder, Awaited awaited, Ended ended) {
  gate_.leave(holder);
  {
    const MutexLock guard(mutex_);
    leavers_.push_back({.holder = holder,
                        .awaited = std::move(awaited),
                        .since = std::chrono::steady_clock::now(),
                        .ended = std::move(ended)});
    news_ = true;
  }
  attention_.notify_one();
}

std::optional<milliseconds> Grace::left(HolderId holder) const {
  const auto grace = milliseconds(gate_.options().exit_grace_ms);
  const MutexLock guard(mutex_);
  const auto found = std::ranges::find(leavers_, holder, &Leaver::holder);
  if (found == leavers_.end()) return std::nullopt;
  const auto passed = std::chrono::steady_clock::now() - found->since;
  return std::max(milliseconds(0), std::chrono::duration_cast<milliseconds>(grace - passed));
}

std::vector<Grace::Leaver> Grace::take_ended() {
  struct Look {
    HolderId holder;
    Awaited awaited;
    bool over = false;
    bool mapped = false;
  };
  std::vector<Look> looks;
  for (const Leaver& leaver : leavers_) looks.push_back({leaver.holder, leaver.awaited});
  milliseconds grace{};
  {
    const MutexUnlock unlocked(mutex_);
    // The pages after the processes: what they had submitted was pinned by then.
    for (Look& look : looks) look.over = std::ranges::all_of(look.awaited, is_gone);
    const bool at_rest = std::ranges::any_of(looks, &Look::over) && no_page_is_pinned();
    const PinLocked locked = looks.empty() ? PinLocked() : locks();
    for (Look& look : looks) {
      look.over = look.over && at_rest;
      look.mapped = is_mapped(look.holder, locked);
    }
    grace = milliseconds(gate_.options().exit_grace_ms);
  }
  const auto now = std::chrono::steady_clock::now();
  const auto stays = [&](const Leaver& leaver) {
    const auto look = std::ranges::find(looks, leaver.holder, &Look::holder);
    if (look == looks.end() || look->mapped) return true;  // it has come meanwhile, or is in use
    return !look->over && now - leaver.since < grace;
  };
  const auto ended = std::ranges::stable_partition(leavers_, stays);
  std::vector<Leaver> out(std::make_move_iterator(ended.begin()),
                          std::make_move_iterator(ended.end()));
  leavers_.erase(ended.begin(), ended.end());
  return out;
}

bool Grace::rest() {
  const auto until = std::chrono::steady_clock::now() + sleep_;
  while (!stopping_ && !news_) {
    if (leavers_.empty()) {
      attention_.wait(mutex_);
    } else if (std::chrono::steady_clock::now() < until) {
      attention_.wait_until(mutex_, until);
    } else {
      sleep_ = std::min(sleep_ * 2, kLongestSleep);
      break;
    }
  }
  if (std::exchange(news_, false)) sleep_ = kFirstLook;
  return !stopping_;
}

void Grace::run() {
  const MutexLock lock(mutex_);
  while (rest()) {
    std::vector<Leaver> ended = take_ended();
    const MutexUnlock unlocked(mutex_);
    for (const Leaver& leaver : ended) leaver.ended(gate_.drop(leaver.holder));
    ended.clear();
  }
}

}  // namespace daxfs
