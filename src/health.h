// Whether anything may be changed, why not, and whether what was changed is durable.
//
// What has gone wrong is never mended while mounted: each of these answers changes once.
#pragma once

#include <absl/functional/function_ref.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>

#include "base/mutex.h"
#include "base/result.h"
#include "base/units.h"
#include "blockmap/journal.h"
#include "src/mount.h"

namespace daxfs {

// Thread-safe. Its lock is a leaf.
class Health {
 public:
  explicit Health(const Mount& mount) : mount_(mount) {}

  // From the beginning, or by a remount.
  bool read_only() const {
    return mount_.options.read_only || read_only_.load(std::memory_order_relaxed);
  }
  void set_read_only(bool read_only) { read_only_ = read_only; }
  // Before a change: EROFS on a read-only mount; EIO once changes are stopped, the daemon has run
  // out of memory, or the storage has failed.
  Status writable() const;
  // Whether everything done so far is durable. EIO once the storage below has failed, or the
  // filesystem is shut down: then nothing is acknowledged any more, by any operation that changes
  // something. The first to ask after a failure logs why.
  Status durable() const;
  // What may be told of a change: what its commits said. The first one that failed logs why.
  template <class T>
  [[nodiscard]] Result<T> acknowledge(Result<T> changed) const {
    if (!changed) static_cast<void>(durable());
    return changed;
  }
  // Journal::commit(), and what may be told of it. EIO.
  [[nodiscard]] Status commit(const Transaction& tx) const;
  // Why nothing is changed any more, as the end of a sentence that names the pool; "" otherwise.
  std::string why_stopped() const;
  // Neither mounted read-only nor stopped: for what the filesystem changes by itself. It goes on
  // after a remount.
  bool may_change() const { return !mount_.options.read_only && !stopped_; }

  // Nothing is changed from now on (EIO), reading goes on: for a filesystem that was found to be at
  // odds with itself, where every further change could destroy more. The first reason counts.
  void stop_changes(const std::string& why);

  // Nothing is changed or acknowledged from now on, on a read-only mount as well. For
  // Filesystem::shut_down(), which says what else ends. False: it was shut down before.
  bool shut_down();
  bool is_shut_down() const { return shut_down_.load(std::memory_order_acquire); }

  // Bytes of a file cannot be read: counted, and the first ones logged. `path`: of the file.
  void note_unreadable(absl::FunctionRef<std::string()> path, FileOffset offset, ByteCount length);
  std::uint64_t unreadable() const { return unreadable_.load(std::memory_order_relaxed); }

 private:
  void say_stopped(std::string_view way_out) const;

  const Mount& mount_;
  mutable std::once_flag failure_logged_;
  mutable std::once_flag memory_logged_;
  std::atomic<bool> read_only_ = false;  // by a remount
  std::atomic<bool> stopped_ = false;
  std::atomic<bool> shut_down_ = false;  // stopped_ is set before
  mutable Mutex mutex_;
  std::string stopped_because_ GUARDED_BY(mutex_);
  std::atomic<std::uint64_t> unreadable_ = 0;
};

}  // namespace daxfs
