// The FUSE session: mounts a filesystem, serves it until it is unmounted, and leaves in good
// order.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "src/filesystem.h"

namespace daxfs {

struct SessionOptions {
  std::string source;      // what mount(8) shows: the pool's path
  std::string mountpoint;  // absolute
  bool debug = false;      // libfuse's own trace of every message
};

// After how long without an answer the kernel ends a connection: the shortest that is set.
std::optional<std::chrono::seconds> kernel_request_limit();

// A session comes first, then the filesystem, which tells the kernel things through it, then
// serve().
class Session {
 public:
  // Sets up libfuse's side; nothing is mounted yet. `pool` may be null. std::system_error: the
  // threads that this takes cannot be started.
  static Outcome<std::unique_ptr<Session>> make(const SessionOptions& options,
                                                const MountOptions& mount, const Pool* pool);
  virtual ~Session() = default;

  // Heard while serve() runs; what is told before or afterwards is lost.
  virtual KernelCache& kernel_cache() = 0;

  // Mounts, calls `on_ready` (once, on a worker) when the kernel has made contact, and serves
  // requests until an unmount, SIGINT, SIGTERM or SIGHUP. Then nothing is mounted any more and
  // `filesystem` has been unmounted. Must run on the main thread (signals), once.
  // std::system_error as in make(); nothing is mounted.
  virtual Outcome<void> serve(Filesystem& filesystem, const std::function<void()>& on_ready) = 0;
};

// What to say then.
std::unexpected<Problem> no_threads_left(const std::string& mountpoint);

}  // namespace daxfs
