// rename(2): moving, replacing and exchanging names.
//
// One rename at a time (rename_mutex_), so that ancestry stands still while directories are locked
// in its order.
#include <dirent.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <shared_mutex>

#include "base/clock.h"
#include "blockmap/volume/detach.h"
#include "src/filesystem.h"

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE 1
#define RENAME_EXCHANGE 2
#endif

#if defined(__SANITIZE_THREAD__)
// A pair of directories is locked in both orders in its life: ancestors first, and a rename may
// turn a pair round. At no moment do two threads see different orders, as ancestry changes only
// under rename_mutex_ with the moved directory and both parents locked; whoever has locked a parent
// and wants its child has checked the name under the parent's lock. ThreadSanitizer remembers
// orders for ever and knows nothing of a mutex around them, so it would take each such turn for a
// deadlock (tests/model/rename_order_test.cpp runs into real ones, if there are any).
extern "C" const char* __tsan_default_suppressions() {
  return "deadlock:daxfs::Filesystem::plan_rename\n"
         "deadlock:daxfs::Filesystem::remove_name\n";
}
#endif

namespace daxfs {

struct Filesystem::RenamePlan {
  InodeRef from;    // the old name's directory
  InodeRef to;      // the new name's directory
  InodeRef source;  // what moves
  InodeRef target;  // what the new name says now, if anything
  bool same_directory = false;
  std::vector<std::unique_lock<FairSharedMutex>> locks;
  std::vector<PoolRange> released;  // directory blocks that became empty
  Remains remains;                  // of a replaced inode that nobody has open
};

Result<bool> Filesystem::is_above(InodeNumber ancestor, InodeNumber of) {
  // Bounded, so that a cycle on damaged media cannot hold us.
  for (int depth = 0; depth < 100'000; ++depth) {
    if (of == ancestor) return true;
    if (of == kRootInode) return false;
    const auto inode = cache_.get(of);
    if (!inode) return std::unexpected(inode.error());
    const std::shared_lock guard((*inode)->lock);
    of = InodeNumber{(*inode)->record.parent};
  }
  return fail(EUCLEAN);
}

Status Filesystem::plan_rename(const Renaming& renaming, RenamePlan& plan) {
  const auto directory = [this](InodeNumber number, InodeRef& out) -> Status {
    auto ref = cache_.get(number);
    if (!ref) return std::unexpected(ref.error());
    out = std::move(*ref);
    return load_directory(*out);
  };
  plan.same_directory = renaming.parent == renaming.new_parent;
  if (const Status ok = directory(renaming.parent, plan.from); !ok) return ok;
  if (const Status ok = directory(renaming.new_parent, plan.to); !ok) return ok;

  const auto find = [this](Inode& in, std::string_view name, InodeRef& out) -> Status {
    const std::shared_lock guard(in.lock);
    if (in.record.links == 0) return fail(ENOENT);
    const auto entry = in.directory->find(name);
    if (!entry) return {};
    auto ref = child(in.number, entry->inode);
    if (!ref) return std::unexpected(ref.error());
    out = std::move(*ref);
    return {};
  };
  if (const Status ok = find(*plan.from, renaming.name, plan.source); !ok) return ok;
  if (const Status ok = find(*plan.to, renaming.new_name, plan.target); !ok) return ok;
  if (!plan.source) return fail(ENOENT);

  const bool exchange = (renaming.flags & RENAME_EXCHANGE) != 0;
  if (exchange && !plan.target) return fail(ENOENT);
  if (plan.target && (renaming.flags & RENAME_NOREPLACE) != 0) return fail(EEXIST);

  // A directory must not come to lie below itself.
  if (plan.source->is_directory() && !plan.same_directory) {
    const auto above = is_above(plan.source->number, renaming.new_parent);
    if (!above) return std::unexpected(above.error());
    if (*above) return fail(EINVAL);
  }
  if (plan.target && plan.target->is_directory() && !plan.same_directory) {
    const auto above = is_above(plan.target->number, renaming.parent);
    if (!above) return std::unexpected(above.error());
    if (*above) return fail(exchange ? EINVAL : ENOTEMPTY);
  }
  if (plan.target && !exchange) {
    if (plan.target->is_directory() && !plan.source->is_directory()) return fail(EISDIR);
    if (!plan.target->is_directory() && plan.source->is_directory()) return fail(ENOTDIR);
    if (plan.target->is_directory()) {
      if (const Status ok = load_directory(*plan.target); !ok) return ok;
    }
  }

  // Directories, ancestors first; then what is no directory, by number.
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

  // Names may have changed before the locks were ours (not by renames, but by creating and
  // unlinking).
  const auto still = [](Inode& in, std::string_view name, const InodeRef& expected) {
    const auto entry = in.directory->find(name);
    return entry ? expected && entry->inode == expected->number : !expected;
  };
  if (plan.from->record.links == 0 || plan.to->record.links == 0) return fail(ENOENT);
  if (!still(*plan.from, renaming.name, plan.source) ||
      !still(*plan.to, renaming.new_name, plan.target)) {
    return fail(EAGAIN);
  }
  // More names than its count says: others have taken its last one.
  if (plan.source->record.links == 0 || (plan.target && plan.target->record.links == 0)) {
    return fail(EUCLEAN);
  }
  if (plan.target && !exchange && plan.target->is_directory() && !plan.target->directory->empty()) {
    return fail(ENOTEMPTY);
  }
  return {};
}

Result<Verdict> Filesystem::commit_rename(const Renaming& renaming, RenamePlan& plan,
                                          const Requester& requester, const TicketRef& ticket) {
  Inode& from = *plan.from;
  Inode& to = *plan.to;
  Inode& source = *plan.source;
  Inode* target = plan.target ? &*plan.target : nullptr;
  if (target == &source) return Verdict::proceed;  // two names of one file: nothing to do (POSIX)
  const bool exchange = (renaming.flags & RENAME_EXCHANGE) != 0;

  if (target != nullptr && !exchange && target->is_regular() && target->record.links == 1) {
    if (!ticket) return Verdict::parked;
    if (const Status ok = writable(); !ok) return std::unexpected(ok.error());
    const FileRange all = to_end(FileBlock(0));
    const std::vector<PoolRange> blocks = target->extents->physical(all);
    const auto verdict = gate_.judge(ticket, {.inode = target->number,
                                              .range = all,
                                              .blocks = blocks,
                                              .requester = requester,
                                              .reason = DetachReason::rename_over,
                                              .policy = policy_of(*target),
                                              .offset = FileOffset(0),
                                              .length = ByteCount(target->record.size)});
    if (!verdict || *verdict == Verdict::parked) return verdict;
  }

  Transaction tx;
  const std::int64_t now = file_time_now();
  if (target == nullptr) {
    if (const Status room = to.directory->prepare_insert(tx, to.record, renaming.new_name.size());
        !room) {
      return std::unexpected(room.error());
    }
  }
  const auto type = [](const Inode& i) { return static_cast<std::uint8_t>(IFTODT(i.record.mode)); };
  if (exchange) {
    from.directory->replace(tx, renaming.name, target->number, type(*target));
    to.directory->replace(tx, renaming.new_name, source.number, type(source));
  } else {
    // The old name goes last: its block may become empty and leave the directory.
    if (target != nullptr) {
      to.directory->replace(tx, renaming.new_name, source.number, type(source));
    } else {
      to.directory->insert(tx, renaming.new_name, source.number, type(source));
    }
    from.directory->remove(tx, from.record, renaming.name, plan.released);
  }

  const auto moved = [&](Inode& inode, Inode& old_home, Inode& new_home) {
    inode.ctime = now;
    if (!inode.is_directory() || &old_home == &new_home) return;
    inode.record.parent = new_home.number.value;
    inode.parent = new_home.number.value;
    old_home.record.links -= 1;
    new_home.record.links += 1;
  };
  moved(source, from, to);
  if (exchange) {
    moved(*target, to, from);
  } else if (target != nullptr) {
    target->ctime = now;
    if (target->is_directory()) {
      target->record.links = 0;
      to.record.links -= 1;
    } else {
      target->record.links -= 1;
    }
  }
  for (Inode* directory : {&from, &to}) {
    directory->mtime = now;
    directory->ctime = now;
  }
  stage(tx, from);
  if (&to != &from) stage(tx, to);
  stage(tx, source);
  if (target != nullptr && is_dead(*target)) {
    plan.remains = dispose(tx, *target);
  } else if (target != nullptr) {
    stage(tx, *target);
  }
  const Status committed = commit(tx);

  if (target != nullptr) cache_.clear_name_hint(*target, renaming.new_parent, renaming.new_name);
  cache_.set_name_hint(source, renaming.new_parent, renaming.new_name);
  if (exchange) cache_.set_name_hint(*target, renaming.parent, renaming.name);
  if (!committed) return std::unexpected(committed.error());
  return Verdict::proceed;
}

Result<Verdict> Filesystem::rename_once(const Renaming& renaming, const Requester& requester,
                                        const TicketRef& ticket) {
  InodeRef loaded_target;  // stays in the table until the next plan, with what was loaded
  for (;;) {
    RenamePlan plan;
    std::unique_lock guard(rename_mutex_);
    Status planned = plan_rename(renaming, plan);
    if (planned && plan.target && plan.target->is_regular() && !plan.target->extents_loaded) {
      // Loading needs the lock that the plan holds: let go, load, plan again.
      plan.locks.clear();
      if (const Status loaded = load_extents(*plan.target); !loaded)
        return std::unexpected(loaded.error());
      loaded_target = std::move(plan.target);
      planned = fail(EAGAIN);
    }
    const Result<Verdict> verdict = planned ? commit_rename(renaming, plan, requester, ticket)
                                            : std::unexpected(planned.error());
    guard.unlock();
    for (const PoolRange& range : plan.released) (void)mount_.volume.allocator().free(range);
    std::erase_if(plan.locks, [&](const auto& lock) {
      return !plan.target || lock.mutex() != &plan.target->lock;
    });
    give_back(plan.remains);
    plan.locks.clear();
    if (!verdict && verdict.error().code == EAGAIN) continue;
    if (!verdict || *verdict == Verdict::parked) return verdict;
    // What could not be looked at under the locks of the plan.
    if (plan.target) dispose_if_dead(*plan.target);
    return verdict;
  }
}

Status Filesystem::check_renaming(const Renaming& renaming) {
  if (renaming.name.size() > pmem::kMaxName || renaming.new_name.size() > pmem::kMaxName)
    return fail(ENAMETOOLONG);
  const auto dots = [](std::string_view n) { return n.empty() || n == "." || n == ".."; };
  if (dots(renaming.name) || dots(renaming.new_name)) return fail(EBUSY);
  if ((renaming.flags & ~static_cast<unsigned>(RENAME_NOREPLACE | RENAME_EXCHANGE)) != 0 ||
      renaming.flags == (RENAME_NOREPLACE | RENAME_EXCHANGE)) {
    return fail(EINVAL);
  }
  return {};
}

Result<bool> Filesystem::rename_without_gate(const Renaming& renaming) {
  if (const Status ok = writable(); !ok) return std::unexpected(ok.error());
  if (const Status ok = check_renaming(renaming); !ok) return std::unexpected(ok.error());
  const auto verdict = rename_once(renaming, {}, nullptr);
  if (!verdict) return std::unexpected(verdict.error());
  return *verdict == Verdict::proceed;
}

void Filesystem::rename(const Renaming& renaming, const Caller& caller,
                        const CancellationRef& cancellation, Done done) {
  if (const Status ok = writable(); !ok) return done(ok);
  if (const Status ok = check_renaming(renaming); !ok) return done(ok);
  const Requester requester{processes_.process(caller.thread), caller.uid};
  run_at_gate(cancellation, [this, renaming, name = std::string(renaming.name),
                             new_name = std::string(renaming.new_name), requester,
                             done = std::move(done)](const TicketRef& ticket) {
    Renaming mine = renaming;
    mine.name = name;
    mine.new_name = new_name;
    const auto verdict = rename_once(mine, requester, ticket);
    if (verdict && *verdict == Verdict::parked) return true;
    done(verdict ? Status() : std::unexpected(verdict.error()));
    return false;
  });
}

}  // namespace daxfs
