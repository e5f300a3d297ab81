// The FUSE session: mounts a filesystem, serves it until it is unmounted, and leaves in good order.
#pragma once

#include <functional>
#include <string>

#include "base/result.h"
#include "src/filesystem.h"

namespace daxfs {

struct SessionOptions {
  std::string source;      // what mount(8) shows: the pool's path
  std::string mountpoint;  // absolute
  bool debug = false;      // libfuse's own trace of every message
};

// Mounts, calls `on_ready` (once, on a worker) when the kernel has made contact, and serves
// requests until an unmount, SIGINT, SIGTERM or SIGHUP. Then nothing is mounted any more and
// `filesystem` has been unmounted. Must run on the main thread (signals). std::system_error: the
// threads that this takes cannot be started; nothing is mounted.
Outcome<void> serve(Filesystem& filesystem, const SessionOptions& options,
                    const std::function<void()>& on_ready);

// What to say then.
std::unexpected<Problem> no_threads_left(const std::string& mountpoint);

}  // namespace daxfs
