// What the kernel has cached of files, and what of that is stale.
#pragma once

#include <sys/uio.h>

#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "src/given_pages.h"
#include "src/inode.h"
#include "src/kernel_cache.h"
#include "src/open_file.h"

namespace daxfs {

// Thread-safe; never blocks. Without a kernel (tests) nothing is cached, and nothing is stale.
// Its lock is a leaf; where an inode's lock has to be held, it says so.
class KernelPages {
 public:
  // Hands bytes to the caller that asked for them; false if they could not be read where they lie.
  using Send = std::function<bool(std::span<const iovec>)>;

  // `keeps_writes`: it keeps what is written through its pages for a while (cache=writeback), and
  // takes neither sizes nor times of regular files from us.
  KernelPages(KernelCache* kernel, bool keeps_writes)
      : kernel_(kernel), keeps_writes_(keeps_writes) {}
  bool keeps_writes() const { return keeps_writes_; }

  // --- stale ---
  // Attributes (size, times, mode) have changed without the kernel's doing. With cache=writeback it
  // learns of a size when pages are dropped next.
  void attributes_changed(InodeNumber inode);
  // All pages that were given until now, dropped in the background: no caller waits. The next open
  // drops them, too.
  void drop(Inode& inode);
  // `done` with true once the kernel has no page of it but such as were read since this was called,
  // and what programs have stored through its page cache is on the medium: to be asked for before
  // anything looks there for data and holes. At once if the kernel has no pages. With false where
  // they cannot be written now: while a truncate waits.
  void write_back(OpenFile& file, std::function<void(bool)> done);
  // After a write: `then` once no page that the kernel has cached is older than it (a write past
  // the page cache, on kernels that do not drop the pages themselves).
  template <class Then>
  void after_write(OpenFile& file, Then then) {
    if (!file.direct || !begin_drop(*file.inode)) return then();
    finish_drop(file, KernelCache::Asker::write, [then = std::move(then)](bool) { then(); });
  }
  // A truncate begins to wait at the gate; it has ended.
  void truncate_waits(Inode& inode);
  void truncate_ends(Inode& inode);

  // --- what it was given ---
  // The kernel is about to cache pages.
  static void note_cached(Inode& inode);  // may wait, a few milliseconds, for clients that copy
  // Whether anything of pinned blocks is remembered: else what comes back is to be written as it
  // is.
  bool remembers_any() const { return given_.any(); }
  // Pages of a file that is pinned for writing have come back, and were answered. The kernel must
  // not keep them: a program that writes there again would change some bytes of what was there
  // before the holder's last store. (Only cache=writeback; else a write(2) comes at once.)
  void came_back(Inode& inode) {
    if (keeps_writes_ && inode.write_pins != 0) drop(inode);
  }
  // Sends `pieces` for its page cache, and remembers those of `pinned` blocks. The inode's lock is
  // held, shared.
  bool send(Inode& inode, FileOffset offset, std::span<const iovec> pieces,
            std::span<const FileRange> pinned, const Send& send);
  // The next write(2) is to hear of it: the kernel asks for attributes before it, and hands on an
  // error (Attributes::for_write()). Only cache=writeback; else nobody has kept anything.
  void did_not_fit(Inode& inode) {
    if (!keeps_writes_) return;
    inode.lost_for_space = true;
    attributes_changed(inode.number);
  }
  // What of pages that come back is to be written.
  std::vector<GivenPages::Piece> changes(const Inode& inode, FileOffset offset,
                                         std::span<const std::byte> data);
  // A program has written through the page cache: the kernel has this in its pages, too.
  void written(const Inode& inode, FileOffset offset, std::span<const std::byte> data);
  // The kernel clears this part of its pages, and lets go of whole ones.
  void zeroed(const Inode& inode, FileOffset offset, ByteCount length);
  // This part has been written past its pages, which it has dropped.
  void passed(const Inode& inode, FileOffset offset, ByteCount length);
  // The inode is no more.
  void forget(const Inode& inode);

 private:
  // Whether there may be pages to drop; then finish_drop() has to follow.
  bool begin_drop(Inode& inode);
  void finish_drop(OpenFile& file, KernelCache::Asker asker, std::function<void(bool)> done);

  KernelCache* const kernel_;
  const bool keeps_writes_;
  GivenPages given_;
};

}  // namespace daxfs
