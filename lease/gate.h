// The gate: the one place that decides whether blocks may leave a file, and the only code that
// gives data blocks of a regular file back to the free space.
//
// It arbitrates over physical ranges of the pool and knows neither FUSE nor the medium's format.
// A pin is registered, and a detach is judged, while the caller holds that inode's lock. This makes
// "compute the ranges, ask, act" one step with respect to the file.
// The gate calls back without its lock, except where GateHooks and the visitors below say so. It
// never blocks: a request that has to wait is parked, and its continuation runs later on the gate's
// own thread.
//
// A parked request holds no lock and no worker thread. Its continuation simply tries the whole
// operation again, with the same ticket: the world may have changed meanwhile. Requests are retried
// in arrival order. While a detach is parked, its file range is fenced: new pins there are parked
// behind it (or fail with EAGAIN), so that holders that come and go cannot starve it.
//
//   begin() -> judge() --proceed--> caller changes the map -> detached() -> end()
//                |  \--error------> end()
//                \----parked------> ... pin goes / time is up / cancel ... -> continuation ->
//                judge() again
#pragma once

#include <absl/functional/function_ref.h>
#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "lease/gate_event.h"
#include "lease/lease_table.h"
#include "lease/limbo.h"
#include "lease/pin_counts.h"
#include "lease/policy.h"
#include "lease/repeats.h"
#include "lease/requests.h"
#include "lease/wait_times.h"

namespace daxfs {

// One request's identity across its retries. Made by Gate::begin(); the caller shares it with a
// possible canceller.
class Ticket;
using TicketRef = std::shared_ptr<Ticket>;

struct PinInfo {
  PinId id;
  HolderId holder;
  InodeNumber inode;
  FileOffset offset;
  ByteCount length;
  PinKind kind = PinKind::long_term;
  bool write = false;
  Requester requester;
  std::chrono::system_clock::time_point since;
  std::uint64_t record = 0;      // as given to record_pin(); 0: none
  std::optional<LeaseId> lease;  // one of the holder's over the range
  bool left = false;             // the holder has left, see Gate::leave()
};

struct GateCounts {
  std::uint64_t long_pins = 0;
  std::uint64_t short_pins = 0;
  ByteCount pinned_bytes;  // sum over pins (a block pinned twice counts twice)
  BlockCount limbo;
  std::uint64_t leases = 0;
  std::uint64_t waiting = 0;  // parked requests
};

enum class Verdict : std::uint8_t { proceed, parked };

// What the gate needs from its user, and tells it. Called without the gate's lock, except where it
// says so.
struct GateHooks {
  // Takes the blocks that belong to nobody any more into the free space.
  std::function<void(std::span<const PoolRange>)> free_blocks;
  // Pins with these records (record_pin()) are about to end. As soon as this returns, their blocks
  // may belong to another file.
  std::function<void(std::span<const std::uint64_t>)> forget_records = {};
  // The holder has news of its leases (next_news()).
  std::function<void(HolderId)> tell_holder = {};
  // Whether user_limit applies to this user; with the lock held. Null: to nobody.
  std::function<bool(uid_t)> is_limited = {};
  // How a process is that is interrupted (with the lock held), and whether it has ended since (with
  // it or without). These may read /proc of one process.
  Repeats::Processes processes = {};
  // By when a detach that waits for long-term pins or leases since then is refused, whatever the
  // policy says; with the lock held, and may read /proc. Null: never.
  std::function<SteadyTime(const DetachRequest&, SteadyTime)> latest = {};
  GateEvents* events = nullptr;  // may be null; outlives the gate
  PinId last_pin{};              // pins are numbered from here on
  // What the time is; with the lock held. A test may have a clock of its own, ahead of the real
  // one. (Deadlines are looked at when something happens, and when the real clock has reached
  // them.)
  std::function<SteadyTime()> now = std::chrono::steady_clock::now;
};

// Thread-safe. Lock order: inode lock -> gate lock -> allocator lock.
class Gate {
 public:
  // Tries the operation again. Called on the gate's thread without any lock held.
  using Continuation = std::function<void()>;

  // Starts the gate's thread (which takes no signals): construct it after the last fork().
  Gate(const GateOptions& options, GateHooks hooks);
  ~Gate();  // stops, if stop() was not called
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;

  // Ends all waiting: what is parked is retried, and from now on every judge(), pin(), admit() and
  // lease() fails with EINTR; joins the thread. For unmount. Idempotent; not from a continuation.
  void stop();

  GateOptions options() const;
  // Takes effect at once: every parked request is judged anew. `process` asked for it.
  void set_options(const GateOptions& options, pid_t process = 0);
  // The policy of this file has changed: its parked detaches are judged anew.
  void rejudge(InodeNumber inode);
  // A request that has been parked for so long fails with EINTR, as if a signal had come: for a
  // kernel that gives up on requests that last. Requests that wait already are not affected.
  void limit_waits(std::chrono::milliseconds longest);

  // A new request. `retry` is kept until end().
  TicketRef begin(Continuation retry);
  // `what` stays until end(), and is destroyed without any lock. In the place of what was kept
  // before.
  void keep(const TicketRef& ticket, std::shared_ptr<const void> what);
  // No more retries. Wakes what queued behind this request's fence.
  void end(const TicketRef& ticket);
  // Makes a request fail with EINTR instead of being parked, now or at any later judge()/pin(). One
  // that need not wait goes ahead: a signal alone fails nothing. What is asked for again within
  // 10 s, by the same process, is the same request: its deadlines go on, and it has its old place.
  // Until then, the fence of a detach stands. Any thread, any time.
  void cancel(const TicketRef& ticket);

  // --- detaching ---
  // Precondition: the inode's lock is held exclusively, from before `blocks` was computed until
  // detached(). proceed: the caller removes the blocks from the file and then calls detached(). A
  // rename over a file that others have open takes no blocks from it, and calls nothing.
  // parked: it lets go of every lock and forgets about the request; the continuation will come.
  // Errors: ETXTBSY (policy, or an exclusive lease of somebody else), EDEADLK (would wait only for
  // its own process's pins and leases), EINTR (cancelled), EAGAIN (user_limit of requests that
  // wait).
  Result<Verdict> judge(const TicketRef& ticket, const DetachRequest& request);
  // The blocks have left the file for good (committed): free what is unpinned, put the rest into
  // limbo.
  void detached(const TicketRef& ticket, std::span<const PoolRange> blocks);
  // For blocks that leave where no requester can be refused any more: the last close, recovery at
  // the mount. With an inode that is no more: nothing is expected for it again. Pinned blocks go to
  // limbo under every policy but `ignore`, which frees them; other blocks are freed. `policy` is
  // the file's own, else the mount's.
  void detached_unasked(std::span<const PoolRange> blocks, InodeNumber inode = {},
                        std::optional<PinPolicy> policy = {});

  // --- pinning ---
  HolderId new_holder();
  // Precondition: the inode's lock is held (shared suffices) from before `blocks` was computed.
  // nullopt: parked behind a waiting detach. Errors: EAGAIN (nowait, or user_limit
  // of requests that wait), EINTR, EOPNOTSUPP, EPERM (longterm=), ENOMEM (pin_limit, user_limit).
  Result<std::optional<PinId>> pin(const TicketRef& ticket, const PinRequest& request);
  // What pin() would say, without `blocks` and without taking the pin: to ask before anything is
  // allocated for it.
  Result<Verdict> admit(const TicketRef& ticket, const PinRequest& request);
  // Ends the taking of a pin that was requested as `recorded`. Until this or undo_pin() is called,
  // the pin holds its blocks, but no thread of the holder can unpin it (it might guess the number).
  // `record` stands for the pin on the medium (0: nothing); forget_records gets it when the pin
  // ends.
  void record_pin(HolderId holder, PinId pin, std::uint64_t record);
  // It could not be recorded, and goes.
  void undo_pin(HolderId holder, PinId pin);
  // What the pin was, or ENOENT if this holder has no such pin.
  Result<PinInfo> unpin(HolderId holder, PinId pin);
  // The holder is gone (no request of it may follow): drops all that it had; returns its pins (e.g.
  // to update mtime).
  std::vector<PinInfo> drop(HolderId holder);
  // The holder's process has ended, but what works for it may not have: a device. Its leases go at
  // once. Its pins stay until drop(), as obstacles like any other; they are no process's own, so
  // that a later process with the same number waits for them, too.
  void leave(HolderId holder);
  std::vector<PinId> pins_of(HolderId holder) const;
  // A pin of a former daemon, as it was recorded. Asks nobody. Precondition: the number is not
  // above GateHooks::last_pin, and not taken.
  void restore_pin(const PinInfo& pin, std::span<const PoolRange> blocks);
  // Copies that a client makes by itself are in flight there: a short-term pin. Asks nobody, and is
  // nobody's own: who detaches waits for it also if it is of another thread of the same process.
  // The holder is new, and has nothing but such pins, until drop().
  PinId pin_copies(const PinRequest& request);
  // A pin over blocks that belong to no file and not to the free space, which from now on are in
  // limbo, if they were not before; `first` says so. For the daemon's own use, so that they become
  // free with the last of these pins. record_pin() or undo_pin() follows. ENOMEM: user_limit.
  Result<PinId> pin_apart(const PinRequest& request, bool first);
  // Gives a pin to another holder. ENOENT: `from` has no such pin, or has left.
  Status move_pin(HolderId from, PinId pin, HolderId to);

  // --- leases ---
  // nullopt: parked behind a waiting detach, as pins are. Errors: EAGAIN (another holder's lease is
  // in the way, or nowait), ENOLCK (too many), EINTR.
  Result<std::optional<LeaseId>> lease(const TicketRef& ticket, const LeaseRequest& request);
  // Gives up what lies outside the new range. Errors: ENOENT, EINVAL (not within the old range),
  // EBUSY (longterm=lease, and a long-term pin of the holder would be without one).
  Status shrink_lease(HolderId holder, LeaseId lease, FileOffset offset, ByteCount length);
  Status unlease(HolderId holder, LeaseId lease);  // ENOENT, EBUSY
  // EAGAIN: none.
  Result<LeaseNews> next_news(HolderId holder);
  bool has_news(HolderId holder) const;

  // --- looking ---
  // Blocks of a pin in file order, or ENOENT.
  Result<std::vector<PoolRange>> pin_blocks(HolderId holder, PinId pin) const;
  std::optional<PinInfo> find_pin(HolderId holder, PinId pin) const;
  // Up to `limit` pins with id > after, ascending.
  std::vector<PinInfo> pins_after(PinId after, std::size_t limit) const;
  // The same with their blocks; the gate's lock is held meanwhile. Returns the last id, or nothing
  // at the end.
  std::optional<PinId> visit_pins(
      PinId after, std::size_t limit,
      absl::FunctionRef<void(const PinInfo&, std::span<const PoolRange> blocks)> visit) const;
  // Up to `limit` leases with id > after, ascending; with the deadline of the first request that
  // waits for it, if one does.
  struct LeaseState {
    LeaseInfo lease;
    std::optional<SteadyTime> breaking;
  };
  std::vector<LeaseState> leases_after(LeaseId after, std::size_t limit) const;
  // A request that waits, in the order of arrival. What it waits for is what pins_after() and
  // leases_after() show over its range; a pin or a lease waits for the detaches there, which came
  // before it.
  struct WaitingInfo {
    Arrival arrival = 0;
    Wish wish = Wish::punch;
    GateEvent about;  // whose request, and for what; its kind means nothing
    uid_t uid = 0;
    SteadyTime since;
    // When it stops waiting, whatever comes of it then; SteadyTime::max(): it has no such time.
    SteadyTime deadline;
  };
  // Up to `limit` requests that came after `after`, ascending.
  std::vector<WaitingInfo> waiting_after(Arrival after, std::size_t limit) const;
  struct LimboInfo {
    PoolRange range;
    PinCounts pins;
    Limbo::Time since;
  };
  // Up to `limit` pieces of limbo (split where counts change) from pool block `from` on.
  std::vector<LimboInfo> limbo_from(PoolBlock from, std::size_t limit) const;
  // Visits the pinned segments of the range in order, with their counts (the gate lock is held
  // meanwhile).
  void counts(PoolRange range, const std::function<void(PoolRange, PinCounts)>& visit) const;
  GateCounts totals() const;

  // --- checking while it is in use (gate_audit.cpp) ---
  // What of the runs is in limbo: one piece.
  std::optional<PoolRange> find_limbo(std::span<const PoolRange> runs) const;
  // What of `area` is in limbo, or has left it and may not have reached the free space yet; in any
  // order. Visits limbo with what pins it, which is never nothing unless the gate is wrong; with
  // the gate's lock held.
  std::vector<PoolRange> limbo_within(PoolRange area,
                                      absl::FunctionRef<void(PoolRange, PinCounts)> visit) const;
  // Up to `limit` pins with id > after, ascending, with the gate's lock held; `uncounted` is a
  // piece of the pin that the counts do not know. Returns the last id, or nothing at the end.
  std::optional<PinId> audit_pins(
      PinId after, std::size_t limit,
      absl::FunctionRef<void(const PinInfo&, std::span<const PoolRange> blocks,
                             std::optional<PoolRange> uncounted)>
          visit) const;
  GateEventCounts event_counts() const;
  WaitTimes wait_times() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace daxfs
