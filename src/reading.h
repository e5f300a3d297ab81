// Reading: the bytes are handed over where they lie in the pool.
#pragma once

#include <sys/uio.h>

#include <span>

#include "base/result.h"
#include "base/units.h"
#include "lease/gate.h"
#include "src/health.h"
#include "src/inodes.h"
#include "src/kernel_pages.h"
#include "src/mount.h"
#include "src/open_file.h"

namespace daxfs {

// Thread-safe; has no state of its own. The file's lock is held shared until the bytes are sent, so
// a reply in flight is a short-term pin that every detach waits for.
class Reading {
 public:
  Reading(const Mount& mount, Health& health, Gate& gate, KernelPages& pages, Inodes& inodes)
      : mount_(mount), health_(health), gate_(gate), pages_(pages), inodes_(inodes) {}

  // Hands the bytes to `send`, while the file's blocks are held in place. Fewer bytes than asked at
  // the end of the file. `send` returns false if they could not be read there (the caller got EIO
  // then). EIO: the storage below them is gone; EBADF, EINVAL.
  // `pages`: the kernel reads for its page cache. It may use any descriptor for that, also a direct
  // one (when that is mapped).
  using Send = KernelPages::Send;
  // Whether a read that goes past the page cache would end too early: with cache=writeback the
  // kernel writes back only what is read before, and what it keeps behind may make the file longer.
  // KernelPages::write_back() first.
  bool may_lack(OpenFile& file, FileOffset offset, ByteCount length) const;
  Status read(OpenFile& file, FileOffset offset, ByteCount length, const Send& send,
              bool pages = false);

 private:
  // Which blocks of the bytes are pinned. Lock held shared.
  std::vector<FileRange> pinned(const Inode& inode, FileRange blocks) const
      REQUIRES_SHARED(inode.lock);
  void note_unreadable(const Inode& inode, FileOffset offset, ByteCount length);

  const Mount& mount_;
  Health& health_;
  Gate& gate_;
  KernelPages& pages_;
  Inodes& inodes_;
};

}  // namespace daxfs
