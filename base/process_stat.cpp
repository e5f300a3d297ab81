#include "base/process_stat.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <optional>

#include "base/unique_fd.h"

namespace daxfs {
namespace {

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

}  // namespace

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

Result<std::uint64_t> to_number(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return fail(EIO);
  return value;
}

std::string command_of(pid_t process) {
  std::string name =
      read_small_file("/proc/" + std::to_string(process) + "/comm").value_or(std::string());
  if (name.ends_with('\n')) name.pop_back();
  return name;
}

std::uint32_t namespace_inode(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 ? static_cast<std::uint32_t>(status.st_ino) : 0;
}

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

bool is_own_proc() { return numbers_of("/proc/self").size() == 1; }

Result<ProcessStat> read_stat(const std::string& directory) {
  enum { kState = 3, kFlags = 9, kReapedMinor = 11, kReapedMajor = 13, kThreads = 20 };
  enum { kStartTime = 22, kStartCode = 26, kStartStack = 28 };
  constexpr std::uint64_t kExiting = 4;              // PF_EXITING in include/linux/sched.h
  constexpr std::uint64_t kKernelThread = 0x200000;  // PF_KTHREAD
  const auto text = read_small_file(directory + "/stat");
  if (!text) return std::unexpected(text.error());
  const StatFields fields(*text);
  bool whole = fields[kState].size() == 1;
  const auto number = [&](int field) {
    const auto value = to_number(fields[field]);
    whole = whole && value.has_value();
    return value.value_or(0);
  };
  ProcessStat stat;
  const std::uint64_t flags = number(kFlags);
  stat.exiting = (flags & kExiting) != 0;
  stat.kernel_thread = (flags & kKernelThread) != 0;
  stat.threads = number(kThreads);
  stat.start_ticks = number(kStartTime);
  stat.reaped = number(kReapedMinor) + number(kReapedMajor);
  stat.image = number(kStartCode) * 31 + number(kStartStack);
  if (!whole) return fail(EIO);
  stat.state = fields[kState].front();
  return stat;
}

Result<std::uint64_t> in_initial_time(std::uint64_t ticks) {
  const auto offset = boot_time_offset();
  if (!offset) return fail(EACCES);
  return ticks - static_cast<std::uint64_t>(*offset);
}

}  // namespace daxfs
