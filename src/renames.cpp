#include "src/renames.h"

#include <dirent.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <shared_mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "blockmap/volume/detach.h"

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE 1
#define RENAME_EXCHANGE 2
#define RENAME_WHITEOUT 4
#endif

#if defined(__SANITIZE_THREAD__)
// A pair of directories is locked in both orders in its life: ancestors first, and a rename may
// turn a pair round. At no moment do two threads see different orders, as ancestry changes only
// with the lock of renames, the moved directory and both parents held; whoever has locked a parent
// and wants its child has checked the name under the parent's lock. ThreadSanitizer remembers
// orders for ever and knows nothing of a mutex around them, so it would take each such turn for a
// deadlock (tests/model/rename_order_test.cpp runs into real ones, if there are any).
extern "C" const char* __tsan_default_suppressions() {
  return "deadlock:daxfs::Renames::lock_in_order\n"
         "deadlock:daxfs::Names::remove_name\n";
}
#endif

namespace daxfs {
namespace {

std::uint8_t type_of(const Inode& inode) REQUIRES_SHARED(inode.lock) {
  return static_cast<std::uint8_t>(IFTODT(inode.record.mode));
}

}  // namespace

struct Renames::Plan {
  // What the old name is to say; `made` in the transaction in which it does.
  struct Whiteout {
    Names::NewInode inode;
    InodeRef made{};
  };
  InodeRef from;    // the old name's directory
  InodeRef to;      // the new name's directory
  InodeRef source;  // what moves
  InodeRef target;  // what the new name says now, if anything
  std::optional<Whiteout> whiteout{};
  bool same_directory = false;
  bool exchange = false;
  // Of all of them, where there is a plan. The compiler cannot follow locks in a container: what
  // works on a plan is not looked at.
  std::vector<std::unique_lock<FairSharedMutex>> locks{};
  std::vector<PoolRange> released{};  // directory blocks that became empty
  Inodes::Remains remains{};          // of a replaced inode that nobody has open
  bool asked = false;                 // the gate, about them

  bool replaces() const { return target && !exchange; }
  // The file's last name goes. An unlink would keep the blocks for those who have it open, and pins
  // do that; but what a rename replaces can still be refused.
  bool takes_last_name() const ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return replaces() && target->is_regular() && target->record.links == 1;
  }
};

Result<bool> Renames::is_above(InodeNumber ancestor, InodeNumber of) {
  // Bounded, so that a cycle on damaged media cannot hold us.
  for (int depth = 0; depth < 100'000; ++depth) {
    if (of == ancestor) return true;
    if (of == kRootInode) return false;
    const auto inode = inodes_.get(of);
    if (!inode) return std::unexpected(inode.error());
    const ReaderLock guard((*inode)->lock);
    of = InodeNumber{(*inode)->record.parent};
  }
  return fail(EUCLEAN);
}

Status Renames::find_inodes(const Asked& renaming, Plan& plan) {
  const auto directory = [this](InodeNumber number, InodeRef& out) -> Status {
    auto ref = inodes_.get(number);
    if (!ref) return std::unexpected(ref.error());
    out = std::move(*ref);
    return inodes_.load_directory(*out);
  };
  plan.same_directory = renaming.parent == renaming.new_parent;
  plan.exchange = (renaming.flags & RENAME_EXCHANGE) != 0;
  if (const Status ok = directory(renaming.parent, plan.from); !ok) return ok;
  if (const Status ok = directory(renaming.new_parent, plan.to); !ok) return ok;

  const auto find = [this](Inode& in, std::string_view name, InodeRef& out) -> Status {
    const ReaderLock guard(in.lock);
    if (in.record.links == 0) return fail(ENOENT);
    const auto entry = in.directory->find(name);
    if (!entry) return {};
    auto ref = inodes_.child(in.number, entry->inode);
    if (!ref) return std::unexpected(ref.error());
    out = std::move(*ref);
    return {};
  };
  if (const Status ok = find(*plan.from, renaming.name, plan.source); !ok) return ok;
  if (const Status ok = find(*plan.to, renaming.new_name, plan.target); !ok) return ok;
  if (!plan.source) return fail(ENOENT);
  if (plan.exchange && !plan.target) return fail(ENOENT);
  if (plan.target && (renaming.flags & RENAME_NOREPLACE) != 0) return fail(EEXIST);
  return {};
}

Status Renames::check_places(const Asked& renaming, Plan& plan) {
  // A directory must not come to lie below itself.
  if (plan.source->is_directory() && !plan.same_directory) {
    const auto above = is_above(plan.source->number, renaming.new_parent);
    if (!above) return std::unexpected(above.error());
    if (*above) return fail(EINVAL);
  }
  if (plan.target && plan.target->is_directory() && !plan.same_directory) {
    const auto above = is_above(plan.target->number, renaming.parent);
    if (!above) return std::unexpected(above.error());
    if (*above) return fail(plan.exchange ? EINVAL : ENOTEMPTY);
  }
  if (!plan.replaces()) return {};
  if (plan.target->is_directory() && !plan.source->is_directory()) return fail(EISDIR);
  if (!plan.target->is_directory() && plan.source->is_directory()) return fail(ENOTDIR);
  if (plan.target->is_directory()) return inodes_.load_directory(*plan.target);
  return {};
}

// Directories, ancestors first; then what is no directory, by number.
Status Renames::lock_in_order(const Asked& renaming, Plan& plan) {
  std::vector<Inode*> order{&*plan.from};
  if (!plan.same_directory) {
    const auto above = is_above(renaming.new_parent, renaming.parent);
    if (!above) return std::unexpected(above.error());
    const auto below = is_above(renaming.parent, renaming.new_parent);
    if (!below) return std::unexpected(below.error());
    if (*above && *below) return fail(EUCLEAN);
    const bool to_first = *above || (!*below && renaming.new_parent < renaming.parent);
    order.insert(to_first ? order.begin() : order.end(), &*plan.to);
  }
  std::array<Inode*, 2> children{&*plan.source, plan.target ? &*plan.target : nullptr};
  if (children[0] == children[1]) children[1] = nullptr;
  if (children[1] != nullptr) {
    const auto key = [](const Inode* i) { return std::pair(!i->is_directory(), i->number); };
    if (key(children[1]) < key(children[0])) std::swap(children[0], children[1]);
  }
  for (Inode* child : children) {
    if (child != nullptr) order.push_back(child);
  }
  for (Inode* inode : order) plan.locks.emplace_back(inode->lock);
  return {};
}

// As the kernel's may_delete() and may_create().
Status Renames::check_flags(const Plan& plan) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  if (plan.target && &*plan.target == &*plan.source) return {};
  const bool may_leave = !plan.from->is_protected() && !plan.source->is_protected();
  const bool may_come = plan.target ? !plan.to->is_protected() && !plan.target->is_protected()
                                    : !plan.to->is_immutable();
  return may_leave && may_come ? Status() : fail(EPERM);
}

Result<Renames::Tried> Renames::make_plan(const Asked& renaming,
                                          Plan& plan) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  if (const Status ok = find_inodes(renaming, plan); !ok) return std::unexpected(ok.error());
  if (const Status ok = check_places(renaming, plan); !ok) return std::unexpected(ok.error());
  if (const Status ok = lock_in_order(renaming, plan); !ok) return std::unexpected(ok.error());

  // Names may have changed before the locks were ours (not by renames, but by creating and
  // unlinking).
  const auto still = [](Inode& in, std::string_view name, const InodeRef& expected) {
    in.lock.assert_held();
    const auto entry = in.directory->find(name);
    return entry ? expected && entry->inode == expected->number : !expected;
  };
  if (plan.from->record.links == 0 || plan.to->record.links == 0) return fail(ENOENT);
  if (!still(*plan.from, renaming.name, plan.source) ||
      !still(*plan.to, renaming.new_name, plan.target)) {
    return Tried::changed;
  }
  // More names than its count says: others have taken its last one.
  if (plan.source->record.links == 0 || (plan.target && plan.target->record.links == 0)) {
    return fail(EUCLEAN);
  }
  if (const Status may = check_flags(plan); !may) return std::unexpected(may.error());
  if (plan.replaces() && plan.target->is_directory() && !plan.target->directory->empty()) {
    return fail(ENOTEMPTY);
  }
  return Tried::renamed;
}

Status Renames::change_names(Transaction& tx, const Asked& renaming,
                             Plan& plan) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  Directory& from = *plan.from->directory;
  Directory& to = *plan.to->directory;
  const Inode& source = *plan.source;
  if (!plan.target) {
    if (const Status room = to.prepare_insert(tx, plan.to->record, renaming.new_name.size());
        !room) {
      return room;
    }
  }
  if (plan.exchange) {
    from.replace(tx, renaming.name, plan.target->number, type_of(*plan.target));
    to.replace(tx, renaming.new_name, source.number, type_of(source));
    return {};
  }
  if (plan.target) {
    to.replace(tx, renaming.new_name, source.number, type_of(source));
  } else {
    to.insert(tx, renaming.new_name, source.number, type_of(source));
  }
  if (plan.whiteout) {
    from.replace(tx, renaming.name, plan.whiteout->inode.number, DT_CHR);
  } else {
    // The old name goes last: its block may become empty and leave the directory.
    from.remove(tx, plan.from->record, renaming.name, plan.released);
  }
  return {};
}

void Renames::change_inodes(Transaction& tx, Plan& plan) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  const std::int64_t now = file_time_now();
  Inode& from = *plan.from;
  Inode& to = *plan.to;
  const auto moved = [&](Inode& inode, Inode& old_home, Inode& new_home) {
    inode.lock.assert_held();
    old_home.lock.assert_held();
    new_home.lock.assert_held();
    inode.ctime = now;
    if (!inode.is_directory() || &old_home == &new_home) return;
    inode.record.parent = new_home.number.value;
    inode.parent = new_home.number.value;
    old_home.record.links -= 1;
    new_home.record.links += 1;
  };
  moved(*plan.source, from, to);
  if (plan.exchange) {
    moved(*plan.target, to, from);
  } else if (plan.target) {
    plan.target->ctime = now;
    if (plan.target->is_directory()) {
      plan.target->record.links = 0;
      to.record.links -= 1;
    } else {
      plan.target->record.links -= 1;
    }
  }
  if (plan.whiteout) {
    Names::NewInode& whiteout = plan.whiteout->inode;
    if (whiteout.attributes) whiteout.attributes->show_in(whiteout.record);
    plan.whiteout->made = inodes_.adopt(whiteout.number, whiteout.record);
    plan.locks.emplace_back(plan.whiteout->made->lock, std::adopt_lock);
    inodes_.stage(tx, *plan.whiteout->made);
  }
  for (Inode* directory : {&from, &to}) {
    directory->mtime = now;
    directory->ctime = now;
  }
  inodes_.stage(tx, from);
  if (&to != &from) inodes_.stage(tx, to);
  inodes_.stage(tx, *plan.source);
  if (plan.target && inodes_.is_dead(*plan.target)) {
    plan.remains = inodes_.dispose(tx, *plan.target);
  } else if (plan.target) {
    inodes_.stage(tx, *plan.target);
  }
}

void Renames::note_names(const Asked& renaming, const Plan& plan) {
  if (plan.target) inodes_.clear_name(*plan.target, renaming.new_parent, renaming.new_name);
  inodes_.set_name(*plan.source, renaming.new_parent, renaming.new_name);
  if (plan.exchange) inodes_.set_name(*plan.target, renaming.parent, renaming.name);
  if (plan.whiteout) inodes_.set_name(*plan.whiteout->made, renaming.parent, renaming.name);
}

Result<Renames::Tried> Renames::carry_out(const Asked& renaming, Plan& plan,
                                          const Asking* asking) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  // Two names of one file: nothing to do (POSIX).
  if (plan.target && &*plan.target == &*plan.source) return Tried::renamed;
  if ((renaming.flags & RENAME_WHITEOUT) != 0) {
    // Before the gate is asked: nothing may fail behind it.
    auto made = names_.new_inode(S_IFCHR, 0, *plan.from, renaming.caller);
    if (!made) return std::unexpected(made.error());
    plan.whiteout.emplace(std::move(*made));
  }
  const auto changed = change(renaming, plan, asking);
  if (plan.whiteout && !plan.whiteout->made) names_.forget_new(plan.whiteout->inode);
  return changed;
}

Result<Renames::Tried> Renames::change(const Asked& renaming, Plan& plan,
                                       const Asking* asking) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  if (plan.takes_last_name()) {
    if (asking == nullptr) return Tried::must_ask;
    const auto verdict = detaching_.judge(*plan.target,
                                          {.range = to_end(FileBlock(0)),
                                           .requester = asking->requester,
                                           .reason = DetachReason::rename_over,
                                           .length = ByteCount(plan.target->record.size)},
                                          asking->ticket);
    if (!verdict) return std::unexpected(verdict.error());
    if (*verdict == Verdict::parked) return Tried::parked;
    plan.asked = true;
  }
  Transaction tx;
  if (const Status changed = change_names(tx, renaming, plan); !changed)
    return std::unexpected(changed.error());
  change_inodes(tx, plan);
  const Status committed = health_.commit(tx);
  note_names(renaming, plan);
  if (!committed) return std::unexpected(committed.error());
  return Tried::renamed;
}

Result<Renames::Tried> Renames::move(const Asked& renaming, Plan& plan, const Asking* asking,
                                     InodeRef& loaded) {
  const MutexLock guard(mutex_);
  const auto planned = make_plan(renaming, plan);
  if (!planned || *planned == Tried::changed) return planned;
  if (!plan.target || !plan.target->is_regular() || plan.target->extents_loaded)
    return carry_out(renaming, plan, asking);
  // Loading needs the lock that the plan holds: let go, load, plan again.
  plan.locks.clear();
  if (const Status ready = inodes_.load_extents(*plan.target); !ready)
    return std::unexpected(ready.error());
  loaded = std::move(plan.target);
  return Tried::changed;
}

Result<Renames::Tried> Renames::try_once(const Asked& renaming, const Asking* asking,
                                         InodeRef& loaded) {
  Plan plan;
  const auto tried = move(renaming, plan, asking, loaded);
  for (const PoolRange& range : plan.released) (void)mount_.volume.allocator().free(range);
  // Its blocks are in limbo or free before its lock is let go.
  std::erase_if(plan.locks, [&](const auto& lock) {
    return !plan.target || lock.mutex() != &plan.target->lock;
  });
  inodes_.give_back(plan.remains, plan.asked ? asking->ticket : nullptr);
  plan.locks.clear();
  // What could not be looked at under the locks of the plan.
  if (tried == Tried::renamed && plan.target) inodes_.dispose_if_dead(*plan.target);
  return tried;
}

Result<Renames::Tried> Renames::try_until_settled(const Asked& renaming, const Asking* asking) {
  InodeRef loaded;  // stays in the table until the next plan, with what was loaded
  for (;;) {
    const auto tried = try_once(renaming, asking, loaded);
    if (tried != Tried::changed) return tried;
  }
}

Status Renames::check(const Renaming& renaming) {
  if (renaming.name.size() > pmem::kMaxName || renaming.new_name.size() > pmem::kMaxName)
    return fail(ENAMETOOLONG);
  const auto dots = [](std::string_view n) { return n.empty() || n == "." || n == ".."; };
  if (dots(renaming.name) || dots(renaming.new_name)) return fail(EBUSY);
  constexpr unsigned kNotWithExchange = RENAME_NOREPLACE | RENAME_WHITEOUT;
  const bool exchange = (renaming.flags & RENAME_EXCHANGE) != 0;
  if ((renaming.flags & ~(kNotWithExchange | RENAME_EXCHANGE)) != 0) return fail(EINVAL);
  if (exchange && (renaming.flags & kNotWithExchange) != 0) return fail(EINVAL);
  return {};
}

void Renames::rename(const Renaming& renaming, const Caller& caller,
                     const MakeCancellation& cancellation, Done done) {
  if (const Status ok = health_.writable(); !ok) return done(ok);
  if (const Status ok = check(renaming); !ok) return done(ok);
  // Most take no file's last name: they need no ticket, and no cancellation.
  const auto tried = try_until_settled({renaming, caller}, nullptr);
  if (!tried) return done(std::unexpected(tried.error()));
  if (*tried == Tried::renamed) return done({});

  struct Owned {
    std::string old_name;
    std::string new_name;
  };
  const auto names = std::make_shared<const Owned>(
      Owned{std::string(renaming.name), std::string(renaming.new_name)});
  Asked kept{renaming, caller};
  kept.name = names->old_name;
  kept.new_name = names->new_name;
  run_at_gate(gate_, cancellation(), names,
              [this, kept, requester = callers_.requester(caller),
               done = std::move(done)](const TicketRef& ticket) {
                const Asking asking{requester, ticket};
                const auto answer = try_until_settled(kept, &asking);
                if (answer == Tried::parked) return true;
                done(answer ? Status() : std::unexpected(answer.error()));
                return false;
              });
}

}  // namespace daxfs
