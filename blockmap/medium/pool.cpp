#include "blockmap/medium/pool.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <utility>

#include "blockmap/medium/pool_lock.h"
#include "blockmap/medium/pool_size.h"

namespace daxfs {
namespace {

namespace fs = std::filesystem;

std::unexpected<Problem> cannot_open(const std::string& path, int code) {
  const auto say = [&](std::string_view text) {
    return problem(code, fmt::format("pool {}: {}", path, text));
  };
  switch (code) {
    case ENOENT:
      return problem(code, fmt::format("pool {0}: does not exist; make it with: mkfs.daxfs --size "
                                       "SIZE {0}",
                                       path));
    case ENOTDIR:
      return say("a part of this path is not a directory");
    case EACCES:
    case EPERM:
      return say("permission denied; its owner and mode decide who may open it");
    case EROFS:
      return say("lies on a read-only filesystem; it can only be mounted with -o ro");
    default:
      return say(fmt::format("cannot be opened: {}", std::strerror(code)));
  }
}

// The directory of a character device in sysfs.
std::string sysfs_of(const struct stat& st) {
  return fmt::format("/sys/dev/char/{}:{}", ::major(st.st_rdev), ::minor(st.st_rdev));
}

bool is_dax_device(const struct stat& st) {
  std::error_code error;
  return fs::read_symlink(sysfs_of(st) + "/subsystem", error).filename() == "dax";
}

std::optional<std::uint64_t> read_number(const std::string& file) {
  std::ifstream in(file);
  std::uint64_t value = 0;
  if (in >> value && value != 0) return value;
  return std::nullopt;
}

std::uint64_t device_alignment(const struct stat& st) {
  constexpr std::uint64_t kUsual = 2ull << 20;
  if (auto align = read_number(sysfs_of(st) + "/align")) return *align;
  std::error_code error;
  const fs::path device = fs::canonical(sysfs_of(st), error);
  if (!error) {
    if (auto align = read_number("/sys/bus/dax/devices/" + device.filename().string() + "/align")) {
      return *align;
    }
  }
  return kUsual;
}

// Whether the kernel itself has made this node (in devtmpfs, bind mounts of it included), of which
// there is one for each device. Locks belong to the node: two users of the device by two nodes
// would never know of each other. Where that cannot be told, it is.
bool is_the_systems_node(const struct stat& node) {
  std::ifstream table("/proc/self/mountinfo");
  bool known = false;
  // ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS [MORE...] - TYPE SOURCE OPTIONS
  for (std::string line; std::getline(table, line);) {
    unsigned major_number = 0;
    unsigned minor_number = 0;
    if (std::sscanf(line.c_str(), "%*s %*s %u:%u", &major_number, &minor_number) != 2 ||
        ::makedev(major_number, minor_number) != node.st_dev)
      continue;
    known = true;
    if (line.find(" - devtmpfs ") != std::string::npos) return true;
  }
  return !known;
}

// What cannot be a pool, whatever it contains.
Outcome<void> check_kind(const struct stat& st, const std::string& path) {
  const auto refuse = [&](int code, std::string_view text) {
    return problem(code, fmt::format("pool {}: {}", path, text));
  };
  switch (st.st_mode & S_IFMT) {
    case S_IFREG:
      return {};
    case S_IFCHR:
      if (!is_dax_device(st))
        return refuse(ENODEV, "is a character device, but not device DAX (/dev/daxX.Y)");
      if (is_the_systems_node(st)) return {};
      return refuse(EXDEV,
                    "is a node of its own (mknod), not the system's, so that two users of the "
                    "device would not know of each other; use the host's /dev/daxX.Y, in a "
                    "container by a bind mount of it");
    case S_IFBLK:
      return refuse(ENOTBLK,
                    "is a block device; put a filesystem on it, mount that with -o dax and use a "
                    "file there, or use a device-DAX node (ndctl create-namespace -m devdax)");
    case S_IFDIR:
      return refuse(EISDIR, "is a directory; a pool is a file or a device-DAX node");
    case S_IFIFO:
      return refuse(EINVAL, "is a named pipe; a pool is a file or a device-DAX node");
    case S_IFSOCK:
      return refuse(EINVAL, "is a socket; a pool is a file or a device-DAX node");
    default:
      return refuse(EINVAL, "is neither a file nor a device-DAX node");
  }
}

// The size that can be used: whole blocks.
Outcome<ByteCount> usable_size(const struct stat& st, const std::string& path) {
  std::uint64_t size = 0;
  if (S_ISCHR(st.st_mode)) {
    const auto read = read_number(sysfs_of(st) + "/size");
    if (!read) {
      return problem(ENODEV, fmt::format("pool {}: {}/size does not say how large the device is",
                                         path, sysfs_of(st)));
    }
    size = *read;
  } else {
    size = static_cast<std::uint64_t>(st.st_size);
  }
  if (size == 0) {
    return problem(EINVAL,
                   fmt::format("pool {0}: is empty; make a pool with: mkfs.daxfs --size SIZE "
                               "{0}",
                               path));
  }
  if (size < pmem::kMinPoolBytes) {
    return problem(EINVAL, fmt::format("pool {}: too small ({} bytes); a pool has at least {} MiB",
                                       path, size, pmem::kMinPoolBytes >> 20));
  }
  if (size > pmem::kMaxPoolBytes) {
    return problem(EFBIG, fmt::format("pool {}: too large ({} bytes); a pool has at most {} PiB",
                                      path, size, pmem::kMaxPoolBytes >> 50));
  }
  return ByteCount(size & ~(kBlockSize - 1));
}

}  // namespace

Outcome<std::unique_ptr<Pool>> Pool::open(const std::string& path, const OpenOptions& options) {
  std::error_code error;
  const std::string resolved = fs::canonical(path, error).string();
  if (error) return cannot_open(path, error.value());

  // Looked at before it is opened: opening a pipe or some other device could block or do things.
  struct stat st {};
  if (::stat(resolved.c_str(), &st) != 0) return cannot_open(resolved, errno);
  if (auto kind = check_kind(st, resolved); !kind) return std::unexpected(std::move(kind.error()));
  const int access = options.read_only ? O_RDONLY : O_RDWR;
  UniqueFd fd(::open(resolved.c_str(), access | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd) return cannot_open(resolved, errno);

  if (auto locked = lock_pool(fd.get(), resolved, options.lock_timeout_seconds, options.on_wait);
      !locked) {
    return std::unexpected(std::move(locked.error()));
  }
  // The process that had the lock may have removed or replaced the file.
  struct stat mine {};
  if (::fstat(fd.get(), &mine) != 0 || ::stat(resolved.c_str(), &st) != 0 ||
      mine.st_dev != st.st_dev || mine.st_ino != st.st_ino) {
    return problem(ESTALE, fmt::format("pool {}: was replaced while it was being opened; try again",
                                       resolved));
  }
  return adopt(fd.release(), resolved, options.read_only);
}

Outcome<std::unique_ptr<Pool>> Pool::adopt(int descriptor, const std::string& path,
                                           bool read_only) {
  UniqueFd fd(descriptor);
  struct stat st {};
  if (::fstat(fd.get(), &st) != 0) return cannot_open(path, errno);
  if (auto kind = check_kind(st, path); !kind) return std::unexpected(std::move(kind.error()));
  const auto size = usable_size(st, path);
  if (!size) return std::unexpected(size.error());
  const bool device = S_ISCHR(st.st_mode);
  const std::uint64_t alignment = device ? device_alignment(st) : kBlockSize;
  auto mapped = map_pool(fd.get(), path, *size, alignment, read_only);
  if (!mapped) return std::unexpected(std::move(mapped.error()));
  return std::unique_ptr<Pool>(
      new Pool(std::move(fd), path, std::move(*mapped), device, alignment));
}

}  // namespace daxfs
