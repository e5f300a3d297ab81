// A pool file or device: opened, locked, mapped through libpmem2.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "base/result.h"
#include "base/unique_fd.h"
#include "blockmap/medium/pool_medium.h"

namespace daxfs {

// An open pool. It holds the lock until it is destroyed, so that it has one user at a time. The
// lock is inherited by fork (so that a daemon keeps it), and gone with the process.
class Pool {
 public:
  struct OpenOptions {
    bool read_only = false;
    // How long to wait for another user of the pool to finish, e.g. the daemon of a mount that was
    // just unmounted. While it waits it calls `on_wait` once.
    double lock_timeout_seconds = 0;
    void (*on_wait)(const std::string& path) = nullptr;
  };

  // Opens a regular file, an fsdax file, or a device-DAX node. The size is the file's or device's.
  // Problems: does not exist, is a directory, no permission, in use (EBUSY), too small, cannot be
  // mapped.
  static Outcome<std::unique_ptr<Pool>> open(const std::string& path, const OpenOptions& options);

  // The same for a descriptor that is already open and locked (pool_lock.h), as mkfs has one. Takes
  // it over: closed with the pool, and also on failure.
  static Outcome<std::unique_ptr<Pool>> adopt(int descriptor, const std::string& path,
                                              bool read_only);

  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  Medium& medium() { return *mapped_.medium; }
  Granularity granularity() const { return mapped_.granularity; }
  // Persistent memory mapped directly (fsdax with MAP_SYNC, or device DAX).
  bool is_dax() const { return granularity() != Granularity::page && !mapped_.emulated; }
  bool is_device_dax() const { return device_; }
  // Bytes: what a client's mmap offset must be a multiple of.
  std::uint64_t map_alignment() const { return alignment_; }
  int descriptor() const { return fd_.get(); }
  const std::string& path() const { return path_; }  // absolute, symbolic links resolved

 private:
  Pool(UniqueFd fd, std::string path, MappedPool mapped, bool device, std::uint64_t alignment)
      : fd_(std::move(fd)),
        path_(std::move(path)),
        mapped_(std::move(mapped)),
        device_(device),
        alignment_(alignment) {}

  const UniqueFd fd_;  // declared first, so that the mapping goes before the lock does
  const std::string path_;
  const MappedPool mapped_;
  const bool device_;
  const std::uint64_t alignment_;
};

}  // namespace daxfs
