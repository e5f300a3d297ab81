// An executable specification of the gate: docs/promises.md, block by block and lease by lease,
// with plain vectors that are looked through from end to end instead of intervals, indexes and
// threads. It owns the files, the free space and the clock as well, so that it knows of every block
// whose it is, and who must have been woken.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "lease/gate.h"

namespace daxfs::test {

class GateModel {
 public:
  using Block = std::uint64_t;
  using Time = std::uint64_t;  // milliseconds
  static constexpr Time kNever = UINT64_MAX;
  static constexpr std::uint64_t kFiles = 3;
  static constexpr std::uint64_t kFileBlocks = 16;
  static constexpr Block kPoolBlocks = 64;
  // Whoever asks for this process may not wait for longer, whatever the policy says.
  static constexpr pid_t kHurried = 3;
  static constexpr Time kHurry = 90;

  enum class Owner { free, file, limbo };
  struct Range {
    std::uint64_t inode, first, count;  // file blocks
    bool operator==(const Range&) const = default;
    bool has(std::uint64_t block) const { return block >= first && block - first < count; }
  };
  // Pins and leases go by the number of the request that took them.
  struct Pin {
    int number;
    int holder;
    Requester requester;
    Range range;
    PinKind kind;
    std::vector<Block> blocks;
    bool left = false;  // its holder's process has ended
  };
  struct Lease {
    int number;
    int holder;
    Requester requester;
    Range range;
    bool exclusive;
  };
  struct News {
    LeaseNews::Kind kind;
    int lease;
    int holder;
    std::uint64_t first, count;
    pid_t process;
    Time deadline;
    bool operator==(const News&) const = default;
  };
  enum class What { detach, pin, lease };
  struct Request {
    int number;  // ascending in order of arrival
    What what;
    Range range;
    int holder;  // of a detach: through which it is asked; -1: none
    Requester requester;
    PinKind kind = PinKind::long_term;
    bool nowait = false;
    bool exclusive = false;
    // How it stands.
    int place = -1;  // in the order of arrival: its number, or that of the request which it repeats
    bool judged = false;
    bool parked = false;
    bool cancelled = false;
    bool has_waited = false;
    bool fence = false;
    std::optional<Time> first_judged = std::nullopt;
    bool shorts_are_long = false;
    std::optional<PinPolicy> waits_under = std::nullopt;
    Time waits_since = 0;
    Time latest = kNever;
    // While it is parked: for what.
    Time deadline = kNever;
    Awaited awaited = Awaited::any;
    std::vector<Block> in_the_way = {};
    int behind = -1;  // the place of the fence
    // The leases that it has broken and waits for, and until when.
    std::map<int, Time> breaking = {};
  };
  // An interrupted request: who asks the same again goes on where it was, and has its place. Until
  // then the fence of a detach stands.
  struct Remembered {
    Request request;
    Time until;
  };
  struct Answer {
    int error = 0;  // 0: it went ahead, or is parked
    bool parked = false;
    bool operator==(const Answer&) const = default;
  };
  struct Event {
    GateEvent::Kind kind;
    std::uint64_t inode, offset, length;
    pid_t process;
    std::optional<PinPolicy> policy;  // of requests; else it does not matter
    bool operator==(const Event&) const = default;
  };

  GateOptions options;
  std::optional<PinPolicy> own_policy[kFiles];
  Time now = 0;
  bool stopped = false;
  std::vector<Owner> owner = std::vector<Owner>(kPoolBlocks, Owner::free);
  std::map<std::uint64_t, Block> files[kFiles];  // file block -> pool block
  std::vector<Pin> pins;                         // in the order in which they were granted
  std::vector<Lease> leases;                     // the same
  std::vector<Request> requests;                 // in order of arrival
  std::vector<Remembered> interrupted;           // in the order in which they were
  Time looked = 0;                               // when it was last seen to whose process has ended
  std::set<pid_t> ended;                         // processes
  std::vector<News> asked;                       // not yet read
  std::vector<News> revoked;                     // not yet read
  // What must have happened since the caller last cleared these.
  std::vector<Block> freed;
  std::vector<std::vector<int>> woken;  // those of one moment in order of arrival
  std::vector<int> told;                // holders
  std::vector<Event> events;            // without `freed`
  std::uint64_t left_limbo = 0;         // that many blocks were

  // What is asked of the gate. A detach that goes ahead is carried out as well.
  Answer judge(int number);
  Answer pin(int number);
  Answer lease(int number);
  void end(int number);
  void cancel(int number);
  void unpin(int number);
  int unlease(int number);
  int shrink(int number, std::uint64_t first, std::uint64_t count);
  void drop(int holder);
  void leave(int holder);
  std::optional<News> next_news(int holder);
  bool has_news(int holder) const;
  void last_close(std::uint64_t inode);
  void end_process(pid_t process);  // or begins it, if it has ended
  void set_options(const GateOptions& wanted);
  void set_own_policy(std::uint64_t inode, std::optional<PinPolicy> policy);
  void advance(Time ms);
  void stop();

  // What can be looked at.
  Request* find_request(int number);
  const Pin* find_pin(int number) const;
  const Lease* find_lease(int number) const;
  std::vector<Block> blocks_of(const Range& range) const;
  PinCounts counts(Block block) const;
  std::uint64_t in_limbo() const;
  // When the first request that waits for the lease runs out of time; nothing if none waits.
  std::optional<Time> breaking(int lease) const;
  // The holder's oldest lease over the pin, or none.
  const Lease* lease_over(const Pin& pin) const;

 private:
  // Those of the blocks that have awaited pins, of others than `except`.
  std::vector<Block> pinned(const std::vector<Block>& blocks, Awaited awaited,
                            std::optional<pid_t> except) const;
  bool covered(int holder, const Range& range) const;
  bool needed(const Lease& lease, std::uint64_t first, std::uint64_t count) const;
  std::optional<Answer> pass_fences(Request& r);
  // Breaks leases and waits for them, too.
  Answer wait(Request& r, Awaited awaited, Time deadline, const std::vector<Lease>& broken);
  // A request that has not been judged yet takes over from the one that it repeats.
  void repeat(Request& r);
  // One that would have to wait.
  Answer interrupt(Request& r);
  bool fences_are_left() const;
  // An interrupted request's fence goes.
  void leave_fence(Request& r, std::vector<int>& now_awake);
  Answer refuse(Request& r, int error);
  Answer go_ahead(Request& r, bool keep_pinned);
  bool may_go_ahead(PinPolicy policy, std::uint64_t pinned_blocks) const;
  std::uint64_t take_away(const Range& range, bool keep_pinned);
  void tell(const Request& r, const Lease& lease, Time deadline);
  void revoke(const Request& r, const Lease& lease);
  void remove_lease(int number);
  void release_breaks(int lease, std::vector<int>& now_awake);
  void wake(Request& r, std::vector<int>& now_awake);
  void note(std::vector<int> now_awake);
  template <class Condition>
  void wake_if(Condition condition);
  void post(GateEvent::Kind kind, const Request& r);
  void post(GateEvent::Kind kind, const Range& range, pid_t process);
  PinPolicy policy_for_request(const Request& r) const;
};

inline bool overlap(const GateModel::Range& a, const GateModel::Range& b) {
  return a.inode == b.inode && a.count > 0 && b.count > 0 && (a.has(b.first) || b.has(a.first));
}

// Block-aligned, as the histories ask. A truncate's range reaches to the end of all numbers; people
// are told of the blocks that a file here can have.
constexpr std::uint64_t shown_count(const GateModel::Range& range) {
  return std::min(range.count, GateModel::kFileBlocks - range.first);
}

}  // namespace daxfs::test
