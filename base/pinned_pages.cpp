#include "base/pinned_pages.h"

#include <fcntl.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/unique_fd.h"

namespace daxfs {
namespace {

std::optional<std::uint64_t> number_at(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() ? std::optional(value) : std::nullopt;
}

// O_DIRECT pins pages since 6.5; before, it takes references that nobody counts.
bool kernel_counts_all() {
  utsname name{};
  if (uname(&name) != 0) return false;
  const std::string_view release(name.release);
  const auto dot = release.find('.');
  if (dot == std::string_view::npos) return false;
  const auto major = number_at(release);
  const auto minor = number_at(release.substr(dot + 1));
  return major && minor && (*major > 6 || (*major == 6 && *minor >= 5));
}

bool fold_counters() {
  const UniqueFd fd(open("/proc/sys/vm/stat_refresh", O_RDONLY | O_CLOEXEC));
  char unused[64];
  return fd.get() >= 0 && read(fd.get(), unused, sizeof unused) >= 0;
}

std::string read_vmstat() {
  const UniqueFd fd(open("/proc/vmstat", O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) return {};
  std::string text;
  char piece[4096];
  for (;;) {
    const ssize_t got = read(fd.get(), piece, sizeof piece);
    if (got < 0) return {};
    if (got == 0) return text;
    text.append(piece, static_cast<std::size_t>(got));
  }
}

std::optional<std::uint64_t> counter(std::string_view text, std::string_view name) {
  const auto at = text.find(name);
  if (at == std::string_view::npos) return std::nullopt;
  return number_at(text.substr(at + name.size()));
}

struct Sums {
  std::uint64_t acquired;
  std::uint64_t released;
};

std::optional<Sums> look() {
  if (!fold_counters()) return std::nullopt;
  const std::string text = read_vmstat();
  const auto acquired = counter(text, "\nnr_foll_pin_acquired ");
  const auto released = counter(text, "\nnr_foll_pin_released ");
  if (!acquired || !released) return std::nullopt;
  return Sums{*acquired, *released};
}

}  // namespace

// The sums are of per-CPU parts that change while they are read: a release can be counted whose
// acquisition is not. So it looks twice. If as many pages were acquired by the second look (folded
// before, so none is missing) as were seen by the first, none was acquired in between, and the
// first look's sums, being equal, were exact.
bool no_page_is_pinned() {
  static const bool counts_all = kernel_counts_all();
  if (!counts_all) return false;
  const auto first = look();
  if (!first || first->acquired != first->released) return false;
  const auto second = look();
  return second && second->acquired == first->acquired;
}

bool may_be_in_use(const PinOwner& owner) {
  if (is_alive(owner)) return true;
  // No device works on after a reboot.
  const auto boot = boot_id();
  return boot && *boot == owner.boot && !no_page_is_pinned();
}

}  // namespace daxfs
