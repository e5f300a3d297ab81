// What the gate remembers of interrupted requests, so that a repetition goes on where the request
// was: with its deadlines, and its place in the queue.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "base/process_end.h"
#include "lease/fences.h"
#include "lease/requests.h"

namespace daxfs {

// For how long a request has been waiting, and for what.
struct Progress {
  std::optional<SteadyTime> first_judged = std::nullopt;
  bool shorts_are_long = false;          // short_timeout has passed: for good
  std::optional<PinPolicy> waits_under;  // the policy that parked it, and since when that does
  SteadyTime under_it_since{};
  SteadyTime latest = SteadyTime::max();  // GateHooks::latest
};

// Not thread-safe (the gate's lock guards it). Python, Go and many a program in C repeat what fails
// with EINTR: with a timer that ticks every second, a request would otherwise never reach a
// deadline, and always be the newest.
class Repeats {
 public:
  enum class What : std::uint8_t { detach, pin, lease };
  // What makes two requests the same one. The thread does not matter, the file's blocks neither.
  struct Key {
    What what = What::detach;
    DetachReason reason = DetachReason::punch;  // of a detach
    pid_t process = 0;
    Fences::Fence takes;
    std::optional<HolderId> holder;
    bool operator==(const Key&) const = default;
  };
  struct Place {
    Arrival arrival = 0;
    std::optional<Fences::Fence> fence;  // a detach's: it stands on
    Progress progress;
  };
  // Ends a fence that has been left.
  using Lift = std::function<void(Arrival, const Fences::Fence&)>;
  // How a process is now (null: its number says it all), and whether one that was so has ended
  // (null: none has). What the clock says is of no help: it may be set.
  struct Processes {
    std::function<ProcessMark(pid_t)> mark;
    std::function<bool(const ProcessMark&)> has_ended;
  };

  static constexpr std::chrono::seconds kKept{10};
  static constexpr std::size_t kMost = 1024;  // the oldest are forgotten first
  static constexpr std::chrono::milliseconds kLook{100};

  Repeats(Lift lift, Processes processes)
      : lift_(std::move(lift)), processes_(std::move(processes)) {}

  // Whether it is remembered, and has the fence from now on: nobody knows who process 0 is, and one
  // that has ended repeats nothing.
  bool save(const Key& key, const Place& place, SteadyTime now);
  // The oldest that fits; it is taken out. Its fence goes with it.
  std::optional<Place> take(const Key& key, SteadyTime now);
  // Lifts this fence if it is one that an interrupted request has left, and its process has ended,
  // or is the one that asks for something else there. Whether it did.
  bool give_up(Arrival fence, pid_t asks);
  // The file is no more; its number can be another's.
  void forget(InodeNumber inode);
  // A fence that an interrupted request has left.
  struct Left {
    Arrival fence = 0;
    ProcessMark process;
  };
  // Forgets what is too old. From time to time gives all fences that are left: of these the caller
  // finds out, without the gate's lock, whose processes have ended, and then lifts them.
  std::vector<Left> to_look_at(SteadyTime now);
  // Unless a repetition has taken it over meanwhile.
  void lift_left(const Left& left);
  // When to look again: fences hold up others.
  std::optional<SteadyTime> next_look() const;
  bool empty() const { return saved_.empty(); }
  std::size_t size() const { return saved_.size(); }  // for tests

 private:
  struct Saved {
    Key key;
    Place place;
    SteadyTime until;
    ProcessMark process;  // when it was interrupted
  };
  void forget_old(SteadyTime now);
  void forget_oldest();
  void lift(Saved& saved);
  bool has_ended(const ProcessMark& process) const;

  const Lift lift_;
  const Processes processes_;
  std::deque<Saved> saved_;  // by age
  std::size_t fences_ = 0;   // how many have one
  SteadyTime looked_{};
};

}  // namespace daxfs
