#include "blockmap/medium/pool_lock.h"

#include <fmt/format.h>
#include <mntent.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>

#include "base/process_stat.h"

namespace daxfs {
namespace {

namespace fs = std::filesystem;

// A lock as /proc/locks and fdinfo show it.
struct ShownLock {
  pid_t pid = 0;
  dev_t device = 0;
  unsigned long inode = 0;
};
std::optional<ShownLock> parse_flock(const std::string& line) {
  char type[16] = {};
  ShownLock lock;
  unsigned major_number = 0;
  unsigned minor_number = 0;
  const auto text = line.find(": ");  // behind a number
  if (text == std::string::npos ||
      std::sscanf(line.c_str() + text + 2, "%15s %*s %*s %d %x:%x:%lu", type, &lock.pid,
                  &major_number, &minor_number, &lock.inode) != 5 ||
      std::strcmp(type, "FLOCK") != 0)
    return std::nullopt;
  lock.device = ::makedev(major_number, minor_number);
  return lock;
}

// `of`: the file, if it is not known that this descriptor is one of it.
bool holds_flock(const fs::path& fdinfo, const struct stat* of) {
  std::ifstream in(fdinfo);
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with("lock:")) continue;
    const auto lock = parse_flock(line.substr(std::strlen("lock:")));
    if (lock && (of == nullptr || (lock->inode == of->st_ino && lock->device == of->st_dev)))
      return true;
  }
  return false;
}

fs::path mount_namespace_of(const std::string& process) {
  std::error_code ignored;  // empty: not ours to know
  return fs::read_symlink("/proc/" + process + "/ns/mnt", ignored);
}

bool lives_elsewhere(const std::string& process) {
  const fs::path its = mount_namespace_of(process);
  return !its.empty() && its != mount_namespace_of("self");
}

// Looks through every process's descriptors. That finds a daemon, too, whose lock was taken by a
// parent that has long exited (the one that /proc/locks names). Links are read, not followed:
// following one into a hung filesystem would hang us as well. In another mount namespace the pool
// may have another path.
std::optional<pid_t> holder_by_descriptor(const std::string& path, const struct stat& pool) {
  std::error_code error;
  for (fs::directory_iterator process("/proc", error), end; !error && process != end;
       process.increment(error)) {
    const std::string name = process->path().filename();
    pid_t pid = 0;
    if (std::from_chars(name.data(), name.data() + name.size(), pid).ec != std::errc{}) continue;
    if (pid == ::getpid()) continue;
    const bool any_path = lives_elsewhere(name);
    std::error_code inner;  // processes come and go, and others' are not ours to read
    for (fs::directory_iterator fd(process->path() / "fd", inner); !inner && fd != end;
         fd.increment(inner)) {
      std::error_code ignored;
      const bool by_path = fs::read_symlink(fd->path(), ignored) == path;
      if ((by_path || any_path) && holds_flock(process->path() / "fdinfo" / fd->path().filename(),
                                               by_path ? nullptr : &pool)) {
        return pid;
      }
    }
  }
  return std::nullopt;
}

// What anybody may read; the process can be gone if it handed the lock to a child.
std::optional<pid_t> holder_by_lock_table(const struct stat& pool) {
  std::ifstream in("/proc/locks");
  for (std::string line; std::getline(in, line);) {
    const auto lock = parse_flock(line);
    if (lock && lock->pid > 0 && lock->inode == pool.st_ino && lock->device == pool.st_dev)
      return lock->pid;
  }
  return std::nullopt;
}

// Where the pool is mounted, as far as this process ("self" or a number) sees, or nothing.
std::string mount_point_of(const std::string& path, const std::string& process) {
  const std::unique_ptr<FILE, decltype(&endmntent)> table(
      setmntent(("/proc/" + process + "/mounts").c_str(), "r"), endmntent);
  if (!table) return {};
  mntent entry{};
  char buffer[2 * 4096 + 1024];  // two paths and the options
  while (getmntent_r(table.get(), &entry, buffer, sizeof buffer) != nullptr) {
    if (std::strcmp(entry.mnt_type, "fuse.daxfs") == 0 && entry.mnt_fsname == path) {
      return entry.mnt_dir;
    }
  }
  return {};
}

// Who has the pool; 0: that cannot be told.
pid_t find_holder(int fd, const std::string& path) {
  struct stat pool {};
  if (::fstat(fd, &pool) != 0) return 0;
  if (const auto pid = holder_by_descriptor(path, pool)) return *pid;
  const auto pid = holder_by_lock_table(pool);
  return pid && !command_of(*pid).empty() ? *pid : 0;
}

// Who has the pool, and where it is mounted.
struct Use {
  pid_t pid = 0;             // 0: that cannot be told
  std::string mounted = {};  // as this process sees it, or else that one
  bool elsewhere = false;    // that one is in another mount namespace
};

Use look_for_use(int fd, const std::string& path) {
  Use use{.pid = find_holder(fd, path), .mounted = mount_point_of(path, "self")};
  const std::string process = std::to_string(use.pid);
  if (use.pid == 0 || !use.mounted.empty() || !lives_elsewhere(process)) return use;
  use.mounted = mount_point_of(path, process);
  use.elsewhere = true;
  return use;
}

std::string describe(const Use& use, const std::string& waited) {
  const std::string who = use.pid == 0
                              ? "another process"
                              : fmt::format("process {} ({})", use.pid, command_of(use.pid));
  const std::string where = use.mounted.empty() ? "" : " on " + use.mounted;
  if (!use.elsewhere)
    return fmt::format("{}{}{}; unmount it or end that process first", who,
                       where.empty() ? "" : ", mounted" + where, waited);
  // With its root, too: the mount point is named as that process sees it, which may live in a
  // chroot.
  return fmt::format(
      "{}, mounted{} in another mount namespace{}; unmount it there (nsenter --target {} --mount "
      "--root umount {}) or end that process first",
      who, where, waited, use.pid, use.mounted.empty() ? "MOUNTPOINT" : use.mounted);
}

}  // namespace

Outcome<void> lock_pool(int fd, const std::string& path, double timeout_seconds,
                        void (*on_wait)(const std::string& path)) {
  using Clock = std::chrono::steady_clock;
  constexpr timespec kStep{0, 20'000'000};
  const auto begin = Clock::now();
  const auto deadline = begin + std::chrono::duration<double>(timeout_seconds);
  // Most are gone by then. What is still mounted then was not unmounted, or its daemon was killed.
  const auto worth_telling =
      begin + std::chrono::duration<double>(std::min(1.0, timeout_seconds / 2));
  bool waiting = false;
  while (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    if (errno != EWOULDBLOCK) {
      const int code = errno;
      return problem(
          code, fmt::format("pool {}: cannot be locked: {}; a pool needs a filesystem with flock",
                            path, std::strerror(code)));
    }
    const auto now = Clock::now();
    // Whether it is mounted elsewhere takes a look at every process: once is enough.
    const bool stays =
        now >= worth_telling && (!mount_point_of(path, "self").empty() ||
                                 (!waiting && !look_for_use(fd, path).mounted.empty()));
    if (now >= deadline || stays) {
      const std::string waited =
          waiting ? fmt::format(" (waited {:g} s)", timeout_seconds) : std::string();
      return problem(EBUSY, fmt::format("pool {}: in use by {}", path,
                                        describe(look_for_use(fd, path), waited)));
    }
    if (!waiting && now >= worth_telling) {
      waiting = true;
      if (on_wait != nullptr) on_wait(path);
    }
    // A blocking flock would need a signal to end it; this is start-up, where nobody waits for us.
    ::clock_nanosleep(CLOCK_MONOTONIC, 0, &kStep, nullptr);
  }
  return {};
}

}  // namespace daxfs
