// Extended attributes.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "blockmap/acl.h"
#include "blockmap/xattr.h"
#include "src/callers.h"
#include "src/health.h"
#include "src/inodes.h"
#include "src/mount.h"
#include "src/policies.h"

namespace daxfs {

// Thread-safe. Takes the inode's lock; changes are atomic and durable on return. Errors of all:
// EOPNOTSUPP, EINVAL and ERANGE for names that cannot be; of changes EPERM, of what its flags
// protect.
class Xattrs {
 public:
  Xattrs(const Mount& mount, Health& health, Inodes& inodes, Policies& policies)
      : mount_(mount), health_(health), inodes_(inodes), policies_(policies) {}

  // ENODATA; EUCLEAN: an access control list that cannot be.
  Result<std::string> get(InodeNumber inode, const std::string& name);
  Result<std::vector<std::string>> list(InodeNumber inode);
  // flags: XATTR_CREATE (EEXIST), XATTR_REPLACE (ENODATA). E2BIG, ENOSPC. The file's own policy:
  // see Policies::check(). An access control list changes the mode with it, in one transaction, and
  // is not kept if the mode says it all; an empty one is removed. EINVAL: no valid list; EACCES: a
  // default one of what is no directory.
  // `drop_setgid`: the caller may not leave the set-group-id bit to a file whose list it sets.
  Status set(InodeNumber inode, const std::string& name, std::string_view value, int flags,
             const Caller& caller, bool drop_setgid = false);
  // ENODATA, but for lists.
  Status remove(InodeNumber inode, const std::string& name, const Caller& caller);

  // Before contents change: a user who may write a file must not get what its former contents were
  // trusted with (security.capability). The kernel sees to that only where it writes through its
  // page cache. ENOSPC.
  Status drop_capability(Inode& inode);

 private:
  // What of the record changes with them is changed in `record`.
  using Change = std::function<Status(Inode&, pmem::InodeRecord& record, XattrMap&)>;
  enum class By : std::uint8_t { caller, write };
  Status change(InodeNumber inode, const std::string& name, By by, const Change& change);
  Status check_name(std::string_view name) const;
  Status set_acl(InodeNumber inode, const std::string& name, const Acl& acl, bool drop_setgid);
  Status remove_acl(InodeNumber inode, const std::string& name);

  const Mount& mount_;
  Health& health_;
  Inodes& inodes_;
  Policies& policies_;
};

}  // namespace daxfs
