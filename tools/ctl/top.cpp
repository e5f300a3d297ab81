#include "tools/ctl/top.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <utility>

#include "tools/ctl/ending.h"
#include "tools/ctl/look.h"
#include "tools/ctl/print.h"
#include "tools/ctl/query.h"

namespace daxfs::ctl {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// A daemon that has not answered by then is said to be silent, and again as often.
constexpr milliseconds kPatience{1000};

constexpr const char* kKeys =
    "q quit  p/b/w/o sort by pins, bytes, who is held up, oldest  space pause";

// The terminal, while the screen is ours: as it was when this ends, whatever happened.
class Terminal {
 public:
  Terminal() {
    if (isatty(STDIN_FILENO) == 0 || tcgetattr(STDIN_FILENO, &before_) != 0) return;
    termios raw = before_;
    raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
    raw.c_cc[VMIN] = 0;
    raw.c_cc[VTIME] = 0;
    listens_ = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
    print("\033[?1049h\033[?25l");  // another screen, without a cursor
  }
  ~Terminal() {
    if (!listens_) return;
    print("\033[?25h\033[?1049l");
    std::fflush(stdout);
    tcsetattr(STDIN_FILENO, TCSANOW, &before_);
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  bool listens() const { return listens_; }

  static void show(const std::vector<std::string>& lines) {
    std::string text = "\033[H";
    for (std::size_t i = 0; i < lines.size(); ++i) {
      text += lines[i] + "\033[K" + (i + 1 < lines.size() ? "\n" : "");
    }
    print(text + "\033[J");
  }

 private:
  termios before_ = {};
  bool listens_ = false;
};

TopLook look_of_terminal(TopOrder order) {
  winsize size = {};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0 || size.ws_row == 0) {
    return {.order = order, .styled = true};
  }
  return {.width = size.ws_col, .height = size.ws_row, .order = order, .styled = true};
}

double wall_now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

class Top {
 public:
  Top(Mount mount, const TopOptions& options)
      : mount_(std::move(mount)), interval_(options.interval), order_(options.order) {}

  void begin_look() { look_.emplace(mount_); }
  // After look() says that it has finished.
  Outcome<void> take_look() {
    const auto begin = look_->begun();
    auto taken = look_->take();
    look_.reset();
    if (!taken) return std::unexpected(taken.error());
    before_ = std::exchange(now_, std::move(*taken));
    wall_ = wall_now();
    // With very many pins a look takes long: the daemon has other things to do.
    const auto took = std::chrono::duration_cast<milliseconds>(Clock::now() - begin);
    next_ = begin + std::max(interval_, 10 * took);
    return {};
  }
  // The one that is under way, or null.
  const Look* look() const { return look_ ? &*look_ : nullptr; }
  bool has_seen() const { return now_.has_value(); }
  Clock::time_point next() const { return next_; }
  bool paused() const { return paused_; }

  void draw_on_terminal() const {
    TopLook look = look_of_terminal(order_);
    if (look.height > 1) --look.height;
    auto lines = draw_top(*now_, before_ ? &*before_ : nullptr, wall_, look);
    lines.resize(look.height);
    lines.push_back(last_line().substr(0, look.width));
    Terminal::show(lines);
  }
  void print_plain() const {
    const TopLook look{.width = 100'000, .height = 0, .order = order_};
    for (const auto& line : draw_top(*now_, before_ ? &*before_ : nullptr, wall_, look)) {
      print(line.substr(0, line.find_last_not_of(' ') + 1) + "\n");
    }
    print("\n");
  }

  // False: the key ends it.
  bool press(char key) {
    switch (key) {
      case 'q':
        return false;
      case 'p':
        order_ = TopOrder::pins;
        break;
      case 'b':
        order_ = TopOrder::bytes;
        break;
      case 'w':
        order_ = TopOrder::holds_up;
        break;
      case 'o':
        order_ = TopOrder::oldest;
        break;
      case ' ':
        paused_ = !paused_;
        break;
      default:
        break;
    }
    return true;
  }

 private:
  std::string last_line() const {
    const auto silent = look_ ? Clock::now() - look_->begun() : Clock::duration();
    if (silent >= kPatience)
      return fmt::format("NO ANSWER for {} s  {}",
                         std::chrono::duration_cast<std::chrono::seconds>(silent).count(), kKeys);
    return std::string(paused_ ? "PAUSED  " : "").append(kKeys);
  }

  const Mount mount_;
  const milliseconds interval_;
  TopOrder order_;
  bool paused_ = false;
  std::optional<Snapshot> now_;
  std::optional<Snapshot> before_;
  double wall_ = 0;
  Clock::time_point next_;
  std::optional<Look> look_;  // uses the mount
};

// What is left of the time, for poll(2); -1: for ever.
int milliseconds_left(const Top& top) {
  if (top.look() != nullptr) return static_cast<int>(kPatience.count());
  if (top.paused()) return -1;
  const auto left = std::chrono::ceil<milliseconds>(top.next() - Clock::now()).count();
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, 1'000'000'000));
}

enum class Woken { time, answered, drawn_anew, ended };

// Waits for the time of the next look, its answer (or until that is late), a key, or a signal.
Woken wait(Top& top, const UniqueFd& signals, bool listens) {
  for (;;) {
    const Look* const look = top.look();
    std::array<pollfd, 4> waits{{{signals.get(), POLLIN, 0},
                                 {STDOUT_FILENO, 0, 0},
                                 {listens ? STDIN_FILENO : -1, POLLIN, 0},
                                 {look != nullptr ? look->finished() : -1, POLLIN, 0}}};
    const int ready = poll(waits.data(), waits.size(), milliseconds_left(top));
    if (ready < 0 && errno == EINTR) continue;
    if (ready < 0) return Woken::ended;
    if (ready == 0) return look != nullptr ? Woken::drawn_anew : Woken::time;
    if ((waits[1].revents & (POLLERR | POLLHUP)) != 0) return Woken::ended;
    if (waits[0].revents != 0) {
      signalfd_siginfo signal;
      if (read(signals.get(), &signal, sizeof signal) != sizeof signal) continue;
      return signal.ssi_signo == SIGWINCH ? Woken::drawn_anew : Woken::ended;
    }
    if (waits[3].revents != 0) return Woken::answered;
    std::array<char, 64> keys;
    const ssize_t got = read(STDIN_FILENO, keys.data(), keys.size());
    if (got <= 0) return Woken::ended;  // nobody can end it any more
    for (const char key : std::string_view(keys.data(), static_cast<std::size_t>(got))) {
      if (!top.press(key)) return Woken::ended;
    }
    return Woken::drawn_anew;
  }
}

}  // namespace

Outcome<void> top(const std::string& path, const TopOptions& options) {
  auto mount = Mount::at(path);
  if (!mount) return std::unexpected(mount.error());
  const UniqueFd signals = catch_signals({SIGWINCH});
  if (!signals) return problem(errno, fmt::format("signals: {}", std::strerror(errno)));
  Top top(std::move(*mount), options);
  std::optional<Terminal> terminal;  // from the first answer on
  const auto draw = [&]() -> Outcome<void> {
    terminal ? top.draw_on_terminal() : top.print_plain();
    if (std::fflush(stdout) == 0) return {};
    return problem(errno, fmt::format("standard output: {}", std::strerror(errno)));
  };
  bool complained = false;
  top.begin_look();
  for (std::uint64_t drawn = 0;;) {
    switch (wait(top, signals, terminal && terminal->listens())) {
      case Woken::ended:
        if (top.look() == nullptr) return {};
        terminal.reset();
        std::_Exit(0);  // the look may never end
      case Woken::time:
        top.begin_look();
        continue;
      case Woken::answered:
        if (const auto taken = top.take_look(); !taken) {
          if (!top.has_seen() || !is_end_of_mount(taken.error().code)) return taken;
          terminal.reset();
          fmt::print(stderr, "daxfsctl: {}: the mount has ended\n", path);
          return {};
        }
        if (!terminal && isatty(STDOUT_FILENO) != 0) terminal.emplace();
        ++drawn;
        break;
      case Woken::drawn_anew:
        if (terminal) break;
        if (!std::exchange(complained, true))
          fmt::print(stderr, "daxfsctl: {}: the daemon does not answer; is it stopped?\n", path);
        continue;
    }
    if (const auto shown = draw(); !shown)
      return shown.error().code == EPIPE ? Outcome<void>() : shown;
    if (options.count != 0 && drawn >= options.count) return {};
  }
}

}  // namespace daxfs::ctl
