#include "tools/hold/file.h"

#include <fcntl.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

#include "client/daxfs.h"
#include "tools/hold/explain.h"

namespace daxfs::hold {

Outcome<File> File::open(const Options& options) {
  const bool for_writing = !options.read_only || options.allocate || options.exclusive;
  const char* const path = options.path.c_str();
  File file;
  file.mode_ = (for_writing ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
  file.fd_ = UniqueFd(::open(path, file.mode_));
  if (!file.fd_ && errno == ENOENT && options.allocate && options.length) {
    file.fd_ = UniqueFd(::open(path, file.mode_ | O_CREAT | O_EXCL, 0666));
    file.created_ = static_cast<bool>(file.fd_);
    // Somebody else was quicker.
    if (!file.fd_ && errno == EEXIST) file.fd_ = UniqueFd(::open(path, file.mode_));
  }
  if (!file.fd_) return std::unexpected(explain_open(errno, options.path, for_writing));
  std::error_code unknown;
  file.path_ = std::filesystem::canonical(options.path, unknown);
  daxfs_pool_args pool = {};
  if (ioctl(file.get(), DAXFS_IOC_POOL, &pool) == 0) {
    file.device_ = pool.device;
    file.inode_ = pool.inode;
  }
  return file;
}

void File::undo() const {
  if (created_) unlink(path_.c_str());
}

void File::forsake() {
  const UniqueFd nothing(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  replace(nothing);
}

UniqueFd File::find_again() const {
  UniqueFd fresh(::open(path_.c_str(), mode_));
  daxfs_pool_args pool = {};
  if (!fresh || ioctl(fresh.get(), DAXFS_IOC_POOL, &pool) < 0 || pool.device != device_ ||
      pool.inode != inode_) {
    return {};
  }
  return fresh;
}

void File::replace(const UniqueFd& fresh) { dup3(fresh.get(), fd_.get(), O_CLOEXEC); }

}  // namespace daxfs::hold
