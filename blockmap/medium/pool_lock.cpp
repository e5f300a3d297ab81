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

namespace daxfs {
namespace {

namespace fs = std::filesystem;

std::string command_of(long pid) {
  std::ifstream in(fmt::format("/proc/{}/comm", pid));
  std::string name;
  std::getline(in, name);
  return name;
}

bool holds_flock(const fs::path& fdinfo) {
  std::ifstream in(fdinfo);
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("lock:") && line.find("FLOCK") != std::string::npos) return true;
  }
  return false;
}

// Looks through every process's descriptors. That finds a daemon, too, whose lock was taken by a
// parent that has long exited (the one that /proc/locks names). Links are read, not followed:
// following one into a hung filesystem would hang us as well.
std::optional<long> holder_by_descriptor(const std::string& path) {
  std::error_code error;
  for (fs::directory_iterator process("/proc", error), end; !error && process != end;
       process.increment(error)) {
    const std::string name = process->path().filename();
    long pid = 0;
    if (std::from_chars(name.data(), name.data() + name.size(), pid).ec != std::errc{}) continue;
    if (pid == ::getpid()) continue;
    std::error_code inner;  // processes come and go, and others' are not ours to read
    for (fs::directory_iterator fd(process->path() / "fd", inner); !inner && fd != end;
         fd.increment(inner)) {
      std::error_code ignored;
      if (fs::read_symlink(fd->path(), ignored) == path &&
          holds_flock(process->path() / "fdinfo" / fd->path().filename())) {
        return pid;
      }
    }
  }
  return std::nullopt;
}

// What anybody may read; the process can be gone if it handed the lock to a child.
std::optional<long> holder_by_lock_table(int fd) {
  struct stat st {};
  if (::fstat(fd, &st) != 0) return std::nullopt;
  std::ifstream in("/proc/locks");
  for (std::string line; std::getline(in, line);) {
    char type[16] = {};
    long pid = 0;
    unsigned major_number = 0;
    unsigned minor_number = 0;
    unsigned long inode = 0;
    if (std::sscanf(line.c_str(), "%*s %15s %*s %*s %ld %x:%x:%lu", type, &pid, &major_number,
                    &minor_number, &inode) != 5) {
      continue;
    }
    if (std::strcmp(type, "FLOCK") == 0 && inode == st.st_ino && pid > 0 &&
        ::makedev(major_number, minor_number) == st.st_dev) {
      return pid;
    }
  }
  return std::nullopt;
}

// Where the pool is mounted, as far as this process sees, or nothing.
std::string mount_point_of(const std::string& path) {
  const std::unique_ptr<FILE, decltype(&endmntent)> table(setmntent("/proc/self/mounts", "r"),
                                                          endmntent);
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

std::string describe_holder(int fd, const std::string& path) {
  if (auto pid = holder_by_descriptor(path)) {
    return fmt::format("process {} ({})", *pid, command_of(*pid));
  }
  if (auto pid = holder_by_lock_table(fd)) {
    const std::string command = command_of(*pid);
    if (!command.empty()) return fmt::format("process {} ({})", *pid, command);
  }
  return "another process";
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
    const std::string mounted = now < worth_telling ? std::string() : mount_point_of(path);
    if (now >= deadline || !mounted.empty()) {
      return problem(
          EBUSY,
          fmt::format("pool {}: in use by {}{}{}; unmount it or end that process first", path,
                      describe_holder(fd, path),
                      mounted.empty() ? std::string() : ", mounted on " + mounted,
                      waiting ? fmt::format(" (waited {:g} s)", timeout_seconds) : std::string()));
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
