#include "tools/ctl/ending.h"

#include <sys/signalfd.h>

#include <cerrno>
#include <csignal>

namespace daxfs::ctl {

UniqueFd catch_signals(std::initializer_list<int> more) {
  sigset_t caught;
  sigemptyset(&caught);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&caught, signal);
  for (const int signal : more) sigaddset(&caught, signal);
  if (sigprocmask(SIG_BLOCK, &caught, nullptr) != 0) return UniqueFd();
  std::signal(SIGPIPE, SIG_IGN);
  return UniqueFd(signalfd(-1, &caught, SFD_CLOEXEC));
}

bool is_end_of_mount(int code) {
  return code == ENOTCONN || code == ECONNABORTED || code == ENODEV;
}

}  // namespace daxfs::ctl
