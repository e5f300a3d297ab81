#include "fuse_ops/signals.h"

#include <utility>

namespace daxfs {

SignalsEndSession::SignalsEndSession(std::function<void()> before_exit, std::function<void()> exit)
    : before_exit_(std::move(before_exit)), exit_(std::move(exit)) {
  sigemptyset(&signals_);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&signals_, signal);
  pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
  thread_ = std::thread([this] { run(); });
}

SignalsEndSession::~SignalsEndSession() {
  ended();
  // One that nobody has sent: the thread is to look at ended_. It takes it by sigwait(3).
  pthread_kill(thread_.native_handle(), SIGTERM);  // NOLINT(bugprone-bad-signal-to-kill-thread)
  thread_.join();
}

void SignalsEndSession::ended() {
  const MutexLock guard(mutex_);
  ended_ = true;
}

void SignalsEndSession::run() {
  int signal = 0;
  sigwait(&signals_, &signal);
  const MutexLock lock(mutex_);
  if (ended_) return;
  before_exit_();
  exit_();
}

}  // namespace daxfs
