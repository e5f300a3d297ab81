#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <stdexcept>

#include "client/daxfs.h"
#include "tests/differential/pins.h"

namespace daxfs::differential {
namespace {

// In the holder's process.
class Held {
 public:
  int take(const Holder::Ask& ask) {
    // Read pins want no descriptor that can write: the file may be protected.
    const bool write = (ask.flags & (DAXFS_PIN_WRITE | DAXFS_PIN_ALLOCATE)) != 0;
    UniqueFd fd(open(ask.path, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW));
    if (!fd) return errno;
    if (ask.lease && daxfs_lease(fd.get(), ask.offset, ask.length, 0, &lease_) != 0) return errno;
    if (daxfs_pin(fd.get(), ask.offset, ask.length, ask.flags, &pin_) != 0) return errno;
    has_lease_ = ask.lease;
    fd_ = std::move(fd);
    return 0;
  }
  int drop() {
    if (!fd_) return ENOENT;
    const int error = daxfs_unpin(fd_.get(), pin_) == 0 ? 0 : errno;
    if (has_lease_) daxfs_unlease(fd_.get(), lease_);
    fd_ = UniqueFd();
    return error;
  }
  // Somebody wants the blocks: gives way.
  void obey() {
    daxfs_event event{};
    while (fd_ && daxfs_next_event(fd_.get(), &event) == 0) {
      if (event.type == DAXFS_EVENT_BREAK) drop();
    }
  }
  int polled() const { return fd_ && has_lease_ ? fd_.get() : -1; }
  bool holds() const { return static_cast<bool>(fd_); }

 private:
  UniqueFd fd_;
  std::uint64_t pin_ = 0, lease_ = 0;
  bool has_lease_ = false;
};

std::uint64_t answer(std::array<Held, kMostPins>& held, const Holder::Ask& ask) {
  switch (ask.kind) {
    case Holder::Ask::Kind::pin:
      return static_cast<std::uint64_t>(held[ask.slot].take(ask));
    case Holder::Ask::Kind::unpin:
      return static_cast<std::uint64_t>(held[ask.slot].drop());
    case Holder::Ask::Kind::unpin_late:
      usleep(ask.delay_us);
      held[ask.slot].drop();
      return 0;
    case Holder::Ask::Kind::settle:
      break;
  }
  std::uint64_t mask = 0;
  for (std::size_t i = 0; i < kMostPins; ++i) mask |= std::uint64_t{held[i].holds()} << i;
  return mask;
}

[[noreturn]] void hold(int socket) {
  std::array<Held, kMostPins> held;
  for (;;) {
    std::array<pollfd, kMostPins + 1> polled{};
    for (std::size_t i = 0; i < kMostPins; ++i)
      polled[i] = {.fd = held[i].polled(), .events = POLLPRI, .revents = 0};
    polled[kMostPins] = {.fd = socket, .events = POLLIN, .revents = 0};
    if (poll(polled.data(), polled.size(), -1) < 0) continue;
    for (std::size_t i = 0; i < kMostPins; ++i)
      if (polled[i].revents != 0) held[i].obey();
    if (polled[kMostPins].revents == 0) continue;
    Holder::Ask ask{};
    if (recv(socket, &ask, sizeof ask, 0) != sizeof ask) _exit(0);
    const std::uint64_t said = answer(held, ask);
    if (ask.kind == Holder::Ask::Kind::unpin_late) continue;
    if (send(socket, &said, sizeof said, MSG_NOSIGNAL) < 0) _exit(0);
  }
}

}  // namespace

Holder::Holder() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
    throw std::runtime_error("no socket for the holder");
  pid_ = fork();
  if (pid_ < 0) throw std::runtime_error("no process for the holder");
  if (pid_ == 0) {
    close(ends[0]);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    hold(ends[1]);
  }
  close(ends[1]);
  socket_ = UniqueFd(ends[0]);
}

Holder::~Holder() {
  socket_ = UniqueFd();
  if (pid_ > 0) waitpid(pid_, nullptr, 0);
}

int Holder::ask(const Ask& ask) {
  std::uint64_t said = 0;
  if (send(socket_.get(), &ask, sizeof ask, MSG_NOSIGNAL) < 0) return errno;
  if (ask.kind == Ask::Kind::unpin_late) return 0;
  if (recv(socket_.get(), &said, sizeof said, 0) != sizeof said) return EPIPE;
  return static_cast<int>(said);
}

std::uint64_t Holder::settle() {
  Ask ask{};
  ask.kind = Ask::Kind::settle;
  return static_cast<std::uint64_t>(this->ask(ask));
}

}  // namespace daxfs::differential
