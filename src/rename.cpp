// rename(2): moving, replacing and exchanging names.
//
// One rename at a time (rename_mutex_), so that ancestry stands still while directories are locked
// in its order.
#include <dirent.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <shared_mutex>

#include "blockmap/detach.h"
#include "src/clock.h"
#include "src/filesystem.h"

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE 1
#define RENAME_EXCHANGE 2
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
  InodeRemains remains;             // of a replaced inode that nobody has open
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

Status Filesystem::plan_rename(const RenameArguments& arguments, RenamePlan& plan) {
  const auto directory = [this](InodeNumber number, InodeRef& out) -> Status {
    auto ref = cache_.get(number);
    if (!ref) return std::unexpected(ref.error());
    out = std::move(*ref);
    return load_directory(*out);
  };
  plan.same_directory = arguments.parent == arguments.new_parent;
  if (const Status ok = directory(arguments.parent, plan.from); !ok) return ok;
  if (const Status ok = directory(arguments.new_parent, plan.to); !ok) return ok;

  const auto find = [this](Inode& in, const std::string& name, InodeRef& out) -> Status {
    const std::shared_lock guard(in.lock);
    if (in.record.links == 0) return fail(ENOENT);
    const auto entry = in.directory->find(name);
    if (!entry) return {};
    auto ref = cache_.get(entry->inode);
    if (!ref) return std::unexpected(ref.error());
    out = std::move(*ref);
    return {};
  };
  if (const Status ok = find(*plan.from, arguments.name, plan.source); !ok) return ok;
  if (const Status ok = find(*plan.to, arguments.new_name, plan.target); !ok) return ok;
  if (!plan.source) return fail(ENOENT);

  const bool exchange = (arguments.flags & RENAME_EXCHANGE) != 0;
  if (exchange && !plan.target) return fail(ENOENT);
  if (plan.target && (arguments.flags & RENAME_NOREPLACE) != 0) return fail(EEXIST);

  // A directory must not come to lie below itself.
  if (plan.source->is_directory() && !plan.same_directory) {
    const auto above = is_above(plan.source->number, arguments.new_parent);
    if (!above) return std::unexpected(above.error());
    if (*above) return fail(EINVAL);
  }
  if (plan.target && plan.target->is_directory() && !plan.same_directory) {
    const auto above = is_above(plan.target->number, arguments.parent);
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
    const auto above = is_above(arguments.new_parent, arguments.parent);
    if (!above) return std::unexpected(above.error());
    const auto below = is_above(arguments.parent, arguments.new_parent);
    if (!below) return std::unexpected(below.error());
    const bool to_first = *above || (!*below && arguments.new_parent < arguments.parent);
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
  const auto still = [](Inode& in, const std::string& name, const InodeRef& expected) {
    const auto entry = in.directory->find(name);
    return entry ? expected && entry->inode == expected->number : !expected;
  };
  if (plan.from->record.links == 0 || plan.to->record.links == 0) return fail(ENOENT);
  if (!still(*plan.from, arguments.name, plan.source) ||
      !still(*plan.to, arguments.new_name, plan.target)) {
    return fail(EAGAIN);
  }
  if (plan.target && !exchange && plan.target->is_directory() && !plan.target->directory->empty()) {
    return fail(ENOTEMPTY);
  }
  return {};
}

Result<Verdict> Filesystem::commit_rename(const RenameArguments& arguments, RenamePlan& plan,
                                          const TicketRef& ticket) {
  Inode& from = *plan.from;
  Inode& to = *plan.to;
  Inode& source = *plan.source;
  Inode* target = plan.target ? &*plan.target : nullptr;
  if (target == &source) return Verdict::proceed;  // two names of one file: nothing to do (POSIX)
  const bool exchange = (arguments.flags & RENAME_EXCHANGE) != 0;

  if (target != nullptr && !exchange && target->is_regular() && target->record.links == 1) {
    const FileRange all = to_end(FileBlock(0));
    const std::vector<PoolRange> blocks = target->extents->physical(all);
    const auto verdict = gate_.judge(ticket, {.inode = target->number,
                                              .range = all,
                                              .blocks = blocks,
                                              .requester = arguments.requester,
                                              .reason = DetachReason::rename_over});
    if (!verdict || *verdict == Verdict::parked) return verdict;
  }

  Transaction tx;
  const std::int64_t now = file_time_now();
  if (target == nullptr) {
    if (const Status room = to.directory->prepare_insert(tx, to.record, arguments.new_name.size());
        !room) {
      return std::unexpected(room.error());
    }
  }
  const auto type = [](const Inode& i) { return static_cast<std::uint8_t>(IFTODT(i.record.mode)); };
  if (exchange) {
    from.directory->replace(tx, arguments.name, target->number, type(*target));
    to.directory->replace(tx, arguments.new_name, source.number, type(source));
  } else {
    // The old name goes last: its block may become empty and leave the directory.
    if (target != nullptr) {
      to.directory->replace(tx, arguments.new_name, source.number, type(source));
    } else {
      to.directory->insert(tx, arguments.new_name, source.number, type(source));
    }
    from.directory->remove(tx, from.record, arguments.name, plan.released);
  }

  const auto moved = [&](Inode& inode, Inode& old_home, Inode& new_home) {
    inode.ctime = now;
    if (!inode.is_directory() || &old_home == &new_home) return;
    inode.record.parent = new_home.number.value;
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
  volume_.journal().commit(tx);

  if (target != nullptr) cache_.clear_name_hint(*target, arguments.new_parent, arguments.new_name);
  cache_.set_name_hint(source, arguments.new_parent, arguments.new_name);
  if (exchange) cache_.set_name_hint(*target, arguments.parent, arguments.name);
  return Verdict::proceed;
}

Result<Verdict> Filesystem::rename_once(const RenameArguments& arguments, const TicketRef& ticket) {
  InodeRef loaded_target;  // stays in the table until the next plan, with what was loaded
  for (;;) {
    RenamePlan plan;
    Result<Verdict> verdict = Verdict::proceed;
    {
      const std::lock_guard guard(rename_mutex_);
      Status planned = plan_rename(arguments, plan);
      if (planned && plan.target && plan.target->is_regular() && !plan.target->extents_loaded) {
        // Loading needs the lock that the plan holds: let go, load, plan again.
        plan.locks.clear();
        if (const Status loaded = load_extents(*plan.target); !loaded)
          return std::unexpected(loaded.error());
        loaded_target = std::move(plan.target);
        planned = fail(EAGAIN);
      }
      verdict = planned ? commit_rename(arguments, plan, ticket) : std::unexpected(planned.error());
      plan.locks.clear();
    }
    if (!verdict && verdict.error().code == EAGAIN) continue;
    if (!verdict || *verdict == Verdict::parked) return verdict;
    for (const PoolRange& range : plan.released) (void)volume_.allocator().free(range);
    give_back(plan.remains);
    // What could not be looked at under the locks of the plan.
    if (plan.target) dispose_if_dead(*plan.target);
    return verdict;
  }
}

void Filesystem::rename(InodeNumber parent, std::string_view name, InodeNumber new_parent,
                        std::string_view new_name, unsigned flags, const Caller& caller,
                        const CancellationRef& cancellation, Done done) {
  if (const Status ok = writable(); !ok) return done(ok);
  if (name.size() > pmem::kMaxName || new_name.size() > pmem::kMaxName)
    return done(fail(ENAMETOOLONG));
  const auto dots = [](std::string_view n) { return n.empty() || n == "." || n == ".."; };
  if (dots(name) || dots(new_name)) return done(fail(EBUSY));
  if ((flags & ~static_cast<unsigned>(RENAME_NOREPLACE | RENAME_EXCHANGE)) != 0 ||
      flags == (RENAME_NOREPLACE | RENAME_EXCHANGE)) {
    return done(fail(EINVAL));
  }
  RenameArguments arguments{parent,     std::string(name),
                            new_parent, std::string(new_name),
                            flags,      {processes_.process(caller.thread), caller.uid}};
  run_at_gate(cancellation, [this, arguments = std::move(arguments),
                             done = std::move(done)](const TicketRef& ticket) {
    const auto verdict = rename_once(arguments, ticket);
    if (verdict && *verdict == Verdict::parked) return true;
    done(verdict ? Status() : std::unexpected(verdict.error()));
    return false;
  });
}

}  // namespace daxfs
