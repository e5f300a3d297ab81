// mkfs.daxfs: makes a pool.

#include <fcntl.h>
#include <fmt/format.h>
#include <pwd.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <optional>
#include <string>

#include "base/size_text.h"
#include "base/unique_fd.h"
#include "blockmap/medium/pool.h"
#include "blockmap/medium/pool_lock.h"
#include "blockmap/volume/mkfs.h"
#include "blockmap/volume/volume.h"
#include "tools/mkfs/existing_data.h"
#include "tools/standard_streams.h"
#include "tools/usage.h"

namespace daxfs {
namespace {

constexpr int kFailed = 1;
constexpr int kUsage = 2;

struct Request {
  std::string path;
  std::optional<ByteCount> size;
  bool force = false;
  bool quiet = false;
};

std::unexpected<Problem> errno_problem(const std::string& path, std::string_view what, int code) {
  return problem(code, fmt::format("pool {}: {}: {}", path, what, std::strerror(code)));
}

// The pool file while it is being prepared. Until keep() is called, what was done to a regular file
// is undone at the end: a new one is removed, one that has grown gets its old size back.
class Target {
 public:
  static Outcome<Target> open(const Request& request);

  Target(Target&&) = default;
  Target& operator=(Target&&) = delete;
  ~Target();

  Outcome<void> check_owner() const;
  Outcome<void> prepare_file(const Request& request);
  Outcome<std::unique_ptr<Pool>> map();
  void keep() { kept_ = true; }

 private:
  Target() = default;
  Outcome<void> resize(ByteCount to);
  bool allocate(PoolRange range);
  bool allocate_all(ByteCount size);
  Outcome<void> reserve_metadata(ByteCount size);

  std::string path_;
  UniqueFd fd_;
  UniqueFd undo_;  // the same description: the lock stays ours until all is undone
  bool created_ = false;
  bool device_ = false;
  std::uint64_t old_size_ = 0;
  bool grown_ = false;
  bool kept_ = false;
};

Target::~Target() {
  if (kept_ || !undo_) return;
  if (created_) {
    ::unlink(path_.c_str());
  } else if (grown_ && ::ftruncate(undo_.get(), static_cast<off_t>(old_size_)) != 0) {
    fmt::print(stderr, "mkfs.daxfs: pool {}: could not be set back to its old size: {}\n", path_,
               std::strerror(errno));
  }
}

Outcome<Target> Target::open(const Request& request) {
  Target target;
  target.path_ = request.path;
  struct stat st {};
  if (::stat(request.path.c_str(), &st) != 0) {
    if (errno != ENOENT) return errno_problem(request.path, "cannot be opened", errno);
    target.fd_ =
        UniqueFd(::open(request.path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!target.fd_) return errno_problem(request.path, "cannot be created", errno);
    target.created_ = true;
  } else {
    // Nothing but these is worth opening; Pool::adopt says what is wrong with the rest.
    const bool possible = S_ISREG(st.st_mode) || S_ISCHR(st.st_mode);
    const int flags = possible ? O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK : O_PATH | O_CLOEXEC;
    target.fd_ = UniqueFd(::open(request.path.c_str(), flags));
    if (!target.fd_) return errno_problem(request.path, "cannot be opened", errno);
    if (!possible) {
      return std::unexpected(Pool::adopt(target.fd_.release(), request.path, false).error());
    }
    target.device_ = S_ISCHR(st.st_mode);
  }
  std::error_code error;
  if (auto resolved = std::filesystem::canonical(request.path, error); !error) {
    target.path_ = resolved.string();
  }
  target.undo_ = UniqueFd(::fcntl(target.fd_.get(), F_DUPFD_CLOEXEC, 0));
  if (auto locked = lock_pool(target.fd_.get(), target.path_, kFormerUserSeconds,
                              [](const std::string& path) {
                                fmt::print(stderr, "mkfs.daxfs: {}: {}\n", path, kFormerUserText);
                              });
      !locked) {
    return std::unexpected(std::move(locked.error()));
  }
  return target;
}

// A stranger may have put an empty file there, so that root's pool is his.
Outcome<void> Target::check_owner() const {
  struct stat st {};
  if (::fstat(fd_.get(), &st) != 0) return errno_problem(path_, "cannot be examined", errno);
  if (created_ || !S_ISREG(st.st_mode) || ::geteuid() != 0 || st.st_uid == 0) return {};
  const struct passwd* const owner = ::getpwuid(st.st_uid);
  return problem(
      EPERM,
      fmt::format("pool {0}: the file belongs to user {1}, who could write all of the pool; remove "
                  "it or chown it to root, or use --force to make {1}'s pool of it",
                  path_, owner != nullptr ? owner->pw_name : std::to_string(st.st_uid)));
}

Outcome<void> Target::prepare_file(const Request& request) {
  if (device_) {
    if (request.size) {
      return problem(EINVAL,
                     fmt::format("pool {}: a device has its own size; leave out --size", path_));
    }
    return {};
  }
  struct stat st {};
  if (::fstat(fd_.get(), &st) != 0) return errno_problem(path_, "cannot be examined", errno);
  old_size_ = static_cast<std::uint64_t>(st.st_size);
  const ByteCount size = request.size.value_or(ByteCount(old_size_));
  if (!request.force) {
    if (auto ours = check_owner(); !ours) return ours;
    const auto data = existing_data_in_file(fd_.get(), path_);
    if (!data) return std::unexpected(data.error());
    if (*data) {
      return problem(EEXIST,
                     fmt::format("pool {}: holds {}; --force overwrites it", path_, **data));
    }
    if (size.value < old_size_) {
      return problem(EEXIST, fmt::format("pool {}: has {}; --force shrinks it to {}", path_,
                                         format_size(ByteCount(old_size_)), format_size(size)));
    }
  }
  if (size.value != old_size_) {
    if (auto resized = resize(size); !resized) return resized;
  }
  if (size.value < pmem::kMinPoolBytes) return {};  // map() says so
  if (allocate_all(size)) return {};
  return reserve_metadata(size);
}

Outcome<void> Target::resize(ByteCount to) {
  struct statvfs fs {};
  if (to.value > old_size_ && ::fstatvfs(fd_.get(), &fs) == 0) {
    const std::uint64_t available = fs.f_bavail * fs.f_frsize;
    if (to.value - old_size_ > available) {
      fmt::print(stderr,
                 "mkfs.daxfs: warning: pool {} is sparse: it is to hold {}, but its filesystem has "
                 "only {} free\n",
                 path_, format_size(to), format_size(ByteCount(available)));
    }
  }
  if (::ftruncate(fd_.get(), static_cast<off_t>(to.value)) != 0) {
    const int code = errno;
    if (code == EFBIG) {
      return problem(code, fmt::format("pool {}: its filesystem (or a file size limit) does not "
                                       "allow a file of {}",
                                       path_, format_size(to)));
    }
    return errno_problem(path_, fmt::format("cannot be given the size {}", format_size(to)), code);
  }
  grown_ = to.value > old_size_;
  return {};
}

bool Target::allocate(PoolRange range) {
  int result = 0;
  do {
    result = ::fallocate(fd_.get(), 0, static_cast<off_t>(offset_of(range.start).value),
                         static_cast<off_t>(bytes(range.count).value));
  } while (result != 0 && errno == EINTR);
  return result == 0;
}

// On persistent memory a filesystem that allocates a pool piece by piece, as it is touched, seldom
// does it so that huge pages can map it (ext4). Where there is no room for all of it, it stays
// sparse.
bool Target::allocate_all(ByteCount size) {
  struct statx file {};
  struct statvfs fs {};
  if (::statx(fd_.get(), "", AT_EMPTY_PATH, STATX_BLOCKS, &file) != 0 ||
      (file.stx_attributes & STATX_ATTR_DAX) == 0 || ::fstatvfs(fd_.get(), &fs) != 0) {
    return false;
  }
  const std::uint64_t room = fs.f_bavail * fs.f_frsize + file.stx_blocks * 512;
  return size.value <= room && allocate({PoolBlock(0), BlockCount(size.value >> kBlockShift)});
}

// Allocates the blocks that are about to be written, because a store to a mapped hole of a full
// filesystem would be a SIGBUS.
Outcome<void> Target::reserve_metadata(ByteCount size) {
  const BlockCount total(size.value >> kBlockShift);
  const pmem::Superblock plan = plan_geometry(total);
  const PoolRange parts[] = {{PoolBlock(0), BlockCount(plan.pin_region_start + 1)},
                             {PoolBlock(plan.inode_region_start), BlockCount(pmem::kChunkBlocks)},
                             {PoolBlock(total.value - 1), BlockCount(1)}};
  for (const PoolRange& part : parts) {
    if (!allocate(part) && errno != EOPNOTSUPP) {
      return errno_problem(path_, "its filesystem cannot hold even the metadata", errno);
    }
  }
  return {};
}

Outcome<std::unique_ptr<Pool>> Target::map() { return Pool::adopt(fd_.release(), path_, false); }

Uuid random_uuid() {
  Uuid uuid{};
  std::size_t done = 0;
  while (done < uuid.size()) {
    const ssize_t n = ::getrandom(uuid.data() + done, uuid.size() - done, 0);
    if (n > 0) done += static_cast<std::size_t>(n);
  }
  uuid[6] = static_cast<std::uint8_t>((uuid[6] & 0x0f) | 0x40);  // version 4
  uuid[8] = static_cast<std::uint8_t>((uuid[8] & 0x3f) | 0x80);  // RFC 4122
  return uuid;
}

std::string_view describe(const Pool& pool) {
  if (pool.is_device_dax()) return "device DAX";
  if (pool.is_dax()) return "persistent memory";
  return pool.granularity() == Granularity::page ? "no DAX: made durable by msync"
                                                 : "emulated persistent memory";
}

void report(Pool& pool, const Uuid& uuid) {
  const pmem::Superblock plan = plan_geometry(pool.medium().blocks());
  const BlockCount data(plan.total_blocks - 1 - plan.data_start);
  fmt::print("{}: daxfs pool {}\n", pool.path(), uuid_text(uuid));
  fmt::print("size {}, {} data blocks of 4 KiB ({}), {} inodes set aside\n",
             format_size(pool.medium().size()), data.value, format_size(bytes(data)),
             plan.inode_region_chunks * pmem::kChunkInodes);
  fmt::print("store granularity {} ({})\n", to_string(pool.granularity()), describe(pool));
}

Outcome<void> make(const Request& request) {
  auto target = Target::open(request);
  if (!target) return std::unexpected(std::move(target.error()));
  if (auto prepared = target->prepare_file(request); !prepared) return prepared;
  auto pool = target->map();
  if (!pool) return std::unexpected(std::move(pool.error()));
  if ((*pool)->is_device_dax() && !request.force) {
    if (auto data = existing_data_in_device((*pool)->medium())) {
      return problem(
          EEXIST, fmt::format("pool {}: holds {}; --force overwrites it", (*pool)->path(), *data));
    }
  }

  MakeOptions options;
  options.uuid = random_uuid();
  options.root_uid = ::getuid();
  options.root_gid = ::getgid();
  options.now_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(
                       std::chrono::system_clock::now().time_since_epoch())
                       .count();
  if (auto made = make_filesystem((*pool)->medium(), options); !made) {
    return problem(made.error().code,
                   fmt::format("pool {}: {}", (*pool)->path(), made.error().text));
  }
  target->keep();
  if (!request.quiet) report(**pool, options.uuid);
  return {};
}

int run(int argc, char** argv) {
  CLI::App app("Makes a daxfs pool: lays an empty filesystem onto a file or a device-DAX node.",
               "mkfs.daxfs");
  app.set_version_flag("-V,--version", "mkfs.daxfs " DAXFS_VERSION);
  Request request;
  std::string size;
  app.add_option(
         "POOL", request.path,
         "A regular file (best on a filesystem mounted with -o dax; it is created if it does "
         "not exist) or a device-DAX node such as /dev/dax0.0")
      ->required();
  app.add_option(
         "--size", size,
         "Size of the pool file, for instance 64M or 2G (binary units K, M, G, T, P; at least "
         "4M). Needed for a new file; an existing one keeps its size without it, and a "
         "device has its own")
      ->type_name("SIZE");
  app.add_flag("--force", request.force,
               "Overwrite a pool or other data, take another user's file (as root), and shrink an "
               "existing file if --size says so. A pool that is in use is refused all the same");
  app.add_flag("--quiet", request.quiet, "Print nothing but warnings and errors");
  app.footer("Exit status: 0 done, 1 failed, 2 wrong usage.");
  const auto usage = [&](std::string_view text) {
    fmt::print(stderr, "mkfs.daxfs: {}; see mkfs.daxfs --help\n", text);
    return kUsage;
  };
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help
    return usage(error.what() + nearest_hint(&app));
  }
  if (app.count("--size") > 0) {
    const auto parsed = parse_size(size);
    if (!parsed) return usage("--size: " + parsed.error().text);
    if (parsed->value < pmem::kMinPoolBytes || parsed->value > pmem::kMaxPoolBytes) {
      return usage(fmt::format("--size: a pool has {} to {}",
                               format_size(ByteCount(pmem::kMinPoolBytes)),
                               format_size(ByteCount(pmem::kMaxPoolBytes))));
    }
    request.size = *parsed;
  }

  struct stat st {};
  if (!request.size && ::stat(request.path.c_str(), &st) != 0 && errno == ENOENT) {
    return usage(fmt::format("pool {}: does not exist; say how large it is to be: --size SIZE",
                             request.path));
  }

  // A file size limit is to be an error with a reason, not a signal.
  std::signal(SIGXFSZ, SIG_IGN);
  if (auto made = make(request); !made) {
    fmt::print(stderr, "mkfs.daxfs: {}\n", made.error().text);
    return kFailed;
  }
  return 0;
}

}  // namespace
}  // namespace daxfs

int main(int argc, char** argv) {
  daxfs::occupy_standard_streams();
  try {
    return daxfs::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "mkfs.daxfs: %s\n", error.what());
    return daxfs::kFailed;
  }
}
