#include "src/mountpoint.h"

#include <fmt/format.h>
#include <mntent.h>
#include <sys/stat.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>

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

bool is_mounted_on(const std::string& directory) {
  bool found = false;
  for_each_mount([&](const mntent& entry) { found = found || directory == entry.mnt_dir; });
  return found;
}

}  // namespace

Outcome<std::string> check_mountpoint(const std::string& path, bool nonempty) {
  struct stat attributes {};
  if (stat(path.c_str(), &attributes) != 0) {
    const int code = errno;
    if (code == ENOTCONN) {
      return problem(
          code,
          fmt::format("mount point {}: a FUSE mount whose daemon has died; umount it first", path));
    }
    return problem(code,
                   fmt::format("mount point {}: {}; {}", path, strerror(code),
                               code == ENOENT ? "make the directory first" : "check the path"));
  }
  if (!S_ISDIR(attributes.st_mode)) {
    return problem(ENOTDIR,
                   fmt::format("mount point {}: not a directory; give an empty directory", path));
  }
  const std::unique_ptr<char, decltype(&free)> resolved(realpath(path.c_str(), nullptr), free);
  if (!resolved) return problem(errno, fmt::format("mount point {}: {}", path, strerror(errno)));
  std::string absolute = resolved.get();
  if (is_mounted_on(absolute)) {
    return problem(
        EBUSY, fmt::format(
                   "mount point {}: something is mounted there already; umount it, or give another "
                   "directory",
                   absolute));
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
    if (same) where = entry.mnt_dir;
  });
  return where;
}

}  // namespace daxfs
