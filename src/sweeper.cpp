#include "src/sweeper.h"

#include <algorithm>
#include <utility>

#include "base/background_thread.h"

namespace daxfs {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kFirstPause{2};
constexpr milliseconds kLongestPause{1000};

}  // namespace

Sweeper::Sweeper(Look look)
    : look_(std::move(look)), thread_(background_thread("daxfs-sweeper", [this] { run(); })) {}

Sweeper::~Sweeper() { stop(); }

void Sweeper::begin() {
  {
    const MutexLock lock(mutex_);
    any_ = true;
    news_ = true;
  }
  attention_.notify_one();
}

void Sweeper::stop() {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
  }
  attention_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void Sweeper::run() {
  const MutexLock lock(mutex_);
  while (!stopping_) {
    if (!any_) {
      attention_.wait(mutex_);
      continue;
    }
    if (std::exchange(news_, false)) pause_ = kFirstPause;
    const auto until = std::chrono::steady_clock::now() + pause_;
    // Not at once where more comes all the time: one look is for all of them.
    while (!stopping_ && std::chrono::steady_clock::now() < until &&
           !(news_ && pause_ > kFirstPause)) {
      attention_.wait_until(mutex_, until);
    }
    if (stopping_) return;
    if (news_ && pause_ > kFirstPause) continue;
    pause_ = std::min(pause_ * 2, kLongestPause);
    bool over = false;
    {
      const MutexUnlock unlocked(mutex_);
      over = look_();
    }
    if (over && !news_) any_ = false;
  }
}

}  // namespace daxfs
