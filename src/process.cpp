#include "src/process.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <ctime>
#include <string_view>

namespace daxfs {
namespace {

// The beginning of a small file in /proc, or "".
std::string read_proc(const char* path) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {};
  std::string text(1024, '\0');
  const ssize_t got = ::read(fd, text.data(), text.size());
  close(fd);
  text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  return text;
}

constexpr std::uint64_t kIdMask = (1u << 22) - 1;  // the kernel's limit for process ids
constexpr std::uint64_t kSecondMask = (1u << 20) - 1;

}  // namespace

pid_t process_of_thread(pid_t thread) {
  const std::string text = read_proc(("/proc/" + std::to_string(thread) + "/status").c_str());
  constexpr std::string_view key = "\nTgid:\t";
  const auto at = text.find(key);
  if (at == std::string::npos) return thread;
  pid_t process = thread;
  std::from_chars(text.data() + at + key.size(), text.data() + text.size(), process);
  return process;
}

std::string command_of(pid_t process) {
  std::string name = read_proc(("/proc/" + std::to_string(process) + "/comm").c_str());
  while (!name.empty() && name.back() == '\n') name.pop_back();
  return name;
}

pid_t ProcessTable::process(pid_t thread) {
  if (thread <= 0) return thread;
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  const auto id = static_cast<std::uint64_t>(thread) & kIdMask;
  const auto second = static_cast<std::uint64_t>(now.tv_sec) & kSecondMask;
  std::atomic<std::uint64_t>& slot = slots_[id % slots_.size()];
  const std::uint64_t known = slot.load(std::memory_order_relaxed);
  if (known >> 42 == id && (known & kSecondMask) == second) {
    return static_cast<pid_t>((known >> 20) & kIdMask);
  }
  const pid_t process = process_of_thread(thread);
  slot.store(id << 42 | (static_cast<std::uint64_t>(process) & kIdMask) << 20 | second,
             std::memory_order_relaxed);
  return process;
}

PinOwner ProcessTable::owner(pid_t process, uid_t uid) {
  constexpr std::size_t kMostKnown = 4096;
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  {
    const std::lock_guard guard(mutex_);
    const auto known = owners_.find(process);
    if (known != owners_.end() && known->second.until > now.tv_sec) {
      PinOwner owner = known->second.owner;
      owner.uid = uid;
      return owner;
    }
  }
  const PinOwner owner = describe_holder(process, uid);
  const std::lock_guard guard(mutex_);
  if (owners_.size() >= kMostKnown) owners_.clear();
  owners_[process] = {owner, now.tv_sec + 1};
  return owner;
}

}  // namespace daxfs
