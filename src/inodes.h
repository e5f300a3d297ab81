// The inodes in use: finding them, loading their indexes, storing what has changed of one, and the
// end of those that have no name.
//
// The end of an unlinked file is one transaction that empties its slot on the medium, so that
// nothing is left for a mount to finish; its number stays taken while the kernel knows it.
#pragma once

#include <absl/functional/function_ref.h>

#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/units.h"
#include "blockmap/journal.h"
#include "blockmap/volume/detach.h"
#include "lease/gate.h"
#include "src/health.h"
#include "src/inode.h"
#include "src/kernel_pages.h"
#include "src/mount.h"
#include "src/policies.h"

namespace daxfs {

// Thread-safe. An inode's own lock is the caller's business: for each function it is said whether
// it is held shared or exclusively, or taken here (then the caller must not hold it).
class Inodes {
 public:
  Inodes(const Mount& mount, Health& health, Gate& gate, KernelPages& pages, Policies& policies);

  // --- the table ---
  // ESTALE for numbers that are no inode.
  Result<InodeRef> get(InodeNumber number) { return table_.get(number); }
  // What a name in the directory, whose lock is held, says. EUCLEAN: a directory that has another
  // parent. Nobody goes to one by such a name, so locking parents before their children is an
  // order even on a damaged medium.
  Result<InodeRef> child(InodeNumber directory, InodeNumber number);
  // One that was just made and is not committed yet: locked before anybody sees it.
  InodeRef adopt(InodeNumber number, const pmem::InodeRecord& record);
  // Calls `look` unless the inode is in use; nobody begins to use it meanwhile.
  bool if_absent(InodeNumber number, absl::FunctionRef<void()> look) {
    return table_.if_absent(number, look);
  }
  // The references that the kernel has (FUSE lookup counts).
  void add_lookup(Inode& inode) { table_.add_lookups(inode, 1); }
  void forget(InodeNumber number, std::uint64_t lookups) { table_.drop(number, lookups); }

  // --- names for people ---
  void set_name(Inode& inode, InodeNumber parent, std::string_view name) {
    table_.set_name_hint(inode, parent, name);
  }
  // It has this name no more.
  void clear_name(Inode& inode, InodeNumber parent, std::string_view name) {
    table_.clear_name_hint(inode, parent, name);
  }
  // Relative to the mount's root ("/a/b"); "" when none is known.
  std::string path_of(InodeNumber inode);

  // --- loading: the lock is taken if there is something to load ---
  Status load_extents(Inode& inode) EXCLUDES(inode.lock);
  Status load_directory(Inode& inode) EXCLUDES(inode.lock);  // ENOTDIR

  // --- storing ---
  // Exclusive. Its record, with the times as they are now.
  void stage(Transaction& tx, Inode& inode) REQUIRES(inode.lock);
  // Exclusive. stage(), in a transaction of its own. EIO.
  [[nodiscard]] Status commit(Inode& inode) REQUIRES(inode.lock);
  // Shared. mtime and ctime are now; fences (then ask Health::durable()).
  void touch(Inode& inode) REQUIRES_SHARED(inode.lock);
  // Any, or none. What clients have changed by themselves since the last call counts as a change
  // when they say it was. Not durable: as with stores through a mapping, a crash may lose it.
  void note_written(Inode& inode);
  // Shared. As the mount's option and the inode's flags say: whether a read changes it, and its
  // change.
  bool atime_is_due(const Inode& inode) const REQUIRES_SHARED(inode.lock);
  void update_atime(Inode& inode) REQUIRES_SHARED(inode.lock);
  // Exclusive. Takes these set-id bits away, from the kernel's cached attributes as well: its
  // replies to write(2), fallocate(2) and a pin's ioctl bring it no mode. True if it has had one of
  // them: the record is to be staged and committed before the lock is let go.
  bool take_setid(Inode& inode, mode_t bits) REQUIRES(inode.lock);
  bool drop_privileges(Inode& inode) REQUIRES(inode.lock) {
    return take_setid(inode, inode.privileges());
  }

  // --- the end ---
  // The blocks of an inode that has ended.
  struct Remains {
    InodeNumber inode;
    InodeRemains blocks;
    std::optional<PinPolicy> policy;  // the file's own
  };
  // Shared: unlinked, closed, and not yet disposed of.
  bool is_dead(const Inode& inode) const REQUIRES_SHARED(inode.lock);
  // Exclusive. Precondition: is_dead(). Stages its end; the caller commits, then gives back, and
  // then lets go of the lock.
  Remains dispose(Transaction& tx, Inode& inode) REQUIRES(inode.lock);
  // `asked`: the request in which the gate let these blocks go, if it was asked. Nothing to do for
  // remains of no inode.
  void give_back(const Remains& remains, const TicketRef& asked = nullptr);
  // Takes the lock; all of the above.
  void dispose_if_dead(Inode& inode) EXCLUDES(inode.lock);
  // At the unmount: none is in use from now on. Nobody else uses any.
  void end_all();

 private:
  void last_reference(Inode& inode) EXCLUDES(inode.lock);  // nobody else has it

  const Mount& mount_;
  Health& health_;
  Gate& gate_;
  KernelPages& pages_;
  Policies& policies_;
  InodeTableCache table_;
  InodeRef root_;  // the kernel never looks it up, so nothing else would keep its index
};

}  // namespace daxfs
