// A pool file or device: opened, locked, mapped through libpmem2.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "blockmap/medium/medium.h"

namespace daxfs {

// What the mapping promises (libpmem2's granularity), as shown at mount and by daxfsctl.
enum class Granularity { byte, cache_line, page };
std::string_view to_string(Granularity granularity);

// Whether somebody else uses the pool: held from open to destruction, and gone with the process.
// Inherited by fork (so that a daemon keeps it).
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

  virtual ~Pool() = default;

  virtual Medium& medium() = 0;
  virtual Granularity granularity() const = 0;
  virtual bool is_dax()
      const = 0;  // persistent memory mapped directly (fsdax with MAP_SYNC, or device DAX)
  virtual bool is_device_dax() const = 0;
  virtual std::uint64_t map_alignment()
      const = 0;  // bytes: what a client's mmap offset must be a multiple of
  virtual int descriptor() const = 0;
  virtual const std::string& path() const = 0;  // absolute, symbolic links resolved
};

}  // namespace daxfs
