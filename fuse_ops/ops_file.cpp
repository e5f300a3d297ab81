// Open files: reading, writing, space. FLUSH stays unimplemented: a write is durable when it
// returns, and close must never wait for anything.
#include <fcntl.h>
#include <linux/falloc.h>
#include <poll.h>

#include <span>

#include "fuse_ops/ops_control.h"
#include "fuse_ops/wire.h"

namespace daxfs::ops {
namespace {

void open(fuse_req_t req, fuse_ino_t inode, fuse_file_info* info) {
  if (is_control(inode)) return control::open(req, inode, info);
  auto opened = fs(req).files().open({inode}, info->flags);
  if (!opened) {
    fuse_reply_err(req, opened.error().code);
    return;
  }
  Context& session = context(req);
  hand_over(session, std::move(*opened), *info);
  // The caller was interrupted: the kernel will send no release.
  if (reply_open(req, *info) == ENOENT) ops::release(session, *info);
}

void release(fuse_req_t req, fuse_ino_t inode, fuse_file_info* info) {
  if (is_control(inode)) return control::release(req, info);
  ops::release(context(req), *info);
  fuse_reply_err(req, 0);
}

void read(fuse_req_t req, fuse_ino_t inode, std::size_t size, off_t offset, fuse_file_info* info) {
  if (is_control(inode)) return control::read(req, size, offset, info);
  const OpenFileRef opened = file(info);
  // lock_owner is 0: the kernel reads for its page cache. A read for a caller names an owner.
  const bool for_page_cache = info->lock_owner == 0;
  const auto answer = [req, opened, offset, size, for_page_cache](auto reply_by) {
    const Status status = fs(req).reading().read(
        *opened, FileOffset(static_cast<std::uint64_t>(offset)), ByteCount(size),
        [req, reply_by](std::span<const iovec> data) { return reply_by(req, data); },
        for_page_cache);
    if (!status) fuse_reply_err(req, status.error().code);
  };
  const bool lacks = !for_page_cache &&
                     fs(req).reading().may_lack(
                         *opened, FileOffset(static_cast<std::uint64_t>(offset)), ByteCount(size));
  if (!lacks) return answer(reply_data);
  fs(req).kernel_pages().write_back(*opened, [answer](bool) { answer(reply_data_later); });
}

void write(fuse_req_t req, fuse_ino_t inode, const char* data, std::size_t size, off_t offset,
           fuse_file_info* info) {
  if (is_control(inode)) return control::write(req, {data, size}, info);
  const OpenFileRef opened = file(info);
  const bool pages = info->writepage != 0;
  fs(req).writing().write(*opened,
                          {.offset = FileOffset(static_cast<std::uint64_t>(offset)),
                           .data = std::as_bytes(std::span(data, size)),
                           .by_page_cache = pages,
                           .drop_privileges = current_write_drops_privileges(),
                           .caller = caller(req),
                           .at_end = !pages && (info->flags & O_APPEND) != 0,
                           .past_cache = (info->flags & O_DIRECT) != 0},
                          [req](const Result<std::size_t>& written) {
                            if (written) {
                              fuse_reply_write(req, *written);
                            } else {
                              fuse_reply_err(req, written.error().code);
                            }
                          });
}

// Nothing is left to do: the kernel has written dirty pages back before it asks. But it has to ask.
// It forgets pages that it cannot write because the daemon is gone, without an error, so that an
// msync or fsync that needs no answer from here would acknowledge them.
void fsync(fuse_req_t req, fuse_ino_t, int, fuse_file_info*) {
  reply(req, fs(req).health().durable());
}

void fallocate(fuse_req_t req, fuse_ino_t inode, int mode, off_t offset, off_t length,
               fuse_file_info* info) {
  if (is_control(inode)) return reply(req, fail(EOPNOTSUPP));
  if (offset < 0 || length <= 0) {
    fuse_reply_err(req, EINVAL);
    return;
  }
  const OpenFileRef opened = file(info);
  const FileOffset from(static_cast<std::uint64_t>(offset));
  const ByteCount count(static_cast<std::uint64_t>(length));
  const bool keep_size = (mode & FALLOC_FL_KEEP_SIZE) != 0;
  switch (mode & ~FALLOC_FL_KEEP_SIZE) {
    case 0:
      reply(req, fs(req).space().allocate(*opened, from, count, keep_size, caller(req)));
      return;
    case FALLOC_FL_ZERO_RANGE:
      reply(req, fs(req).space().zero_range(*opened, from, count, keep_size, caller(req)));
      return;
    case FALLOC_FL_PUNCH_HOLE: {
      const auto waiting = Waiting::of(req);
      fs(req).space().punch_hole(
          *opened, from, count, caller(req), waiting->cancellation(),
          [waiting](const Status& status) { reply(waiting->finish(), status); });
      return;
    }
    default:
      fuse_reply_err(req, EOPNOTSUPP);
  }
}

void lseek(fuse_req_t req, fuse_ino_t inode, off_t offset, int whence, fuse_file_info* info) {
  if (is_control(inode)) return reply(req, fail(EINVAL));
  if (offset < 0) {
    fuse_reply_err(req, ENXIO);
    return;
  }
  const OpenFileRef opened = file(info);
  // The kernel asks without writing its dirty pages first.
  fs(req).kernel_pages().write_back(*opened, [req, opened, offset, whence](bool written) {
    const auto found = fs(req).space().seek(*opened, FileOffset(static_cast<std::uint64_t>(offset)),
                                            whence, written);
    if (found) {
      fuse_reply_lseek(req, static_cast<off_t>(found->value));
    } else {
      fuse_reply_err(req, found.error().code);
    }
  });
}

// A regular file can always be read and written; POLLPRI says that its leases have news.
void poll(fuse_req_t req, fuse_ino_t inode, fuse_file_info* info, fuse_pollhandle* handle) {
  if (is_control(inode)) return control::poll(req, info, handle);
  const OpenFileRef opened = file(info);
  // First the handle, then the look: a message that comes in between wakes it.
  if (handle != nullptr) context(req).pollers.keep(opened->holder, handle);
  unsigned ready = POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM;
  if (fs(req).leases().has_news(*opened)) ready |= POLLPRI;
  fuse_reply_poll(req, ready);
}

}  // namespace

void add_file_ops(fuse_lowlevel_ops& ops) {
  ops.open = open;
  ops.release = release;
  ops.read = read;
  ops.write = write;
  ops.fsync = fsync;
  ops.fallocate = fallocate;
  ops.lseek = lseek;
  ops.poll = poll;
}

}  // namespace daxfs::ops
