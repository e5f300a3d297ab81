#include "tools/hold/watch.h"

#include <sys/epoll.h>
#include <sys/signalfd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <stdexcept>
#include <system_error>

namespace daxfs::hold {
namespace {

// An error or hang-up is always told.
constexpr std::uint32_t kNews = EPOLLPRI;

void add_to(int epoll, int file, std::uint32_t events) {
  epoll_event event{.events = events, .data = {.u32 = events}};
  // EPERM: a file of a filesystem that has no news; so it is no daxfs, and a pin will say so.
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, file, &event) < 0 && errno != EPERM) {
    throw std::system_error(errno, std::generic_category(), "cannot wait for events");
  }
}

}  // namespace

Watch::Watch() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signals_ = UniqueFd(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  epoll_ = UniqueFd(epoll_create1(EPOLL_CLOEXEC));
  // The signal is left unread: it would be taken away from the next caller that asks.
  add_to(epoll_.get(), signals_.get(), EPOLLIN);
}

void Watch::add(int file) { add_to(epoll_.get(), file, kNews); }

Watch::Seen Watch::wait(std::chrono::milliseconds at_most) {
  std::array<epoll_event, 2> events;
  const int count = epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()),
                               static_cast<int>(at_most.count()));
  Seen seen;
  for (int i = 0; i < count; ++i) {
    const epoll_event& event = events[static_cast<std::size_t>(i)];
    if (event.data.u32 != kNews) {
      seen.stop = true;
    } else if ((event.events & (EPOLLERR | EPOLLHUP)) != 0) {
      seen.daemon_gone = true;
    } else {
      seen.news = true;
    }
  }
  return seen;
}

}  // namespace daxfs::hold
