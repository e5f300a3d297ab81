// Access control lists of inodes (blockmap/acl.h): what a new file inherits from its directory, and
// what chmod(2) makes of a list. Reading, setting and removing them is as for any other extended
// attribute (xattrs.h). Who may do what is decided by the kernel, which reads and caches them.
#pragma once

#include <sys/types.h>

#include <optional>

#include "base/result.h"
#include "blockmap/acl.h"
#include "blockmap/xattr.h"
#include "src/inode.h"
#include "src/mount.h"

namespace daxfs {

// Has no state of its own; thread-safe. Costs a look at one bit where there is no list.
class Acls {
 public:
  explicit Acls(const Mount& mount) : mount_(mount) {}

  // The attributes of a new inode in this directory. `mode`, with which it was asked for, becomes
  // the one that it is to have: what the directory's default list leaves of it, or else the umask.
  // EUCLEAN.
  Result<XattrMap> inherit(Inode& directory, mode_t& mode, mode_t umask)
      REQUIRES_SHARED(directory.lock);

  // For a change of the mode: the attributes with a list that is in step with it, to be shown in
  // the record that has the new mode. Nothing if there is no list. ENOSPC, EUCLEAN.
  Result<std::optional<WrittenXattrs>> follow(Inode& inode, mode_t mode) REQUIRES(inode.lock);

 private:
  const Mount& mount_;
};

}  // namespace daxfs
