#include "src/health.h"

#include <spdlog/spdlog.h>

#include "base/memory_reserve.h"

namespace daxfs {

Status Health::writable() const {
  if (read_only()) return fail(EROFS);
  if (stopped_.load(std::memory_order_relaxed)) return fail(EIO);
  if (MemoryReserve::used()) [[unlikely]] {
    std::call_once(memory_logged_, [this] {
      say_stopped("unmount it, give the daemon more memory, and mount it again");
    });
    return fail(EIO);
  }
  return durable();
}

Status Health::durable() const {
  if (is_shut_down()) [[unlikely]]
    return fail(EIO);
  if (!mount_.volume.medium().failed()) [[likely]]
    return {};
  std::call_once(failure_logged_, [this] {
    say_stopped("unmount it, put the storage right, and check it with fsck.daxfs");
  });
  return fail(EIO);
}

Status Health::commit(const Transaction& tx) const {
  return acknowledge(mount_.volume.journal().commit(tx));
}

std::string Health::why_stopped() const {
  if (mount_.volume.medium().failed()) return mount_.volume.medium().failure();
  if (MemoryReserve::used()) return "the daemon has run out of memory";
  const MutexLock guard(mutex_);
  return stopped_because_;
}

void Health::stop_changes(const std::string& why) {
  {
    const MutexLock guard(mutex_);
    if (!may_change()) return;
    stopped_because_ = why;
    stopped_ = true;
  }
  say_stopped("save what you need, unmount it, and repair it with fsck.daxfs");
}

bool Health::shut_down() {
  const MutexLock guard(mutex_);
  if (!stopped_) stopped_because_ = "it was shut down";
  stopped_ = true;
  return !shut_down_.exchange(true);
}

void Health::say_stopped(std::string_view way_out) const {
  spdlog::critical("{}: pool {}: {}; nothing is changed from now on, reading goes on: {}",
                   mount_.mountpoint, mount_.pool != nullptr ? mount_.pool->path() : "",
                   why_stopped(), way_out);
}

void Health::note_unreadable(absl::FunctionRef<std::string()> path, FileOffset offset,
                             ByteCount length) {
  constexpr std::uint64_t kMostLogged = 20;
  if (unreadable_.fetch_add(1, std::memory_order_relaxed) >= kMostLogged) return;
  spdlog::error("{}{}: bytes {} to {} cannot be read: the pool's storage is gone or damaged there",
                mount_.mountpoint, path(), offset.value, offset.value + length.value);
}

}  // namespace daxfs
