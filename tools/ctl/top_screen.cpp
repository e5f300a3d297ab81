#include "tools/ctl/top_screen.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <string_view>
#include <utility>

#include "base/size_text.h"
#include "tools/ctl/print.h"

namespace daxfs::ctl {
namespace {

constexpr std::size_t kLeastForLists = 1;

std::string size_text(std::uint64_t size) {
  return size == 0 ? "0 B" : format_size(ByteCount(size));
}

// "0.4 s", "12 s", "3 min", "5 h", "2 d".
std::string age_text(double seconds) {
  if (seconds < 0) seconds = 0;
  if (seconds < 10) return fmt::format("{:.1f} s", seconds);
  if (seconds < 120) return fmt::format("{:.0f} s", seconds);
  if (seconds < 7200) return fmt::format("{:.0f} min", seconds / 60);
  if (seconds < 2 * 86400) return fmt::format("{:.0f} h", seconds / 3600);
  return fmt::format("{:.0f} d", seconds / 86400);
}

// Cut so that it takes at most so many columns. UTF-8 is cut between characters.
std::string cut(const std::string& text, std::size_t width) {
  std::size_t columns = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xc0) == 0x80) continue;
    if (columns++ == width) return text.substr(0, i);
  }
  return text;
}

std::string padded(const std::string& text, std::size_t width) {
  std::size_t columns = 0;
  for (const char c : text) columns += (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  return columns < width ? text + std::string(width - columns, ' ') : text;
}

std::string bar(double share, std::size_t width) {
  const double clamped = std::clamp(share, 0.0, 1.0);
  const auto full = static_cast<std::size_t>(std::lround(clamped * static_cast<double>(width)));
  return "[" + std::string(full, '#') + std::string(width - full, '.') + "]";
}

class Screen {
 public:
  explicit Screen(const TopLook& look) : look_(look) {}
  void line(const std::string& text) {
    if (!full()) lines_.push_back(cut(text, look_.width));
  }
  void bold(const std::string& text) { styled(text, "\033[1m"); }
  void heading(const std::string& text) { styled(padded(text, look_.width), "\033[7m"); }
  bool full() const { return look_.height != 0 && lines_.size() >= look_.height; }
  // Lines that are left; many without a limit.
  std::size_t left() const { return look_.height == 0 ? 100'000 : look_.height - lines_.size(); }
  std::vector<std::string> take() && { return std::move(lines_); }

 private:
  void styled(const std::string& text, const char* style) {
    if (full()) return;
    const std::string shown = cut(text, look_.width);
    lines_.push_back(look_.styled ? style + shown + "\033[0m" : shown);
  }
  const TopLook look_;
  std::vector<std::string> lines_;
};

void draw_head(Screen& screen, const Snapshot& now, double wall) {
  const Json& status = now.status;
  const Json policy = part(status, "policy");
  const Json pins = part(status, "pins");
  std::tm local = {};
  const std::time_t time = static_cast<std::time_t>(wall);
  localtime_r(&time, &local);
  screen.bold(fmt::format("{} on {}  {:%H:%M:%S}", text_of(status, "pool"),
                          text_of(status, "mountpoint"), local));
  if (const auto why = status.find("stopped"); why != status.end() && why->is_string()) {
    screen.bold("STOPPED: " + text_of(status, "stopped") + "; nothing is changed any more");
  }
  const Json degraded = status.value("degraded", Json::array());
  for (const Json& one : degraded) {
    if (text_of(one, "what") != "stopped") screen.bold("DEGRADED: " + text_of(one, "text"));
  }
  screen.line(fmt::format("policy   {}, longterm={}, on_timeout={}", text_of(policy, "pin_policy"),
                          text_of(policy, "longterm"), text_of(policy, "on_timeout")));
  const std::uint64_t total = number_of(status, "total");
  const std::uint64_t free = number_of(status, "free");
  const double used = total == 0 ? 0 : 1 - static_cast<double>(free) / static_cast<double>(total);
  screen.line(
      fmt::format("space    {} {} free of {}", bar(used, 20), size_text(free), size_text(total)));
  const std::uint64_t limit = number_of(policy, "limbo_limit");
  const std::uint64_t limbo = number_of(status, "limbo");
  std::string text =
      fmt::format("limbo    {} {} of at most {}",
                  bar(limit == 0 ? 0 : static_cast<double>(limbo) / static_cast<double>(limit), 20),
                  size_text(limbo), size_text(limit));
  if (now.limbo_since != 0) {
    text += fmt::format(", {} pieces, the oldest for {}", now.limbo_pieces,
                        age_text(wall - now.limbo_since));
  }
  screen.line(text);
  screen.line(fmt::format("pins     {} long, {} short, {}; {} leases; {} requests wait",
                          text_of(pins, "long"), text_of(pins, "short"),
                          size_text(number_of(pins, "bytes")), text_of(status, "leases"),
                          text_of(status, "waiting")));
}

void draw_rates(Screen& screen, const Snapshot& now, const Snapshot* before) {
  const double seconds =
      before == nullptr ? 0 : std::chrono::duration<double>(now.taken - before->taken).count();
  std::string text = seconds > 0 ? "a second " : "so far  ";
  for (const char* event :
       {"pin", "unpin", "refused", "deferred", "waiting", "resumed", "break", "timeout", "freed"}) {
    const auto found = now.events.find(event);
    const std::uint64_t count = found == now.events.end() ? 0 : found->second;
    if (seconds <= 0) {
      text += fmt::format(" {} {},", event, count);
      continue;
    }
    const auto earlier = before->events.find(event);
    const std::uint64_t old = earlier == before->events.end() ? 0 : earlier->second;
    const double rate = static_cast<double>(count - std::min(old, count)) / seconds;
    text += fmt::format("{} {:.{}f}, ", event, rate, rate != 0 && rate < 10 ? 1 : 0);
  }
  text.erase(text.find_last_not_of(", ") + 1);
  screen.line(text);
}

bool comes_first(const Holding& a, const Holding& b, TopOrder order) {
  const auto key = [&](const Holding& one) -> double {
    switch (order) {
      case TopOrder::bytes:
        return static_cast<double>(one.bytes);
      case TopOrder::pins:
        return static_cast<double>(one.long_pins + one.short_pins);
      case TopOrder::holds_up:
        return static_cast<double>(one.holds_up);
      case TopOrder::oldest:
        return one.since == 0 ? -1e18 : -one.since;
    }
    return 0;
  };
  if (key(a) != key(b)) return key(a) > key(b);
  return a.process < b.process;
}

std::string remarks(const Holding& one) {
  std::string text;
  if (one.in_grace != 0) text += "ended, in grace; ";
  if (one.breaking != 0) text += fmt::format("{} of its leases wanted; ", one.breaking);
  text += one.path;
  if (one.files > 1) text += fmt::format(" and {} more", one.files - 1);
  return text;
}

void draw_holders(Screen& screen, const Snapshot& now, double wall, TopOrder order,
                  std::size_t room) {
  screen.heading(fmt::format("{:>8} {:<15} {:>8} {:>6} {:>10} {:>6} {:>8} {:>8}  {}", "PID",
                             "HOLDER", "LONG", "SHORT", "PINNED", "LEASES", "HOLDS UP", "OLDEST",
                             "FILE"));
  std::vector<const Holding*> sorted;
  for (const Holding& one : now.holders) sorted.push_back(&one);
  std::sort(sorted.begin(), sorted.end(),
            [&](const Holding* a, const Holding* b) { return comes_first(*a, *b, order); });
  if (sorted.empty()) screen.line("nobody holds anything");
  const std::size_t shown = sorted.size() <= room ? sorted.size() : room - 1;
  for (std::size_t i = 0; i < shown; ++i) {
    const Holding& one = *sorted[i];
    screen.line(fmt::format("{:>8} {} {:>8} {:>6} {:>10} {:>6} {:>8} {:>8}  {}", one.process,
                            padded(cut(one.command, 15), 15), one.long_pins, one.short_pins,
                            size_text(one.bytes), one.leases, one.holds_up,
                            one.since == 0 ? "-" : age_text(wall - one.since), remarks(one)));
  }
  if (shown < sorted.size()) screen.line(fmt::format("... {} more", sorted.size() - shown));
}

void draw_waiting(Screen& screen, const Snapshot& now, double wall, std::size_t room) {
  const auto& requests = now.waiting.requests();
  screen.heading(fmt::format("{:>8} {:<15} {:<8} {:>8} {:>8}  {:<40} {}", "PID", "REQUESTER",
                             "WANTS", "WAITS", "LEFT", "FOR", "FILE"));
  if (requests.empty()) screen.line("nobody waits");
  const std::size_t shown = requests.size() <= room ? requests.size() : room - 1;
  for (std::size_t i = 0; i < shown; ++i) {
    const Json& request = requests[i].request;
    const auto deadline = request.find("deadline");
    const bool ends = deadline != request.end() && deadline->is_number();
    screen.line(
        fmt::format("{:>8} {} {:<8} {:>8} {:>8}  {} {}", text_of(request, "pid"),
                    padded(cut(text_of(request, "command"), 15), 15), text_of(request, "request"),
                    age_text(wall - request.value("since", wall)),
                    ends ? age_text(deadline->get<double>() - wall) : "-",
                    padded(cut(in_words(requests[i], 1), 40), 40), text_of(request, "path")));
  }
  if (shown < requests.size()) screen.line(fmt::format("... {} more", requests.size() - shown));
}

}  // namespace

std::vector<std::string> draw_top(const Snapshot& now, const Snapshot* before, double now_wall,
                                  const TopLook& look) {
  Screen screen(look);
  draw_head(screen, now, now_wall);
  draw_rates(screen, now, before);
  screen.line("");
  // One looks for waiting requests first, but holders must be seen as well.
  const std::size_t left = std::max(screen.left(), 2 * kLeastForLists + 3) - 3;
  const std::size_t waiting =
      std::min(std::max<std::size_t>(now.waiting.requests().size(), 1), left / 2);
  draw_waiting(screen, now, now_wall, waiting);
  screen.line("");
  draw_holders(screen, now, now_wall, look.order, left - waiting);
  return std::move(screen).take();
}

}  // namespace daxfs::ctl
