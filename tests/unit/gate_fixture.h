// What the gate's tests have in common: a gate whose freed blocks and woken requests are recorded.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <stdexcept>
#include <vector>

#include "lease/gate.h"
#include "tests/unit/gate_settle.h"

namespace daxfs::test {

constexpr PoolRange blocks(std::uint64_t start, std::uint64_t count) {
  return {PoolBlock(start), BlockCount(count)};
}
constexpr FileRange in_file(std::uint64_t start, std::uint64_t count) {
  return {FileBlock(start), BlockCount(count)};
}
inline constexpr std::uint64_t kHour = 3600 * 1000;

// Numbers of requests whose continuation has come, in order.
class Woken {
 public:
  void push(int request) {
    const std::lock_guard lock(mutex_);
    requests_.push_back(request);
    arrived_.notify_all();
  }
  // The next one; nothing if none comes in a time that means "never".
  std::optional<int> next() {
    std::unique_lock lock(mutex_);
    if (!arrived_.wait_for(lock, std::chrono::seconds(60), [&] { return !requests_.empty(); })) {
      return std::nullopt;
    }
    const int request = requests_.front();
    requests_.pop_front();
    return request;
  }
  bool none() const {
    const std::lock_guard lock(mutex_);
    return requests_.empty();
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<int> requests_;
};

// What pin() answered. (GCC 12 cannot compare an expected optional.)
inline bool granted(const Result<std::optional<PinId>>& result) { return result && *result; }
inline bool parked(const Result<std::optional<PinId>>& result) { return result && !*result; }
inline bool failed(const Result<std::optional<PinId>>& result, int code) {
  return !result && result.error().code == code;
}

// A gate over a pool in which nobody keeps the books but the test. Continuations only report; the
// test itself tries again, so that it decides what happens when.
class GateFixture {
 public:
  static constexpr PoolRange kSentinel{PoolBlock(1'000'000), BlockCount(1)};

  explicit GateFixture(GateOptions options = {.short_timeout_ms = kHour})
      : gate(options, {.free_blocks = [this](std::span<const PoolRange> ranges) {
               const std::lock_guard lock(mutex_);
               for (const PoolRange& range : ranges) {
                 for (std::uint64_t i = 0; i < range.count.value; ++i) {
                   freed_.push_back(range.start.value + i);
                 }
               }
             }}) {}
  ~GateFixture() { gate.stop(); }

  TicketRef begin(int request) {
    return gate.begin([this, request] { woken.push(request); });
  }
  // Judges a detach of file blocks that have the same numbers as their pool blocks, in inode 1.
  Result<Verdict> judge(const TicketRef& ticket, std::vector<PoolRange> ranges, pid_t process = 1,
                        std::optional<HolderId> through = std::nullopt) {
    std::uint64_t low = UINT64_MAX;
    std::uint64_t high = 0;
    for (const PoolRange& range : ranges) {
      low = std::min(low, range.start.value);
      high = std::max(high, range.end().value);
    }
    return gate.judge(ticket, {.holder = through,
                               .inode = InodeNumber{1},
                               .range = in_file(low, high - low),
                               .blocks = ranges,
                               .requester = {process, 0}});
  }
  Result<std::optional<PinId>> pin(const TicketRef& ticket, HolderId holder,
                                   std::vector<PoolRange> ranges, pid_t process,
                                   PinKind kind = PinKind::long_term, bool nowait = false) {
    const std::uint64_t first = ranges.front().start.value;
    return gate.pin(ticket, {.holder = holder,
                             .inode = InodeNumber{1},
                             .offset = offset_of(FileBlock(first)),
                             .length = bytes(ranges.back().end() - ranges.front().start),
                             .blocks = ranges,
                             .requester = {process, 0},
                             .kind = kind,
                             .write = false,
                             .nowait = nowait});
  }
  // A pin that nothing stands in the way of.
  PinId pinned(HolderId holder, std::vector<PoolRange> ranges, pid_t process,
               PinKind kind = PinKind::long_term) {
    const TicketRef ticket = begin(-1);
    const PinId id = **pin(ticket, holder, std::move(ranges), process, kind);
    gate.end(ticket);
    return id;
  }
  // Begins, judges; if it may go ahead, detaches; ends unless it is parked.
  Result<Verdict> punch(std::vector<PoolRange> ranges, pid_t process = 1,
                        std::optional<HolderId> through = std::nullopt) {
    const TicketRef ticket = begin(-1);
    const Result<Verdict> verdict = judge(ticket, ranges, process, through);
    if (verdict == Verdict::proceed) gate.detached(ticket, ranges);
    if (verdict != Verdict::parked) gate.end(ticket);
    return verdict;
  }
  // What was freed since the last call, sorted.
  std::vector<std::uint64_t> freed() {
    const std::lock_guard lock(mutex_);
    std::vector<std::uint64_t> result;
    result.swap(freed_);
    std::sort(result.begin(), result.end());
    return result;
  }
  // Returns when every request that was ready has had its continuation. Needs a policy or a
  // short_timeout by which a detach waits for a short-term pin.
  void settle() {
    const HolderId holder = gate.new_holder();
    const PinId pin = pinned(holder, {kSentinel}, 9999, PinKind::short_term);
    const std::vector<PoolRange> sentinel{kSentinel};
    if (!test::settle(gate, {.inode = InodeNumber{UINT64_MAX},
                             .range = in_file(0, 1),
                             .blocks = sentinel,
                             .requester = {9998, 0}})
             .in_time) {
      throw std::runtime_error("the gate's thread is stuck");
    }
    (void)gate.unpin(holder, pin);
  }

 private:
  std::mutex mutex_;
  std::vector<std::uint64_t> freed_;

 public:
  Woken woken;
  Gate gate;
};

inline std::vector<std::uint64_t> numbers(std::initializer_list<PoolRange> ranges) {
  std::vector<std::uint64_t> result;
  for (const PoolRange& range : ranges) {
    for (std::uint64_t i = 0; i < range.count.value; ++i) result.push_back(range.start.value + i);
  }
  return result;
}

}  // namespace daxfs::test
