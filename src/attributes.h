// Attributes of inodes: looking at them, and changing them, the size among them (truncate).
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <optional>

#include "base/result.h"
#include "base/units.h"
#include "lease/gate.h"
#include "src/acls.h"
#include "src/callers.h"
#include "src/detaching.h"
#include "src/filling.h"
#include "src/health.h"
#include "src/inodes.h"
#include "src/kernel_pages.h"
#include "src/mount.h"
#include "src/open_file.h"
#include "src/waiting.h"
#include "src/xattrs.h"

namespace daxfs {

// Which attributes to change (those that are set).
struct AttributeChange {
  std::optional<mode_t> mode;
  std::optional<uid_t> uid;
  std::optional<gid_t> gid;
  std::optional<std::uint64_t> size;
  std::optional<std::int64_t> atime_ns;
  std::optional<std::int64_t> mtime_ns;
  std::optional<std::int64_t> ctime_ns;
  bool times_are_now = false;    // atime and mtime, by who may write but need not be the owner
  bool of_kept_writes = false;   // nobody sets them: times of what the kernel kept until now
  bool drop_privileges = false;  // a writer without CAP_FSETID: setuid and setgid bits go
  bool is_empty() const { return !mode && !uid && !gid && !size && !atime_ns && !mtime_ns; }
};

// Thread-safe; takes the inode's lock. What has succeeded is durable.
class Attributes {
 public:
  Attributes(const Mount& mount, Health& health, Gate& gate, KernelPages& pages, Inodes& inodes,
             Acls& acls, Xattrs& xattrs, Filling& filling, Detaching& detaching, Callers& callers)
      : mount_(mount),
        health_(health),
        gate_(gate),
        pages_(pages),
        inodes_(inodes),
        acls_(acls),
        xattrs_(xattrs),
        filling_(filling),
        detaching_(detaching),
        callers_(callers) {}

  // `birth_ns`: when it was made, which a stat does not hold.
  Result<struct stat> get(InodeNumber inode, std::int64_t* birth_ns = nullptr);
  // The kernel asks before a write(2) that it may keep, if it must not believe what it knows (see
  // must_ask_again()). ENOSPC, once, if what it kept before did not fit; EPERM if the file's flags
  // protect it.
  Result<struct stat> for_write(const OpenFile& file);
  // The flags of a file protect it from some who have it open, whose writes the kernel would keep.
  bool must_ask_again(InodeNumber inode);
  // A smaller size asks the gate, and may wait there; everything else answers at once. All of it or
  // nothing. EPERM: its flags protect it. `through`: the open file description of ftruncate(2);
  // none for what goes by path.
  void set(InodeNumber inode, const AttributeChange& change, std::optional<HolderId> through,
           const Caller& caller, const CancellationRef& cancellation, Completion<struct stat> done);

 private:
  // `request`: for the gate, if the size changes. Lock taken.
  Result<Verdict> change_once(Inode& inode, const AttributeChange& change, const Caller& caller,
                              const DetachRequest& request, const TicketRef& ticket);
  Result<Verdict> cut_off(Inode& inode, FileRange tail, const Status& committed)
      REQUIRES(inode.lock);
  // `acl`: what the access control list becomes with a new mode.
  void change_size(Inode& inode, const AttributeChange& change, const Caller& caller,
                   std::int64_t now, std::optional<WrittenXattrs>& acl) REQUIRES(inode.lock);

  const Mount& mount_;
  Health& health_;
  Gate& gate_;
  KernelPages& pages_;
  Inodes& inodes_;
  Acls& acls_;
  Xattrs& xattrs_;
  Filling& filling_;
  Detaching& detaching_;
  Callers& callers_;
};

}  // namespace daxfs
