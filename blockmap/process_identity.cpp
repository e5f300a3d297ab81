#include "blockmap/process_identity.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "blockmap/unique_fd.h"

namespace daxfs {
namespace {

Result<std::string> read_small_file(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) return fail(errno);
  // A line of /proc/PID/stat has 52 numbers of at most 20 digits; NSpid of /proc/PID/status stands
  // in its first half.
  std::string text(4096, '\0');
  const ssize_t length = ::read(fd.get(), text.data(), text.size());
  if (length < 0) return fail(errno);
  text.resize(static_cast<std::size_t>(length));
  return text;
}

// The fields of /proc/PID/stat from the third one on. The second, the command's name, is in
// parentheses and may hold any character.
class StatFields {
 public:
  explicit StatFields(std::string_view text) {
    const auto name_end = text.rfind(')');
    rest_ = name_end == std::string_view::npos ? std::string_view() : text.substr(name_end + 1);
  }

  // Numbered as in proc(5). Empty if there are not so many.
  std::string_view operator[](int number) const {
    std::string_view rest = rest_;
    for (int at = 3;; ++at) {
      const auto begin = rest.find_first_not_of(" \n");
      if (begin == std::string_view::npos) return {};
      rest.remove_prefix(begin);
      const std::string_view field = rest.substr(0, rest.find_first_of(" \n"));
      if (at == number) return field;
      rest.remove_prefix(field.size());
    }
  }

 private:
  std::string_view rest_;
};

Result<std::uint64_t> to_number(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return fail(EIO);
  return value;
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

std::uint32_t namespace_inode(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 ? static_cast<std::uint32_t>(status.st_ino) : 0;
}

// A process's numbers, beginning in the pid namespace of this /proc, down to its own.
std::vector<pid_t> numbers_of(const std::string& directory) {
  std::vector<pid_t> numbers;
  const auto text = read_small_file(directory + "/status");
  if (!text) return numbers;
  constexpr std::string_view key = "\nNSpid:";
  const auto at = text->find(key);
  if (at == std::string::npos) return numbers;
  std::string_view rest = std::string_view(*text).substr(at + key.size());
  rest = rest.substr(0, rest.find('\n'));
  for (;;) {
    const auto begin = rest.find_first_not_of(" \t");
    if (begin == std::string_view::npos) return numbers;
    rest.remove_prefix(begin);
    const std::string_view word = rest.substr(0, rest.find_first_of(" \t"));
    const auto number = to_number(word);
    if (!number) return {};
    numbers.push_back(static_cast<pid_t>(*number));
    rest.remove_prefix(word.size());
  }
}

// Whether /proc shows this process's own pid namespace. A container without a /proc of its own sees
// other processes under the numbers that it knows.
bool is_own_proc() { return numbers_of("/proc/self").size() == 1; }

// What this time namespace adds to the time since boot, in clock ticks. Nothing where it cannot be
// told, or is no whole number of ticks.
std::optional<std::int64_t> boot_time_offset() {
  constexpr std::uint32_t kInitial = 0xEFFFFFFA;  // PROC_TIME_INIT_INO in the kernel
  const std::uint32_t own = namespace_inode("/proc/self/ns/time");
  // A kernel without time namespaces, or the first of them.
  if (own == 0 || own == kInitial) return 0;
  // The file shows what children get, and that need not be this process's own namespace.
  if (own != namespace_inode("/proc/self/ns/time_for_children")) return std::nullopt;
  const auto text = read_small_file("/proc/self/timens_offsets");
  if (!text) return std::nullopt;
  const auto at = text->find("boottime");
  long long seconds = 0;
  long nanoseconds = 0;
  if (at == std::string::npos ||
      std::sscanf(text->c_str() + at, "boottime %lld %ld", &seconds, &nanoseconds) != 2) {
    return std::nullopt;
  }
  const long ticks = ::sysconf(_SC_CLK_TCK);
  const long tick = 1'000'000'000 / ticks;
  if (nanoseconds % tick != 0) return std::nullopt;
  return seconds * ticks + nanoseconds / tick;
}

// Of a process in this /proc. As process_start_time().
Result<std::uint64_t> start_time_in(const std::string& directory) {
  constexpr int kState = 3;
  constexpr int kThreads = 20;
  constexpr int kStartTime = 22;
  const auto text = read_small_file(directory + "/stat");
  if (!text) return std::unexpected(text.error());
  const StatFields fields(*text);
  const auto threads = to_number(fields[kThreads]);
  if (!threads) return std::unexpected(threads.error());
  // A process whose first thread has ended looks like a zombie, but its memory is there as long as
  // it has another.
  const std::string_view state = fields[kState];
  if ((state == "Z" || state == "X") && *threads <= 1) return fail(ESRCH);
  const auto start = to_number(fields[kStartTime]);
  const auto offset = boot_time_offset();
  if (!offset) return fail(EACCES);
  if (!start) return start;
  return *start - static_cast<std::uint64_t>(*offset);
}

struct CloseDirectory {
  void operator()(DIR* directory) const { ::closedir(directory); }
};

// Looks through all processes of the machine for one of another pid namespace. Only the initial one
// sees them all, and there only root sees those of others.
Judgement look_into_namespaces(const PinOwner& owner) {
  constexpr std::uint32_t kInitial = 0xEFFFFFFC;  // PROC_PID_INIT_INO in the kernel
  if (own_pid_namespace() != kInitial || !is_own_proc() || ::geteuid() != 0) return {};
  const std::unique_ptr<DIR, CloseDirectory> all(::opendir("/proc"));
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

bool is_ending(pid_t process, std::chrono::system_clock::time_point last) {
  constexpr int kFlags = 9;
  constexpr int kStartTime = 22;
  constexpr std::uint64_t kExiting = 4;  // PF_EXITING in include/linux/sched.h
  if (process <= 0) return true;
  const auto text = read_small_file("/proc/" + std::to_string(process) + "/stat");
  if (!text) return true;
  const StatFields fields(*text);
  const auto flags = to_number(fields[kFlags]);
  const auto start = to_number(fields[kStartTime]);
  if (!flags || !start || (*flags & kExiting) != 0) return true;
  // Another process has the number if it began later. Both clocks are those of this time namespace.
  timespec boot{};
  clock_gettime(CLOCK_BOOTTIME, &boot);
  const auto since_boot =
      std::chrono::seconds(boot.tv_sec) + std::chrono::nanoseconds(boot.tv_nsec);
  const auto began = std::chrono::nanoseconds(
      *start * (1'000'000'000 / static_cast<std::uint64_t>(sysconf(_SC_CLK_TCK))));
  const auto age = since_boot - began;
  constexpr auto kTolerance = std::chrono::milliseconds(100);  // the clock may have been set
  return std::chrono::system_clock::now() - last > age + kTolerance;
}

bool is_kernel_thread(pid_t process) {
  constexpr int kFlags = 9;
  constexpr std::uint64_t kKernelThread = 0x200000;  // PF_KTHREAD in include/linux/sched.h
  const auto text = read_small_file("/proc/" + std::to_string(process) + "/stat");
  if (!text) return false;
  const auto flags = to_number(StatFields(*text)[kFlags]);
  return flags && (*flags & kKernelThread) != 0;
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
