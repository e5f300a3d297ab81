#include "tools/progress_bar.h"

#include <fmt/format.h>

#include <cstdio>

namespace daxfs {
namespace {

constexpr auto kBeforeBar = std::chrono::seconds(1);
constexpr auto kStep = std::chrono::milliseconds(100);
constexpr int kWidth = 40;

}  // namespace

ProgressBar::ProgressBar(bool wanted, bool at_once) : wanted_(wanted) {
  if (!at_once) next_ += kBeforeBar;
}

void ProgressBar::show(std::string_view phase, std::uint64_t done, std::uint64_t total) {
  const auto now = Clock::now();
  if (!wanted_ || now < next_) return;
  next_ = now + kStep;
  const auto full = static_cast<int>(total == 0 ? kWidth : kWidth * done / total);
  fmt::print(stderr, "\r{:<14} [{:=<{}}{: <{}}] {} of {} ", phase, "", full, "", kWidth - full,
             done, total);
  std::fflush(stderr);
  shown_ = true;
}

void ProgressBar::clear() {
  if (shown_) fmt::print(stderr, "\r\033[K");
  shown_ = false;
}

}  // namespace daxfs
