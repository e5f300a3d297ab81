#include "fuse_ops/ops_beyond.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cerrno>
#include <cstdint>

#include "base/clock.h"
#include "fuse_ops/ops_control.h"

namespace daxfs::ops {
namespace {

struct StatxIn {
  std::uint32_t getattr_flags, reserved;
  std::uint64_t fh;
  std::uint32_t flags, mask;
};
struct StatxTime {
  std::int64_t seconds;
  std::uint32_t nanoseconds;
  std::int32_t reserved;
};
struct StatxOut {
  std::uint64_t valid;
  std::uint32_t valid_nanoseconds, flags;
  std::uint64_t spare[2];
  std::uint32_t mask, blksize;
  std::uint64_t attributes;
  std::uint32_t nlink, uid, gid;
  std::uint16_t mode, spare_short;
  std::uint64_t ino, size, blocks, attributes_mask;
  StatxTime atime, btime, ctime, mtime;
  std::uint32_t rdev_major, rdev_minor, dev_major, dev_minor;
  std::uint64_t spare_end[14];
};
static_assert(sizeof(StatxIn) == 24 && sizeof(StatxOut) == 32 + 256);

Caller caller(const Message& request) {
  const fuse_in_header& header = request.header();
  return {.uid = header.uid, .gid = header.gid, .thread = static_cast<pid_t>(header.pid)};
}

void fail_with(int code) { send_answer(code, {}); }

void tmpfile(Context& session, const Message& request) {
  const auto in = request.body<fuse_create_in>();
  if (!in) return fail_with(EINVAL);
  const InodeNumber parent{request.header().nodeid};
  if (is_control(parent.value)) return fail_with(EPERM);
  const bool linkable = (in->flags & O_EXCL) == 0;
  Caller maker = caller(request);
  maker.umask = in->umask;
  const auto entry =
      session.filesystem.names().make_unnamed(parent, in->mode & 07777, linkable, maker);
  if (!entry) return fail_with(entry.error().code);
  if (const int code = open_made(session, *entry, static_cast<int>(in->flags), send_create))
    fail_with(code);
}

StatxTime statx_time(const timespec& time) {
  return {static_cast<std::int64_t>(time.tv_sec), static_cast<std::uint32_t>(time.tv_nsec), 0};
}

void statx(Context& session, const Message& request) {
  if (!request.body<StatxIn>()) return fail_with(EINVAL);
  const InodeNumber inode{request.header().nodeid};
  const bool control = is_control(inode.value);
  std::int64_t birth = 0;
  const auto got = control ? session.control.attributes(inode)
                           : session.filesystem.attributes().get(inode, &birth);
  if (!got) return fail_with(got.error().code);
  const struct stat& from = *got;
  StatxOut out{};
  const double time = control ? kForever : believe(session.filesystem, inode);
  out.valid = static_cast<std::uint64_t>(time);
  out.mask = control ? STATX_BASIC_STATS : STATX_BASIC_STATS | STATX_BTIME;
  out.blksize = static_cast<std::uint32_t>(from.st_blksize);
  out.nlink = static_cast<std::uint32_t>(from.st_nlink);
  out.uid = from.st_uid;
  out.gid = from.st_gid;
  out.mode = static_cast<std::uint16_t>(from.st_mode);
  out.ino = from.st_ino;
  out.size = static_cast<std::uint64_t>(from.st_size);
  out.blocks = static_cast<std::uint64_t>(from.st_blocks);
  out.atime = statx_time(from.st_atim);
  out.mtime = statx_time(from.st_mtim);
  out.ctime = statx_time(from.st_ctim);
  if (!control) out.btime = statx_time(to_timespec(birth));
  out.rdev_major = major(from.st_rdev);
  out.rdev_minor = minor(from.st_rdev);
  const iovec body{&out, sizeof out};
  send_answer(0, {&body, 1});
}

}  // namespace

bool answer_beyond(Context& session, const Message& request) {
  switch (request.header().opcode) {
    case FUSE_TMPFILE:
      tmpfile(session, request);
      return true;
    case kOpcodeStatx:
      statx(session, request);
      return true;
    default:
      return false;
  }
}

}  // namespace daxfs::ops
