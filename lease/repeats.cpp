#include "lease/repeats.h"

#include <algorithm>
#include <utility>

namespace daxfs {

void Repeats::lift(Saved& saved) {
  const auto fence = std::exchange(saved.place.fence, std::nullopt);
  if (!fence) return;
  --fences_;
  lift_(saved.place.arrival, *fence);
}

void Repeats::forget_oldest() {
  lift(saved_.front());
  saved_.pop_front();
}

void Repeats::forget_old(SteadyTime now) {
  while (!saved_.empty() && saved_.front().until <= now) forget_oldest();
}

bool Repeats::save(const Key& key, const Place& place, SteadyTime now) {
  if (key.process == 0) return false;
  const ProcessMark process =
      processes_.mark ? processes_.mark(key.process) : ProcessMark{.process = key.process};
  if (has_ended(process)) return false;
  forget_old(now);
  if (saved_.size() == kMost) forget_oldest();
  if (fences_ == 0) looked_ = now;
  if (place.fence) ++fences_;
  saved_.push_back({key, place, now + kKept, process});
  return true;
}

std::optional<Repeats::Place> Repeats::take(const Key& key, SteadyTime now) {
  forget_old(now);
  const auto found = std::find_if(saved_.begin(), saved_.end(),
                                  [&](const Saved& saved) { return saved.key == key; });
  if (found == saved_.end()) return std::nullopt;
  const Place place = found->place;
  if (place.fence) --fences_;
  saved_.erase(found);
  return place;
}

bool Repeats::has_ended(const ProcessMark& process) const {
  return processes_.has_ended && processes_.has_ended(process);
}

bool Repeats::give_up(Arrival fence, pid_t asks) {
  if (fences_ == 0) return false;
  const auto found = std::find_if(saved_.begin(), saved_.end(), [&](const Saved& saved) {
    return saved.place.fence && saved.place.arrival == fence;
  });
  if (found == saved_.end()) return false;
  if (found->key.process != asks && !has_ended(found->process)) return false;
  lift(*found);
  return true;
}

void Repeats::forget(InodeNumber inode) {
  const auto there = [&](const Saved& saved) { return saved.key.takes.inode == inode; };
  for (Saved& saved : saved_) {
    if (there(saved)) lift(saved);
  }
  std::erase_if(saved_, there);
}

std::vector<Repeats::Left> Repeats::to_look_at(SteadyTime now) {
  forget_old(now);
  std::vector<Left> left;
  if (fences_ == 0 || now - looked_ < kLook) return left;
  looked_ = now;
  left.reserve(fences_);
  for (const Saved& saved : saved_) {
    if (saved.place.fence) left.push_back({saved.place.arrival, saved.process});
  }
  return left;
}

void Repeats::lift_left(const Left& left) {
  const auto found = std::find_if(saved_.begin(), saved_.end(), [&](const Saved& saved) {
    return saved.place.arrival == left.fence && saved.process.same_process(left.process);
  });
  if (found != saved_.end()) lift(*found);
}

std::optional<SteadyTime> Repeats::next_look() const {
  if (fences_ == 0) return std::nullopt;
  return looked_ + kLook;
}

}  // namespace daxfs
