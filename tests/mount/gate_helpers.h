// Asking and switching a mount, and doing things in other processes, cheaply enough for thousands.
#pragma once

#include <csignal>
#include <functional>
#include <string>
#include <vector>

#include "tests/mount/pin_helpers.h"

namespace daxfs::test {

// daxfsctl's reports and its `policy set`, by ioctl. (daxfsctl itself has tests of its own.)
Json live_status(const Mount& mount);
std::vector<Json> live_list(const Mount& mount, std::uint32_t what);  // DAXFS_QUERY_*
// errno; what the daemon said goes to `why`.
int switch_policy(const Mount& mount, const std::string& text, std::string* why = nullptr);
// Until so many requests wait.
bool waiting_becomes(const Mount& mount, std::uint64_t count);
bool space_settles(const Mount& mount, std::uint64_t free, std::uint64_t limbo);

// An operation in a process of its own, which inherits no open file. Killed and reaped at the end.
class Attempt {
 public:
  // `body` returns an errno.
  explicit Attempt(const std::function<int()>& body, uid_t user = 0);
  ~Attempt();
  Attempt(const Attempt&) = delete;
  Attempt& operator=(const Attempt&) = delete;

  pid_t pid() const { return pid_; }
  bool running() const;
  void signal(int number) const;
  // What the body returned, or -n: ended by signal n. Fails the test if it does not end.
  int finish(Seconds limit = kPatience);

 private:
  pid_t pid_ = -1;
  int result_ = -1;
};

// A process that does something, and then stays until it is killed: a holder. It inherits no open
// file.
class Holder {
 public:
  // `body` returns an errno.
  explicit Holder(const std::function<int()>& body, uid_t user = 0);
  ~Holder() { end(); }
  Holder(const Holder&) = delete;
  Holder& operator=(const Holder&) = delete;

  pid_t pid() const { return pid_; }
  int result() const { return result_; }
  void signal(int number) const;
  void die() const { signal(SIGKILL); }  // and stay a zombie until end()
  void end();

 private:
  pid_t pid_ = -1;
  int result_ = -1;
};

// errno of pinning [offset, offset + length) of a file, on a descriptor that stays open.
int pin_and_keep(const std::string& path, std::uint64_t offset, std::uint64_t length,
                 std::uint32_t flags = 0);
int punch_blocks(const std::string& path, std::uint64_t first, std::uint64_t count);
int shrink(const std::string& path, std::uint64_t size);

}  // namespace daxfs::test
