// Writing. In place, where blocks exist already: copied past the caches and fenced, with the lock
// held shared. Else with new blocks: data is durable before the metadata that shows it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"
#include "base/units.h"
#include "src/filling.h"
#include "src/health.h"
#include "src/inodes.h"
#include "src/kernel_pages.h"
#include "src/mount.h"
#include "src/open_file.h"
#include "src/waiting.h"
#include "src/xattrs.h"

namespace daxfs {

struct WriteRequest {
  FileOffset offset;
  std::span<const std::byte> data;
  // The kernel writes back whole pages of its cache. Of those of pinned blocks, only what a mapping
  // has stored into them is written; the rest may be older than the blocks (given_pages.h).
  bool by_page_cache = false;
  // A writer without CAP_FSETID: setuid and setgid bits go.
  bool drop_privileges = false;
  // With O_APPEND: `offset` is where the kernel takes the end of the file to be. If a pin has made
  // the file longer meanwhile, and the kernel does not know, it goes to the real end.
  bool at_end = false;
  // The kernel has no page of it: it has seen to that itself (cache=writeback).
  bool past_cache = false;
};

// Thread-safe; takes the file's lock, and holds none when it completes.
class Writing {
 public:
  Writing(const Mount& mount, Health& health, KernelPages& pages, Inodes& inodes, Xattrs& xattrs,
          Filling& filling)
      : mount_(mount),
        health_(health),
        pages_(pages),
        inodes_(inodes),
        xattrs_(xattrs),
        filling_(filling) {}

  // Completes with how much was written: a short count if space ran out half-way. It is durable,
  // and the kernel has no page that is older; so it can be later, from another
  // thread. `done` answers the caller: pages that have to be dropped although the kernel keeps them
  // locked until the answer are dropped behind it. EBADF, EINVAL, EFBIG, ENOSPC, EROFS, EIO.
  // The data need not stay longer than the call.
  void write(OpenFile& file, const WriteRequest& request, Completion<std::size_t> done);

 private:
  struct Part;
  Result<std::size_t> write_pages(OpenFile& file, const WriteRequest& request);
  // All of it or an error: nobody looks at a short count of pages.
  Status write_page_bytes(OpenFile& file, WriteRequest request);
  // The kernel has the times of what was written through its pages, and will set them.
  bool keeps_times(const WriteRequest& request) const {
    return request.by_page_cache && pages_.keeps_writes();
  }
  Result<std::size_t> write_bytes(OpenFile& file, const WriteRequest& request);
  // As much of the beginning as lies in written blocks (so that a short count is true if there is
  // no space for the rest); 0 if the write changes the size or the mode.
  std::size_t write_in_place(Inode& inode, const WriteRequest& request);
  // As much of the beginning as one transaction can show. 0: it has only begun to zero what lies
  // before; call it again.
  Result<std::size_t> write_allocating(Inode& inode, const WriteRequest& request);

  // Its steps; the lock is held exclusively.
  // How much one transaction can show, with blocks for its holes and room for its records.
  Status find_blocks(Part& part, NewBlocks& blocks);
  // Whether there is so much to zero before the write that a piece of that was done instead.
  Result<bool> zero_far_before(Part& part);
  void zero_unwritten(const Part& part, FileBlock from, FileBlock to);
  void store(Part& part);
  [[nodiscard]] Status show(Part& part, const WriteRequest& request);

  const Mount& mount_;
  Health& health_;
  KernelPages& pages_;
  Inodes& inodes_;
  Xattrs& xattrs_;
  Filling& filling_;
};

}  // namespace daxfs
