#include "blockmap/process_identity.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <charconv>
#include <ctime>
#include <string>
#include <string_view>

#include "blockmap/unique_fd.h"

namespace daxfs {
namespace {

Result<std::string> read_small_file(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) return fail(errno);
  // A line of /proc/PID/stat has 52 numbers of at most 20 digits.
  std::string text(2048, '\0');
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

}  // namespace

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
  constexpr int kState = 3;
  constexpr int kThreads = 20;
  constexpr int kStartTime = 22;
  const auto text = read_small_file("/proc/" + std::to_string(process) + "/stat");
  if (!text) {
    // ENOENT does not tell a process that is hidden from us from one that is gone.
    const bool missing = text.error().code == ENOENT || text.error().code == ESRCH;
    if (missing && ::kill(process, 0) != 0 && errno == ESRCH) return fail(ESRCH);
    return fail(missing ? EACCES : text.error().code);
  }
  const StatFields fields(*text);
  const auto threads = to_number(fields[kThreads]);
  if (!threads) return std::unexpected(threads.error());
  // A process whose first thread has ended looks like a zombie, but its memory is there as long as
  // it has another.
  const std::string_view state = fields[kState];
  if ((state == "Z" || state == "X") && *threads <= 1) return fail(ESRCH);
  return to_number(fields[kStartTime]);
}

Result<PinOwner> identify_process(pid_t process, uid_t uid) {
  const auto boot = boot_id();
  if (!boot) return std::unexpected(boot.error());
  const auto start = process_start_time(process);
  if (!start) return std::unexpected(start.error());
  return PinOwner{process, *start, *boot, uid};
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

bool is_alive(const PinOwner& owner) {
  const auto boot = boot_id();
  if (boot && *boot != owner.boot) return false;
  if (owner.process <= 0) return false;
  const auto start = process_start_time(owner.process);
  if (!start) return start.error().code != ESRCH;
  return *start == owner.start_time;
}

}  // namespace daxfs
