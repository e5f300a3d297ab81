// Opening and closing, and what becomes of pins whose process has ended: in grace, or left over
// from a former daemon.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "lease/gate.h"
#include "src/callers.h"
#include "src/grace.h"
#include "src/health.h"
#include "src/inodes.h"
#include "src/mount.h"
#include "src/open_file.h"
#include "src/pins.h"
#include "src/survivors.h"

namespace daxfs {

// Thread-safe. open() and release() take the inode's lock, shared, and exclusively only for what
// they free themselves.
class Files {
 public:
  // Puts the survivors of a former daemon into the gate, and begins to watch them.
  Files(const Mount& mount, Health& health, Gate& gate, Inodes& inodes, Pins& pins,
        Callers& callers);

  // flags as for open(2); O_TRUNC is not handled here (Attributes::set() is). Close with release().
  // EISDIR, EINVAL for all but regular files, EROFS, EIO, ESTALE; EPERM for writing to one that may
  // not change, or only at its end.
  Result<OpenFileRef> open(InodeNumber inode, int flags);
  // Drops the holder's pins and leases; at the last close of an unlinked file, frees it.
  void release(OpenFileRef file);
  // For a file that is still open when the mount ends: its holder may go on using what it has
  // mapped, so what is recorded of its pins stays for the next mount.
  void abandon(OpenFileRef file);

  // The caller has asked where pins of this descriptor lie, and so may work there: a forked child.
  void note_user(OpenFile& file, const Caller& caller);
  // A long-term pin that the caller's process took under a former daemon (survivors.h) goes to this
  // file. ENOENT, EPERM, EBADF.
  Status adopt(OpenFile& file, PinId pin, const Caller& caller);
  // Ends a survivor's pin, given by its number in decimal, whose process cannot be seen
  // (Survivors::release()). EPERM: not this caller; EINVAL: no number.
  Status release_pin(std::string_view text, const Caller& caller);

  std::vector<Survivors::Survivor> survivors() const { return survivors_->list(); }
  // Whether the file of this pin had gone before the mount: its number may be another file's.
  bool has_no_file(PinId pin) const { return survivors_->has_no_file(pin); }
  // How long a holder's pins may still stay; nothing if it is not in grace.
  std::optional<std::chrono::milliseconds> grace_left(HolderId holder) const {
    return grace_->left(holder);
  }

  // From now on nobody's pins end by themselves: their records stay for the next mount. Idempotent.
  void stop_watching();
  // stop_watching(), and lets go of the inodes of survivors. No call may follow but another end().
  void end();

 private:
  const Mount& mount_;
  Health& health_;
  Gate& gate_;
  Inodes& inodes_;
  Pins& pins_;
  Callers& callers_;
  std::unique_ptr<Grace> grace_;
  std::unique_ptr<Survivors> survivors_;
};

}  // namespace daxfs
