// An open file description: what one open(2) made, and so the holder of pins.
#pragma once

#include <absl/container/inlined_vector.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/mutex.h"
#include "base/process_end.h"
#include "lease/gate.h"
#include "src/inode.h"

namespace daxfs {

// The processes that have used the pins of a descriptor. Thread-safe.
class PinUsers {
 public:
  void add(const ProcessMark& user) {
    const MutexLock guard(mutex_);
    for (const ProcessMark& known : users_) {
      if (known.same_process(user)) return;
    }
    // An unknown process stands for all beyond the limit.
    if (users_.size() <= kMost) users_.push_back(users_.size() < kMost ? user : ProcessMark());
  }
  // Valid as long as nobody adds one: nobody uses the descriptor any more.
  std::span<const ProcessMark> all() const {
    const MutexLock guard(mutex_);
    return users_;
  }

 private:
  static constexpr std::size_t kMost = 32;  // known ones; the unknown one comes on top
  mutable Mutex mutex_;
  absl::InlinedVector<ProcessMark, 1> users_ GUARDED_BY(mutex_);
};

// A request holds a reference until its handler returns, whatever it has answered before: RELEASE
// can follow the answer at once, and takes the kernel's reference away.
struct OpenFile : std::enable_shared_from_this<OpenFile> {
  InodeRef inode;
  HolderId holder;
  bool readable = false;
  bool writable = false;
  bool appends = false;                  // was opened with O_APPEND
  bool direct = false;                   // bypasses the kernel's page cache
  bool keeps_writes = false;             // what is written through it may stay in the kernel
  bool keep_cache = false;               // pages that the kernel has cached earlier are still good
  std::atomic<bool> ever_pinned{false};  // or had a lease
  std::atomic<bool> ever_attached{false};  // see DirectAccess
  PinUsers users;
};
using OpenFileRef = std::shared_ptr<OpenFile>;

}  // namespace daxfs
