// Pins: taking them and giving them back.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "base/result.h"
#include "base/units.h"
#include "lease/gate.h"
#include "src/callers.h"
#include "src/filling.h"
#include "src/health.h"
#include "src/inodes.h"
#include "src/kernel_pages.h"
#include "src/mount.h"
#include "src/open_file.h"
#include "src/waiting.h"
#include "src/xattrs.h"

namespace daxfs {

struct PinRange {
  FileOffset offset;
  ByteCount length;
  std::uint32_t flags = 0;  // DAXFS_PIN_*
};

// Thread-safe; has no state of its own (the gate has the pins, the volume their records). Takes the
// file's lock: shared where all blocks are there, exclusively where some have to be made.
class Pins {
 public:
  Pins(const Mount& mount, Health& health, Gate& gate, KernelPages& pages, Inodes& inodes,
       Xattrs& xattrs, Filling& filling, Callers& callers)
      : mount_(mount),
        health_(health),
        gate_(gate),
        pages_(pages),
        inodes_(inodes),
        xattrs_(xattrs),
        filling_(filling),
        callers_(callers) {}

  // A pin over all blocks that the range touches. May wait behind a detach, and for what programs
  // have stored through the kernel's page cache; it is on the medium when this completes. EINVAL,
  // EBADF, ENXIO (a hole, without DAXFS_PIN_ALLOCATE), ENOSPC, EROFS, EIO, and as Gate::pin().
  void pin(OpenFile& file, const PinRange& range, const Caller& caller,
           const CancellationRef& cancellation, Completion<PinId> done);
  // `done` comes when nothing stale of the file is cached any more. ENOENT.
  void unpin(OpenFile& file, PinId pin, Done done);

  // So many write pins of the file have ended without unpin(): its times, and, in the background,
  // what the kernel has cached.
  void write_pins_ended(Inode& inode, std::uint32_t pins);

 private:
  struct Ask;
  using AskRef = std::shared_ptr<Ask>;
  void settle_pages_and_ask(const AskRef& ask);
  Result<std::optional<PinId>> pin_once(const Ask& ask, const TicketRef& ticket);
  // Makes the blocks that are missing; the lock is held exclusively.
  Result<Verdict> prepare(const Ask& ask, const TicketRef& ticket);
  // The lock is held, and all blocks are there.
  Result<std::optional<PinId>> take(const Ask& ask, const TicketRef& ticket);
  // Makes a long-term pin that was just taken outlive the daemon.
  Status record(const OpenFile& file, PinId pin, const PinRequest& request);
  void settle(const AskRef& ask, PinId pin);
  // The times alone.
  void touch_written(Inode& inode, std::uint32_t pins);

  const Mount& mount_;
  Health& health_;
  Gate& gate_;
  KernelPages& pages_;
  Inodes& inodes_;
  Xattrs& xattrs_;
  Filling& filling_;
  Callers& callers_;
};

}  // namespace daxfs
