#include "fuse_ops/signals.h"

#include <chrono>
#include <utility>

namespace daxfs {
namespace {

// Does nothing but interrupt what the main thread waits in.
constexpr int kInterrupt = SIGUSR1;

}  // namespace

SignalsEndSession::SignalsEndSession(fuse_session* session, std::function<void()> before_exit)
    : session_(session), before_exit_(std::move(before_exit)), main_(pthread_self()) {
  struct sigaction nothing {};
  nothing.sa_handler = [](int) {};
  sigaction(kInterrupt, &nothing, nullptr);
  sigemptyset(&signals_);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&signals_, signal);
  pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
  thread_ = std::thread([this] { run(); });
}

SignalsEndSession::~SignalsEndSession() {
  ended();
  // One that nobody has sent: the thread is to look at ended_.
  pthread_kill(thread_.native_handle(), SIGTERM);
  thread_.join();
}

void SignalsEndSession::ended() {
  const MutexLock guard(mutex_);
  ended_ = true;
  over_.notify_one();
}

void SignalsEndSession::run() {
  int signal = 0;
  sigwait(&signals_, &signal);
  const MutexLock lock(mutex_);
  if (!ended_) before_exit_();
  while (!ended_) {
    fuse_session_exit(session_);
    pthread_kill(main_, kInterrupt);
    over_.wait_for(mutex_, std::chrono::milliseconds(20));
  }
}

}  // namespace daxfs
