#include "base/process_identity.h"

#include <dirent.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "base/process_stat.h"

namespace daxfs {
namespace {

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

// Of a process in this /proc. As process_start_time().
Result<std::uint64_t> start_time_in(const std::string& directory) {
  const auto stat = read_stat(directory);
  if (!stat) return std::unexpected(stat.error());
  // A process whose first thread has ended looks like a zombie, but its memory is there as long as
  // it has another.
  if (stat->is_zombie() && stat->threads <= 1) return fail(ESRCH);
  return in_initial_time(stat->start_ticks);
}

// Looks through all processes of the machine for one of another pid namespace. Only the initial one
// sees them all, and there only root sees those of others.
Judgement look_into_namespaces(const PinOwner& owner) {
  constexpr std::uint32_t kInitial = 0xEFFFFFFC;  // PROC_PID_INIT_INO in the kernel
  if (own_pid_namespace() != kInitial || !is_own_proc() || ::geteuid() != 0) return {};
  const DirectoryRef all(::opendir("/proc"));
  if (!all) return {};
  bool sees_all = true;
  while (const dirent* entry = ::readdir(all.get())) {
    const auto here = to_number(entry->d_name);
    if (!here) continue;
    const std::string directory = "/proc/" + std::string(entry->d_name);
    const auto numbers = numbers_of(directory);
    if (numbers.empty()) {
      sees_all = sees_all && ::access(directory.c_str(), F_OK) != 0;
      continue;
    }
    // The first one counts here. It may have others in several namespaces, each below the last.
    if (std::find(numbers.begin() + 1, numbers.end(), owner.process) == numbers.end()) continue;
    const auto start = start_time_in(directory);
    if (!start && (start.error().code == ESRCH || start.error().code == ENOENT)) continue;
    if (!start || owner.start_time == 0) {
      sees_all = false;
    } else if (*start == owner.start_time) {
      return {Life::alive, static_cast<pid_t>(*here)};
    }
  }
  return {sees_all ? Life::dead : Life::unknown, 0};
}

}  // namespace

std::uint32_t own_pid_namespace() { return namespace_inode("/proc/self/ns/pid"); }

Result<std::array<std::byte, 16>> boot_id() {
  const auto text = read_small_file("/proc/sys/kernel/random/boot_id");
  if (!text) return std::unexpected(text.error());
  std::array<std::byte, 16> id{};
  std::size_t digits = 0;
  for (const char c : *text) {
    if (c == '-' || c == '\n') continue;
    const int digit = hex_digit(c);
    if (digit < 0 || digits == 2 * id.size()) return fail(EIO);
    id[digits / 2] = id[digits / 2] << 4 | std::byte(digit);
    ++digits;
  }
  if (digits != 2 * id.size()) return fail(EIO);
  return id;
}

Result<std::uint64_t> process_start_time(pid_t process) {
  const bool own_proc = is_own_proc();
  const auto start = own_proc ? start_time_in("/proc/" + std::to_string(process)) : fail(EACCES);
  if (start) return start;
  const int error = start.error().code;
  if (own_proc && error != ENOENT && error != ESRCH) return start;
  // ENOENT does not tell a process that is hidden from us from one that is gone.
  if (::kill(process, 0) != 0 && errno == ESRCH) return fail(ESRCH);
  // A zombie answers signals.
  return fail(own_proc && error == ESRCH ? ESRCH : EACCES);
}

Result<PinOwner> identify_process(pid_t process, uid_t uid) {
  const auto boot = boot_id();
  if (!boot) return std::unexpected(boot.error());
  const auto start = process_start_time(process);
  if (!start) return std::unexpected(start.error());
  return PinOwner{process, *start, *boot, uid, own_pid_namespace()};
}

PinOwner describe_holder(pid_t process, uid_t uid) {
  if (process > 0) {
    if (const auto owner = identify_process(process, uid)) return *owner;
  }
  const auto boot = boot_id();
  return PinOwner{std::max(process, 0), 0, boot ? *boot : std::array<std::byte, 16>{}, uid,
                  own_pid_namespace()};
}

bool is_kernel_thread(pid_t process) {
  const auto stat = read_stat("/proc/" + std::to_string(process));
  return stat && stat->kernel_thread;
}

Judgement judge(const PinOwner& owner) {
  constexpr Judgement kDead{Life::dead, 0};
  const auto boot = boot_id();
  if (boot && *boot != owner.boot) return kDead;
  if (owner.process < 0) return kDead;
  if (owner.process == 0) return {};
  // A namespace's number may be that of a former one. All processes of that one are dead then, and
  // their starts are unlike those of their namesakes.
  if (owner.pid_namespace != 0 && owner.pid_namespace != own_pid_namespace()) {
    return look_into_namespaces(owner);
  }
  const auto start = process_start_time(owner.process);
  if (!start && start.error().code == ESRCH) return kDead;
  if (!start || owner.start_time == 0) return {};
  return *start == owner.start_time ? Judgement{Life::alive, owner.process} : kDead;
}

bool is_alive(const PinOwner& owner) { return judge(owner).life != Life::dead; }

}  // namespace daxfs
