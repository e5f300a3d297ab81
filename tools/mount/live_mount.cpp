#include "tools/mount/live_mount.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "blockmap/format.h"
#include "client/daxfs.h"

namespace daxfs {

Outcome<LiveMount> LiveMount::of(const std::string& pool, const std::string& mountpoint) {
  UniqueFd fd(open(mountpoint.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) {
    const int code = errno;
    if (code != ENOTCONN && code != ECONNABORTED)
      return problem(code, fmt::format("mount point {}: {}", mountpoint, std::strerror(code)));
    return problem(ENOTCONN, fmt::format("mount point {}: a mount whose daemon has died; umount it "
                                         "and mount it again",
                                         mountpoint));
  }
  struct statfs filesystem {};
  daxfs_pool_args served{};
  if (fstatfs(fd.get(), &filesystem) != 0 || filesystem.f_type != FUSE_SUPER_MAGIC ||
      ioctl(fd.get(), DAXFS_IOC_POOL, &served) != 0) {
    return problem(ENOTTY, fmt::format("mount point {}: no daxfs is mounted there; mount it "
                                       "without remount",
                                       mountpoint));
  }
  // The file can have been moved since, and another have its name.
  struct stat wanted {};
  const bool same = stat(pool.c_str(), &wanted) == 0 && wanted.st_dev == served.device &&
                    wanted.st_ino == served.inode;
  if (!same && pool != served.path) {
    return problem(ENOTTY,
                   fmt::format("mount point {}: the pool there is {}, not {}; name that one",
                               mountpoint, served.path, pool));
  }
  auto mount = ctl::Mount::at(mountpoint);
  if (!mount) return std::unexpected(mount.error());
  return LiveMount(mountpoint, std::move(fd), std::move(*mount));
}

// What is in the directory may be its owner's invention, but in the root.
bool LiveMount::is_whole() const {
  struct stat directory {};
  return fstat(fd_.get(), &directory) == 0 && directory.st_ino == kRootInode.value;
}

Result<unsigned long> LiveMount::flags() const {
  struct statvfs now {};
  if (fstatvfs(fd_.get(), &now) != 0) return fail(errno);
  constexpr std::pair<unsigned long, unsigned long> kAlike[] = {
      {ST_RDONLY, MS_RDONLY},         {ST_NOSUID, MS_NOSUID},           {ST_NODEV, MS_NODEV},
      {ST_NOEXEC, MS_NOEXEC},         {ST_SYNCHRONOUS, MS_SYNCHRONOUS}, {ST_NOATIME, MS_NOATIME},
      {ST_NODIRATIME, MS_NODIRATIME}, {ST_RELATIME, MS_RELATIME}};
  unsigned long flags = 0;
  for (const auto& [seen, given] : kAlike) flags |= (now.f_flag & seen) != 0 ? given : 0;
  return flags;
}

Outcome<ctl::Json> LiveMount::status() const { return mount_.query_one(DAXFS_QUERY_STATUS); }

Outcome<std::string> LiveMount::policy() const {
  if (!is_whole())
    return problem(ENOTTY, path_ + ": only a directory of the pool; its policy is told elsewhere");
  return mount_.read_control("policy");
}

Outcome<void> LiveMount::set_policy(const std::string& settings) const {
  return mount_.set_policy(settings);
}

Outcome<void> LiveMount::set_read_only(bool read_only) const {
  daxfs_remount_args args{};
  args.read_only = read_only ? 1 : 0;
  if (ioctl(fd_.get(), DAXFS_IOC_REMOUNT, &args) == 0) return {};
  const int code = errno;
  switch (code) {
    case EBUSY:
      return problem(code, fmt::format("{0}: write pins are held, or files are attached, and what "
                                       "they cover can change at any time; end their holders "
                                       "(daxfsctl pins {0}, daxfsctl attached {0})",
                                       path_));
    case EROFS:
      return problem(code, fmt::format("{}: was mounted read-only, so its daemon cannot write the "
                                       "pool; umount it, and mount it with -o rw",
                                       path_));
    case EPERM:
      return problem(code, path_ + ": only root and the user who mounted may remount it");
    case ENOTTY:
      return problem(code, path_ +
                               ": its daemon is too old for this; umount it, and mount it "
                               "again");
    default:
      return problem(code, fmt::format("{}: {}", path_, std::strerror(code)));
  }
}

std::optional<Difference> difference(const ctl::Json& status, const MountOptions& options) {
  if (const std::string cache = status.value("cache", "through");
      options.says_cache && cache != to_string(options.cache))
    return Difference{"cache=" + cache, fmt::format("cache={}", to_string(options.cache))};
  if (std::string atime = status.value("atime", "relatime");
      options.says_atime && atime != to_string(options.atime))
    return Difference{std::move(atime), std::string(to_string(options.atime))};
  if (const bool acl = status.value("acl", true); options.says_acl && acl != options.acl)
    return Difference{acl ? "acl" : "noacl", options.acl ? "acl" : "noacl"};
  // Nothing says that they are not wanted.
  if (options.direct && !status.value("direct", false)) return Difference{"no direct", "direct"};
  if (options.unsafe_demo && !status.value("unsafe_demo", false))
    return Difference{"no unsafe_demo", "unsafe_demo"};
  return std::nullopt;
}

unsigned long with_words(unsigned long flags, const MountOptions& options) {
  constexpr unsigned long kLifted = MS_NOEXEC | MS_SYNCHRONOUS | MS_DIRSYNC;
  if (options.shows_mount) flags &= ~kLifted;
  for (const std::string& word : options.kernel) {
    if (word == "nosuid") flags |= MS_NOSUID;
    if (word == "nodev") flags |= MS_NODEV;
    if (word == "noexec") flags |= MS_NOEXEC;
    if (word == "exec") flags &= ~static_cast<unsigned long>(MS_NOEXEC);
    if (word == "sync") flags |= MS_SYNCHRONOUS;
    if (word == "dirsync") flags |= MS_DIRSYNC;
  }
  return flags;
}

}  // namespace daxfs
