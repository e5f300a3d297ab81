// Child processes of a test: started, watched with deadlines, and gone when the test is.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "base/unique_fd.h"

namespace daxfs::test {

using Seconds = std::chrono::seconds;

// The machine may be busy: how long something that must happen may take.
inline constexpr Seconds kPatience{30};

// errno of a call that has just returned `result`, 0 if it did not fail.
int error_of(long result);

// Polls until `condition` holds; false if it does not within `limit`.
bool eventually(const std::function<bool()>& condition, Seconds limit = kPatience);

// For what programs say.
inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

struct Finished {
  int code = -1;  // exit status; 128 + n: ended by signal n
  bool timed_out = false;
  std::string out;
  std::string err;
};

// A program with its output captured. Killed and reaped at the end, if it still runs.
class Process {
 public:
  // `user` != 0: runs with that uid and gid and no other groups.
  explicit Process(const std::vector<std::string>& command, uid_t user = 0);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t pid() const { return pid_; }
  std::string out() const;
  std::string err() const;
  bool running();
  // Until its standard output contains `text`; false if it ends or time is up before.
  bool says(const std::string& text, Seconds limit = kPatience);
  void signal(int number) const;
  // SIGSTOP, and none of its threads runs any more on return: they stop one after another.
  bool stop_running() const;
  // Waits for its end; after `limit` it is killed, and timed_out set.
  Finished finish(Seconds limit = Seconds(60));

 private:
  bool reap(std::chrono::milliseconds limit);

  UniqueFd out_;
  UniqueFd err_;
  pid_t pid_ = -1;
  int code_ = -1;
  bool reaped_ = false;
};

Finished run(const std::vector<std::string>& command, uid_t user = 0, Seconds limit = Seconds(60));

// A program of this build: daxfs, mkfs.daxfs, daxfsctl, daxfs-hold.
std::string tool(const std::string& name);

// Runs `body` in a forked child (as `user`, if not 0) and returns what it returned, 0 to 255.
int in_child(const std::function<int()>& body, uid_t user = 0);

// A forked child that runs `body`, tells when it is ready, and stays until it is told to go.
class ReadyChild {
 public:
  // `body` returns 0 if all went well; only then is the child ready.
  explicit ReadyChild(const std::function<int()>& body, uid_t user = 0);
  ~ReadyChild();
  ReadyChild(const ReadyChild&) = delete;
  ReadyChild& operator=(const ReadyChild&) = delete;

  pid_t pid() const { return pid_; }
  int result() const { return result_; }  // of the body
  void kill();                            // SIGKILL, and gone on return

 private:
  UniqueFd stay_;
  pid_t pid_ = -1;
  int result_ = -1;
};

}  // namespace daxfs::test
