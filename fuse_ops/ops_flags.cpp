#include "fuse_ops/ops_flags.h"

#include <linux/fs.h>

#include <cstring>
#include <optional>

#include "fuse_ops/ops.h"

namespace daxfs::ops {
namespace {

struct Names {
  std::uint16_t ours;
  std::uint32_t flag;   // FS_IOC_GETFLAGS
  std::uint32_t xflag;  // FS_IOC_FSGETXATTR; 0: not to be seen there
};
constexpr Names kNames[] = {
    {pmem::kInodeImmutable, FS_IMMUTABLE_FL, FS_XFLAG_IMMUTABLE},
    {pmem::kInodeAppendOnly, FS_APPEND_FL, FS_XFLAG_APPEND},
    {pmem::kInodeNoAtime, FS_NOATIME_FL, FS_XFLAG_NOATIME},
    {pmem::kInodeNoDump, FS_NODUMP_FL, FS_XFLAG_NODUMP},
    {pmem::kInodeSync, FS_SYNC_FL, FS_XFLAG_SYNC},
    {pmem::kInodeDirSync, FS_DIRSYNC_FL, 0},
};

std::uint32_t to_linux(std::uint16_t ours, std::uint32_t Names::*as) {
  std::uint32_t out = 0;
  for (const Names& one : kNames) {
    if ((ours & one.ours) != 0) out |= one.*as;
  }
  return out;
}

// Nothing if there are others among them.
std::optional<std::uint16_t> from_linux(std::uint32_t flags, std::uint32_t Names::*as) {
  std::uint16_t out = 0;
  for (const Names& one : kNames) {
    if (one.*as != 0 && (flags & one.*as) != 0) out = static_cast<std::uint16_t>(out | one.ours);
  }
  return to_linux(out, as) == flags ? std::optional(out) : std::nullopt;
}

void set(fuse_req_t req, InodeNumber inode, std::uint16_t flags, const OpenFileRef& opened) {
  const auto change = [req, inode, flags](bool written) {
    // A truncate waits, so what is kept of the file could be written only when it may not be.
    if (!written) return reply(req, fail(EBUSY));
    const Status done = fs(req).inode_flags().set(inode, flags);
    if (done) {
      fuse_reply_ioctl(req, 0, nullptr, 0);
    } else {
      fuse_reply_err(req, done.error().code);
    }
  };
  // What the kernel has kept until now is still written: what mappings have stored, and with
  // cache=writeback what write(2) has. What comes afterwards is not.
  if (opened && (flags & (pmem::kInodeImmutable | pmem::kInodeAppendOnly)) != 0) {
    fs(req).kernel_pages().write_back(*opened, [change, opened](bool written) { change(written); });
  } else {
    change(true);
  }
}

void get(fuse_req_t req, InodeNumber inode, unsigned command) {
  const auto flags = fs(req).inode_flags().get(inode);
  if (!flags) {
    fuse_reply_err(req, flags.error().code);
  } else if (command == FS_IOC_GETFLAGS) {
    const std::uint32_t out = to_linux(*flags, &Names::flag);
    fuse_reply_ioctl(req, 0, &out, sizeof out);
  } else {
    fsxattr out{};
    out.fsx_xflags = to_linux(*flags, &Names::xflag);
    fuse_reply_ioctl(req, 0, &out, sizeof out);
  }
}

void set_flags(fuse_req_t req, InodeNumber inode, const OpenFileRef& opened, const void* in) {
  std::uint32_t asked = 0;
  std::memcpy(&asked, in, sizeof asked);
  const auto flags = from_linux(asked, &Names::flag);
  if (!flags) return reply(req, fail(EOPNOTSUPP));
  set(req, inode, *flags, opened);
}

void set_xflags(fuse_req_t req, InodeNumber inode, const OpenFileRef& opened, const void* in) {
  fsxattr asked{};
  std::memcpy(&asked, in, sizeof asked);
  const auto flags = from_linux(asked.fsx_xflags, &Names::xflag);
  const auto now = fs(req).inode_flags().get(inode);
  if (!now) return reply(req, fail(now.error().code));
  // There are no projects, and no hints of sizes.
  if (!flags || asked.fsx_projid != 0 || asked.fsx_extsize != 0 || asked.fsx_cowextsize != 0)
    return reply(req, fail(EOPNOTSUPP));
  set(req, inode, static_cast<std::uint16_t>(*flags | (*now & pmem::kInodeDirSync)), opened);
}

}  // namespace

bool is_about_flags(unsigned command) {
  return command == FS_IOC_GETFLAGS || command == FS_IOC_SETFLAGS || command == FS_IOC_FSGETXATTR ||
         command == FS_IOC_FSSETXATTR;
}

void ioctl_flags(fuse_req_t req, fuse_ino_t inode, unsigned command, const OpenFileRef& opened,
                 const void* in, std::size_t in_size) {
  if (command == FS_IOC_GETFLAGS || command == FS_IOC_FSGETXATTR) return get(req, {inode}, command);
  const std::size_t needed = command == FS_IOC_SETFLAGS ? sizeof(std::uint32_t) : sizeof(fsxattr);
  if (in_size < needed) return reply(req, fail(EINVAL));
  command == FS_IOC_SETFLAGS ? set_flags(req, {inode}, opened, in)
                             : set_xflags(req, {inode}, opened, in);
}

}  // namespace daxfs::ops
