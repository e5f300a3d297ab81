// A forked child whose life a test looks at.
#pragma once

#include <signal.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/catch.h"

namespace daxfs::test {

// A child that is killed and reaped at the end, if it was not before.
class Child {
 public:
  template <class Body>
  explicit Child(Body body) {
    REQUIRE(::pipe(pipe_) == 0);
    pid_ = ::fork();
    REQUIRE(pid_ >= 0);
    if (pid_ == 0) {
      body(pipe_[1]);
      ::_exit(0);
    }
    ::close(pipe_[1]);
    char ready;
    REQUIRE(::read(pipe_[0], &ready, 1) == 1);
  }
  ~Child() {
    ::close(pipe_[0]);
    end();
    reap();
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  pid_t pid() const { return pid_; }
  void end() {
    ::kill(pid_, SIGKILL);
    // Waits for its death, but leaves the zombie.
    siginfo_t info;
    ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT);
  }
  void reap() { ::waitpid(pid_, nullptr, 0); }

 private:
  int pipe_[2];
  pid_t pid_ = 0;
};

inline void say_ready(int fd) {
  if (::write(fd, "r", 1) != 1) ::_exit(1);
}

}  // namespace daxfs::test
