// What a mount is: said when the filesystem is made, and the same until it ends. Every room may
// look at it.
#pragma once

#include <unistd.h>

#include <chrono>
#include <optional>
#include <string>

#include "blockmap/medium/pool.h"
#include "blockmap/volume/volume.h"
#include "src/kernel_cache.h"
#include "src/options.h"

namespace daxfs {

// What is referred to outlives the filesystem.
struct Mount {
  Volume& volume;
  Pool* pool = nullptr;  // null: a medium that is no file of the system (tests)
  MountOptions options{};
  std::string mountpoint{};  // absolute; for messages and reports
  // Where to tell that something cached is stale. Null: nobody caches anything (tests).
  KernelCache* kernel = nullptr;
  // The kernel ends the connection when a request lasts for so long: what waits is answered with
  // EINTR after half of it.
  std::optional<std::chrono::seconds> request_limit{};
  uid_t mounter = ::getuid();
};

}  // namespace daxfs
