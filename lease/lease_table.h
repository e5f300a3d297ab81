// Layout leases: the right to be told before the layout of a file range changes.
//
//        lease of holder A   |===========================|        shared
//        lease of holder B               |===============|        shared: several may have one
//        a detach request           |==========|                  breaks both
//        what A is told             |==========|                  what B is told:  |====|
//
// A holder learns of a break from next_news(); what was not yet read about one lease is kept as one
// range, so that memory stays bounded however many requests come. Leases and breaks are the idea
// of the kernel's FL_LAYOUT (fs/locks.c); the kernel keeps them per file, here they have ranges.
#pragma once

#include <absl/container/btree_map.h>
#include <absl/container/flat_hash_map.h>
#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "lease/fences.h"
#include "lease/requests.h"

namespace daxfs {

struct LeaseInfo {
  LeaseId id;
  HolderId holder;
  InodeNumber inode;
  FileOffset offset;  // as asked for
  ByteCount length;
  bool exclusive = false;
  Requester requester;
  FileRange range() const { return covering(offset, length); }
};

// What a holder is told.
struct LeaseNews {
  enum class Kind : std::uint8_t {
    asked,    // give way by `deadline`; without one it has been decided already
    revoked,  // the lease has been taken away: its time was up
  };
  Kind kind = Kind::asked;
  LeaseId lease;
  FileRange range;
  DetachReason reason = DetachReason::punch;
  pid_t process = 0;  // who asks
  std::optional<SteadyTime> deadline;
};

// Not thread-safe (the gate's lock guards it).
class LeaseTable {
 public:
  // Of one holder; more is ENOLCK, as for fcntl(2) locks.
  static constexpr std::size_t kMostLeases = 4096;

  // EAGAIN: another holder has a lease there and one of the two is exclusive. ENOLCK: too many.
  Result<LeaseId> add(const LeaseRequest& request);
  // Null if this holder has no such lease.
  const LeaseInfo* find(HolderId holder, LeaseId lease) const;
  // Precondition for both: find() says that it is there. Returns the requests that were waiting for
  // the lease; they are to be judged anew.
  std::vector<Arrival> shrink(HolderId holder, LeaseId lease, FileOffset offset, ByteCount length);
  std::vector<Arrival> remove(HolderId holder, LeaseId lease);
  // All of a holder's leases and news.
  std::vector<LeaseInfo> of(HolderId holder) const;
  void forget(HolderId holder);

  // Whether the holder's leases cover all of the range.
  bool covered(HolderId holder, InodeNumber inode, FileRange range) const {
    return covered_with(holder, inode, range, LeaseId{}, FileRange());
  }
  // The same, if `lease` were as short as `instead`.
  bool covered_with(HolderId holder, InodeNumber inode, FileRange range, LeaseId lease,
                    FileRange instead) const;
  // One of the holder's leases over (part of) the range.
  std::optional<LeaseId> over(HolderId holder, InodeNumber inode, FileRange range) const;

  struct InTheWay {
    bool exclusive = false;  // one of them is
    bool foreign = false;    // one of them is another process's than the requester's
    std::vector<LeaseInfo> leases;
  };
  // The leases of all holders but one's own. (Process 0 is nobody, and so another one.)
  InTheWay in_the_way(InodeNumber inode, FileRange range, std::optional<HolderId> own,
                      pid_t process) const;

  // Remembers that the request waits for the lease; false if that was known.
  bool begin_break(LeaseId lease, Arrival request, SteadyTime deadline);
  void end_break(LeaseId lease, Arrival request) { breaks_.erase({lease, request}); }
  // When the first request that waits for the lease runs out of time; nothing if none waits.
  std::optional<SteadyTime> breaking(LeaseId lease) const;

  // Precondition for both: the lease is there. revoke() takes it away, and returns what remove()
  // does.
  void tell(const LeaseInfo& lease, const LeaseNews& news);
  std::vector<Arrival> revoke(const LeaseInfo& lease, LeaseNews news);
  std::optional<LeaseNews> next_news(HolderId holder);
  bool has_news(HolderId holder) const;

  std::size_t size() const { return by_id_.size(); }
  std::size_t count_of(uid_t user) const {
    const auto found = by_user_.find(user);
    return found == by_user_.end() ? 0 : found->second;
  }
  // Up to `limit` leases with id > after, ascending.
  std::vector<LeaseInfo> after(LeaseId after, std::size_t limit) const;

 private:
  struct Holder {
    std::map<LeaseId, LeaseInfo> leases;
    std::map<LeaseId, LeaseNews> asked;  // not yet read; of leases that are there
    std::deque<LeaseNews> revoked;       // not yet read
  };
  Holder& owner_of(HolderId holder, LeaseId lease);
  std::vector<Arrival> take_breaks(LeaseId lease);

  absl::flat_hash_map<std::uint64_t, Holder> holders_;
  absl::btree_map<std::pair<InodeNumber, LeaseId>, HolderId> by_inode_;
  absl::btree_map<LeaseId, HolderId> by_id_;
  absl::flat_hash_map<uid_t, std::size_t> by_user_;  // how many; only users who have some
  absl::btree_map<std::pair<LeaseId, Arrival>, SteadyTime> breaks_;
  std::uint64_t last_id_ = 0;
};

}  // namespace daxfs
