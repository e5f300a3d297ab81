// What the gate remembers of interrupted requests, so that who repeats one goes on where it was.
#pragma once

#include <chrono>
#include <cstddef>
#include <deque>
#include <optional>

#include "lease/fences.h"
#include "lease/requests.h"

namespace daxfs {

class DetachPolicy;

// For how long a request has been waiting, and for what.
struct Progress {
  std::optional<SteadyTime> first_judged = std::nullopt;
  bool shorts_are_long = false;               // short_timeout has passed: for good
  const DetachPolicy* waits_under = nullptr;  // the policy that parked it, and since when
  SteadyTime waits_since{};
};

// Not thread-safe (the gate's lock guards it). Python, Go and many a program in C repeat what fails
// with EINTR: with a timer that ticks every second, a request would otherwise never reach a
// deadline.
class Repeats {
 public:
  // What makes two requests the same one. The thread does not matter, the file's blocks neither.
  struct Key {
    DetachReason reason = DetachReason::punch;
    pid_t process = 0;
    Fences::Fence takes;
    std::optional<HolderId> holder;
    bool operator==(const Key&) const = default;
  };

  static constexpr std::chrono::seconds kKept{10};
  static constexpr std::size_t kMost = 1024;  // the oldest are forgotten first

  // Nobody knows who process 0 is: nothing is remembered of it.
  void save(const Key& key, const Progress& progress, SteadyTime now);
  // The oldest that fits; it is taken out.
  std::optional<Progress> take(const Key& key, SteadyTime now);
  std::size_t size() const { return saved_.size(); }

 private:
  struct Saved {
    Key key;
    Progress progress;
    SteadyTime until;
  };
  void forget_old(SteadyTime now);

  std::deque<Saved> saved_;  // by age
};

}  // namespace daxfs
