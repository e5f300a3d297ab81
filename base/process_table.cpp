#include "base/process_table.h"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <ctime>
#include <string>
#include <string_view>

#include "base/process_stat.h"

namespace daxfs {
namespace {

// Each keeps a descriptor open.
constexpr std::size_t kMostKnown = 256;

// Whether it is one now. A thread that this user may not signal is there, too.
bool is_thread_of(pid_t process, pid_t thread) {
  return syscall(SYS_tgkill, process, thread, 0) == 0 || errno == EPERM;
}

bool has_ended(const UniqueFd& pidfd) {
  pollfd end{pidfd.get(), POLLIN, 0};
  return poll(&end, 1, 0) != 0;
}

std::int64_t this_second() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return now.tv_sec;
}

}  // namespace

pid_t process_of_thread(pid_t thread) {
  const std::string text =
      read_small_file("/proc/" + std::to_string(thread) + "/status").value_or(std::string());
  constexpr std::string_view key = "\nTgid:\t";
  const auto at = text.find(key);
  if (at == std::string::npos) return thread;
  pid_t process = thread;
  std::from_chars(text.data() + at + key.size(), text.data() + text.size(), process);
  return process;
}

pid_t ProcessTable::process(pid_t thread) {
  if (thread <= 0) return thread;
  const auto id = static_cast<std::uint32_t>(thread);
  std::atomic<std::uint64_t>& slot = slots_[id % slots_.size()];
  const std::uint64_t known = slot.load(std::memory_order_relaxed);
  const auto process = static_cast<pid_t>(known & UINT32_MAX);
  if (known >> 32 == id && is_thread_of(process, thread)) return process;
  const pid_t found = process_of_thread(thread);
  slot.store(std::uint64_t{id} << 32 | static_cast<std::uint32_t>(found),
             std::memory_order_relaxed);
  return found;
}

ProcessTable::Identity ProcessTable::identity(pid_t process) {
  {
    const MutexLock guard(mutex_);
    const auto known = known_.find(process);
    if (known != known_.end()) {
      if (known->second.until > this_second() && !has_ended(known->second.pidfd))
        return known->second.identity;
      known_.erase(known);
    }
  }
  // Opened first: if it has not ended afterwards, everything was said of the same process.
  UniqueFd pidfd;
  if (process > 0) pidfd = UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, process, 0)));
  const Identity identity{describe_holder(process, 0), mark_process(process)};
  if (!pidfd || has_ended(pidfd)) return identity;
  const MutexLock guard(mutex_);
  if (known_.size() >= kMostKnown) known_.clear();
  known_.insert_or_assign(process, Known{identity, std::move(pidfd), this_second() + 1});
  return identity;
}

PinOwner ProcessTable::owner(pid_t process, uid_t uid) {
  PinOwner owner = identity(process).owner;
  owner.uid = uid;
  return owner;
}

}  // namespace daxfs
