// The flags of files and directories that chattr(1) shows and changes. Who may change them is the
// kernel's decision (the owner; CAP_LINUX_IMMUTABLE for the two that protect); what they forbid is
// asked for by each operation, since the kernel does not know of them (Inode::is_immutable()).
#pragma once

#include <cstdint>

#include "base/result.h"
#include "base/units.h"
#include "src/health.h"
#include "src/inodes.h"
#include "src/kernel_pages.h"
#include "src/mount.h"

namespace daxfs {

// Thread-safe; takes the inode's lock. What has succeeded is durable.
class InodeFlags {
 public:
  InodeFlags(const Mount& mount, Health& health, KernelPages& pages, Inodes& inodes)
      : mount_(mount), health_(health), pages_(pages), inodes_(inodes) {}

  // pmem::kInode*. ESTALE.
  Result<std::uint16_t> get(InodeNumber inode);
  // EOPNOTSUPP: flags that this type of file has not. EPERM: others of one that stays immutable.
  // ETXTBSY: it is pinned for writing, so it would change all the same. What the kernel has kept of
  // a file that is to be protected must be on the medium before (KernelPages::write_back()):
  // afterwards it is refused.
  Status set(InodeNumber inode, std::uint16_t flags);

 private:
  const Mount& mount_;
  Health& health_;
  KernelPages& pages_;
  Inodes& inodes_;
};

}  // namespace daxfs
