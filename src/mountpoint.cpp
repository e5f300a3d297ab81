#include "src/mountpoint.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <mntent.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>

#include "base/unique_fd.h"
#include "blockmap/format.h"
#include "client/daxfs.h"

namespace daxfs {
namespace {

template <class Visit>
void for_each_mount(Visit visit) {
  const std::unique_ptr<FILE, decltype(&endmntent)> table(setmntent("/proc/self/mounts", "r"),
                                                          endmntent);
  if (!table) return;
  mntent entry{};
  char buffer[3 * PATH_MAX];
  while (getmntent_r(table.get(), &entry, buffer, sizeof buffer) != nullptr) visit(entry);
}

// The type of what is mounted there last, or nothing.
std::string mounted_type(const std::string& directory) {
  std::string type;
  for_each_mount([&](const mntent& entry) {
    if (directory == entry.mnt_dir) type = entry.mnt_type;
  });
  return type;
}

// The directory as the mount table has it, also if nobody answers there any more.
std::string canonical(const std::string& path) {
  const auto resolve = [](const std::string& name) {
    const std::unique_ptr<char, decltype(&free)> resolved(realpath(name.c_str(), nullptr), free);
    return resolved ? std::string(resolved.get()) : std::string();
  };
  if (std::string whole = resolve(path); !whole.empty()) return whole;
  std::filesystem::path name(path);
  if (!name.has_filename()) name = name.parent_path();
  const std::string directory = name.has_parent_path() ? name.parent_path().string() : ".";
  const std::string parent = resolve(directory);
  return parent.empty() ? path : (std::filesystem::path(parent) / name.filename()).string();
}

// The kernel may know the attributes of a dead daemon's root for a while; it does not answer statfs
// for it.
bool is_dead(const std::string& path) {
  struct statvfs answer {};
  return statvfs(path.c_str(), &answer) != 0 && (errno == ENOTCONN || errno == ECONNABORTED);
}

// A bind mount can show a directory of it alone.
bool is_root(const std::string& mountpoint) {
  struct stat status {};
  return stat(mountpoint.c_str(), &status) == 0 && status.st_ino == kRootInode.value;
}

// Whether its pool is another file than the one that has its name now. A dead daemon does not say.
bool serves_another(const char* mountpoint, const struct stat& named) {
  const UniqueFd fd(open(mountpoint, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  daxfs_pool_args served{};
  return fd && ioctl(fd.get(), DAXFS_IOC_POOL, &served) == 0 &&
         (served.device != named.st_dev || served.inode != named.st_ino);
}

}  // namespace

Outcome<std::string> check_mountpoint(const std::string& path, bool nonempty) {
  const std::string absolute = canonical(path);
  const std::string type = mounted_type(absolute);
  if ((type.starts_with("fuse") && is_dead(absolute)) || is_dead(path)) {
    return problem(
        ENOTCONN, fmt::format("mount point {}: a FUSE mount whose daemon has died; umount {} first",
                              path, type.empty() ? "it" : absolute));
  }
  if (!type.empty()) {
    return problem(
        EBUSY, fmt::format(
                   "mount point {}: something is mounted there already; umount it, or give another "
                   "directory",
                   absolute));
  }
  struct stat attributes {};
  if (stat(path.c_str(), &attributes) != 0) {
    const int code = errno;
    return problem(code,
                   fmt::format("mount point {}: {}; {}", path, strerror(code),
                               code == ENOENT ? "make the directory first" : "check the path"));
  }
  if (!S_ISDIR(attributes.st_mode)) {
    return problem(ENOTDIR,
                   fmt::format("mount point {}: not a directory; give an empty directory", path));
  }
  std::error_code error;
  const bool empty = std::filesystem::is_empty(absolute, error);
  if (error)
    return problem(error.value(), fmt::format("mount point {}: {}", absolute, error.message()));
  if (!empty && !nonempty) {
    return problem(
        ENOTEMPTY,
        fmt::format("mount point {}: not empty; give an empty directory, or mount with -o nonempty "
                    "to cover what is there",
                    absolute));
  }
  return absolute;
}

std::optional<std::string> mounted_at(const std::string& pool) {
  struct stat wanted {};
  if (stat(pool.c_str(), &wanted) != 0) return std::nullopt;
  std::optional<std::string> where;
  for_each_mount([&](const mntent& entry) {
    struct stat source {};
    if (std::strcmp(entry.mnt_type, "fuse.daxfs") != 0 || stat(entry.mnt_fsname, &source) != 0)
      return;
    const bool same = S_ISCHR(wanted.st_mode)
                          ? S_ISCHR(source.st_mode) && source.st_rdev == wanted.st_rdev
                          : source.st_dev == wanted.st_dev && source.st_ino == wanted.st_ino;
    if (!same || (where && is_root(*where)) || serves_another(entry.mnt_dir, source)) return;
    where = entry.mnt_dir;
  });
  return where;
}

}  // namespace daxfs
