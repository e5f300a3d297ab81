#include "lease/repeats.h"

#include <algorithm>

namespace daxfs {

void Repeats::forget_old(SteadyTime now) {
  while (!saved_.empty() && saved_.front().until <= now) saved_.pop_front();
}

void Repeats::save(const Key& key, const Progress& progress, SteadyTime now) {
  if (key.process == 0) return;
  forget_old(now);
  if (saved_.size() == kMost) saved_.pop_front();
  saved_.push_back({key, progress, now + kKept});
}

std::optional<Progress> Repeats::take(const Key& key, SteadyTime now) {
  if (saved_.empty()) return std::nullopt;
  forget_old(now);
  const auto found = std::find_if(saved_.begin(), saved_.end(),
                                  [&](const Saved& saved) { return saved.key == key; });
  if (found == saved_.end()) return std::nullopt;
  const Progress progress = found->progress;
  saved_.erase(found);
  return progress;
}

}  // namespace daxfs
