// Extended attributes.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "blockmap/xattr.h"
#include "src/callers.h"
#include "src/health.h"
#include "src/inodes.h"
#include "src/mount.h"
#include "src/policies.h"

namespace daxfs {

// Thread-safe. Takes the inode's lock; changes are atomic and durable on return. Errors of all:
// EOPNOTSUPP and ERANGE for names that cannot be.
class Xattrs {
 public:
  Xattrs(const Mount& mount, Health& health, Inodes& inodes, Policies& policies)
      : mount_(mount), health_(health), inodes_(inodes), policies_(policies) {}

  Result<std::string> get(InodeNumber inode, const std::string& name);  // ENODATA
  Result<std::vector<std::string>> list(InodeNumber inode);
  // flags: XATTR_CREATE (EEXIST), XATTR_REPLACE (ENODATA). E2BIG, ENOSPC. The file's own policy:
  // see Policies::check().
  Status set(InodeNumber inode, const std::string& name, std::string_view value, int flags,
             const Caller& caller);
  Status remove(InodeNumber inode, const std::string& name, const Caller& caller);  // ENODATA

  // Before contents change: a user who may write a file must not get what its former contents were
  // trusted with (security.capability). The kernel sees to that only where it writes through its
  // page cache. ENOSPC.
  Status drop_capability(Inode& inode);

 private:
  using Change = std::function<Status(Inode&, XattrMap&)>;
  Status change(InodeNumber inode, const std::string& name, const Change& change);

  const Mount& mount_;
  Health& health_;
  Inodes& inodes_;
  Policies& policies_;
};

}  // namespace daxfs
