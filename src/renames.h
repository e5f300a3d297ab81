// rename(2): moving, replacing and exchanging names.
#pragma once

#include <functional>
#include <string_view>

#include "base/mutex.h"
#include "base/result.h"
#include "base/units.h"
#include "lease/gate.h"
#include "src/callers.h"
#include "src/detaching.h"
#include "src/health.h"
#include "src/inodes.h"
#include "src/mount.h"
#include "src/names.h"
#include "src/waiting.h"

namespace daxfs {

struct Renaming {
  InodeNumber parent;
  std::string_view name;
  InodeNumber new_parent;
  std::string_view new_name;
  // RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT (not with EXCHANGE: EINVAL), or 0.
  unsigned flags = 0;
};

// Thread-safe. One rename at a time, so that ancestry stands still while directories are locked in
// its order; its lock comes before all others.
class Renames {
 public:
  Renames(const Mount& mount, Health& health, Gate& gate, Inodes& inodes, Detaching& detaching,
          Callers& callers, Names& names)
      : mount_(mount),
        health_(health),
        gate_(gate),
        inodes_(inodes),
        names_(names),
        detaching_(detaching),
        callers_(callers) {}

  // Atomic and durable when it completes. With RENAME_WHITEOUT the old name leads to a new
  // character device 0/0, which is how overlayfs says that a name is gone. Replacing a file's last
  // name asks the gate, and may wait there: `cancellation` is called for that, once at most, before
  // this returns. Everything else answers at once.
  using MakeCancellation = std::function<CancellationRef()>;
  void rename(const Renaming& renaming, const Caller& caller, const MakeCancellation& cancellation,
              Done done);

 private:
  struct Plan;
  // What is asked for, by whom.
  struct Asked : Renaming {
    Caller caller;
  };
  // Who asks the gate, if it has to be asked.
  struct Asking {
    Requester requester;
    TicketRef ticket;
  };
  enum class Tried : std::uint8_t {
    renamed,
    must_ask,  // the gate, and nobody was given who asks; nothing was done
    parked,    // by the gate
    changed,   // what was planned with is not so any more: plan again
  };

  static Status check(const Renaming& renaming);
  Result<Tried> try_until_settled(const Asked& renaming, const Asking* asking) EXCLUDES(mutex_);
  Result<Tried> try_once(const Asked& renaming, const Asking* asking, InodeRef& loaded)
      EXCLUDES(mutex_);
  // Plans, and carries the plan out.
  Result<Tried> move(const Asked& renaming, Plan& plan, const Asking* asking, InodeRef& loaded)
      EXCLUDES(mutex_);

  // Planning: finds who is involved, and locks all of it.
  Result<Tried> make_plan(const Asked& renaming, Plan& plan) REQUIRES(mutex_);
  Status find_inodes(const Asked& renaming, Plan& plan);
  // What POSIX forbids, and can be said without the inodes' locks.
  Status check_places(const Asked& renaming, Plan& plan) REQUIRES(mutex_);
  // What the flags of those who are involved forbid.
  static Status check_flags(const Plan& plan);
  Status lock_in_order(const Asked& renaming, Plan& plan) REQUIRES(mutex_);
  // Whether `ancestor` is `of` or above it.
  Result<bool> is_above(InodeNumber ancestor, InodeNumber of) REQUIRES(mutex_);

  // Carrying out: with all locks of the plan held.
  Result<Tried> carry_out(const Asked& renaming, Plan& plan, const Asking* asking) REQUIRES(mutex_);
  Result<Tried> change(const Asked& renaming, Plan& plan, const Asking* asking) REQUIRES(mutex_);
  static Status change_names(Transaction& tx, const Asked& renaming, Plan& plan);
  void change_inodes(Transaction& tx, Plan& plan);
  void note_names(const Asked& renaming, const Plan& plan);

  const Mount& mount_;
  Health& health_;
  Gate& gate_;
  Inodes& inodes_;
  Names& names_;
  Detaching& detaching_;
  Callers& callers_;
  Mutex mutex_ ABSL_ACQUIRED_BEFORE(Inode::lock);
};

}  // namespace daxfs
