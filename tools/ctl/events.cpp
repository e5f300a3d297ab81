#include "tools/ctl/events.h"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "tools/ctl/ending.h"
#include "tools/ctl/print.h"
#include "tools/ctl/query.h"

namespace daxfs::ctl {
namespace {

// "2026-11-24 08:24:31.123  waiting      pid 4711  /data/file  0 + 64 MiB  (wait)"
std::string line_for_people(const Json& event) {
  const auto time = event.find("time");
  double whole = 0;
  const double part =
      time != event.end() && time->is_number() ? std::modf(time->get<double>(), &whole) : 0;
  std::string line =
      fmt::format("{}.{:03}  {:<11}  pid {}", time_of(event, "time"), static_cast<int>(part * 1000),
                  text_of(event, "event"), text_of(event, "pid"));
  const std::string path = text_of(event, "path");
  const auto inode = event.find("inode");
  const bool has_inode = inode != event.end() && *inode != 0;
  if (path != "-" && !path.empty()) {
    line += "  " + path;
  } else if (has_inode) {
    line += "  inode " + text_of(event, "inode");
  }
  const auto length = event.find("length");
  if (length != event.end() && *length != 0) {
    line += fmt::format("  {}{} + {}", has_inode ? "" : "pool ", text_of(event, "offset"),
                        size_of(event, "length"));
  }
  line += fmt::format("  ({})", text_of(event, "policy"));
  if (event.contains("pins")) line += fmt::format("  {} pins", text_of(event, "pins"));
  if (event.contains("lost")) {
    line += fmt::format("  [{} events before it are lost]", text_of(event, "lost"));
  }
  return line + "\n";
}

}  // namespace

Outcome<void> show_events(const std::string& path, bool json) {
  const auto mount = Mount::at(path);
  if (!mount) return std::unexpected(mount.error());
  const UniqueFd signals = catch_signals();
  if (!signals) return problem(errno, fmt::format("signals: {}", std::strerror(errno)));
  const auto events = mount->open_control("events");
  if (!events) return std::unexpected(events.error());

  std::string pending;  // a line whose end has not come yet
  std::array<char, 65536> buffer;
  for (;;) {
    std::array<pollfd, 3> waits{
        {{events->get(), POLLIN, 0}, {signals.get(), POLLIN, 0}, {STDOUT_FILENO, 0, 0}}};
    if (poll(waits.data(), waits.size(), -1) < 0) {
      if (errno == EINTR) continue;
      return problem(errno, fmt::format("poll: {}", std::strerror(errno)));
    }
    if (waits[1].revents != 0 || (waits[2].revents & (POLLERR | POLLHUP)) != 0) return {};
    if (waits[0].revents == 0) continue;
    const ssize_t got = read(events->get(), buffer.data(), buffer.size());
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (got == 0 || (got < 0 && is_end_of_mount(errno))) {
      fmt::print(stderr, "daxfsctl: {}: the mount has ended\n", path);
      return {};
    }
    if (got < 0) return problem(errno, fmt::format("{}: {}", path, std::strerror(errno)));

    pending.append(buffer.data(), static_cast<std::size_t>(got));
    std::size_t begin = 0;
    for (std::size_t end; (end = pending.find('\n', begin)) != std::string::npos; begin = end + 1) {
      const auto line = std::string_view(pending).substr(begin, end + 1 - begin);
      if (json) {
        print(line);
        continue;
      }
      const Json event = Json::parse(line, nullptr, false);
      if (event.is_object()) print(line_for_people(event));
    }
    pending.erase(0, begin);
    if (std::fflush(stdout) != 0) {
      if (errno == EPIPE) return {};
      return problem(errno, fmt::format("standard output: {}", std::strerror(errno)));
    }
  }
}

}  // namespace daxfs::ctl
