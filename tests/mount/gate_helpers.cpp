#include "tests/mount/gate_helpers.h"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <memory>

#include "tests/unit/catch.h"

namespace daxfs::test {
namespace {

// In a child: none of the parent's open files (a copy of a holder's descriptor would keep its
// pins), and no life after the parent's.
void become_stranger(pid_t parent, uid_t user, int keep) {
  for (const int number : {SIGSEGV, SIGBUS, SIGABRT, SIGTERM, SIGINT}) ::signal(number, SIG_DFL);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);
  if (keep >= 0 && (dup2(keep, 3) != 3 || fcntl(3, F_SETFD, FD_CLOEXEC) != 0)) _exit(127);
  if (syscall(SYS_close_range, keep >= 0 ? 4u : 3u, ~0u, 0u) != 0) _exit(127);
  if (user != 0 && (setgroups(0, nullptr) != 0 || setresgid(user, user, user) != 0 ||
                    setresuid(user, user, user) != 0)) {
    _exit(127);
  }
}

bool ended_within(pid_t pid, Seconds limit) {
  const UniqueFd self(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  pollfd end{self.get(), POLLIN, 0};
  const auto ms = std::chrono::milliseconds(limit).count();
  return !self || poll(&end, 1, static_cast<int>(ms)) > 0;
}

int reap(pid_t pid) {
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

UniqueFd root_of(const Mount& mount) { return open_file(mount.path(), O_RDONLY | O_DIRECTORY); }

}  // namespace

std::vector<Json> live_list(const Mount& mount, std::uint32_t what) {
  const UniqueFd root = root_of(mount);
  const auto args = std::make_unique<daxfs_query_args>();
  args->what = what;
  std::vector<Json> objects;
  while (args->cursor != DAXFS_QUERY_END) {
    REQUIRE(ioctl(root.get(), DAXFS_IOC_QUERY, args.get()) == 0);
    const std::string_view text(args->text, args->length);
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = text.find('\n', at);
      objects.push_back(Json::parse(text.substr(at, end - at)));
      at = end + 1;
    }
  }
  return objects;
}

Json live_status(const Mount& mount) { return live_list(mount, DAXFS_QUERY_STATUS).at(0); }

int switch_policy(const Mount& mount, const std::string& text, std::string* why) {
  const UniqueFd root = root_of(mount);
  const auto args = std::make_unique<daxfs_policy_args>();
  args->length = static_cast<std::uint32_t>(text.copy(args->text, sizeof args->text));
  const int error = error_of(ioctl(root.get(), DAXFS_IOC_POLICY, args.get()));
  if (why != nullptr) why->assign(args->text, args->length);
  return error;
}

bool waiting_becomes(const Mount& mount, std::uint64_t count) {
  return eventually([&] { return live_status(mount)["waiting"] == count; });
}

bool space_settles(const Mount& mount, std::uint64_t free, std::uint64_t limbo) {
  Json last;
  const bool settled = eventually(
      [&] {
        last = live_status(mount);
        return last["free"] == free && last["limbo"] == limbo;
      },
      Seconds(10));
  if (!settled) {
    WARN("free " << last["free"] << ", limbo " << last["limbo"] << "; expected " << free << " and "
                 << limbo);
  }
  return settled;
}

Attempt::Attempt(const std::function<int()>& body, uid_t user) {
  const pid_t parent = getpid();
  pid_ = fork();
  REQUIRE(pid_ >= 0);
  if (pid_ != 0) return;
  become_stranger(parent, user, -1);
  _exit(body() & 0xff);
}

Attempt::~Attempt() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  reap(pid_);
}

bool Attempt::running() const { return pid_ >= 0 && !ended_within(pid_, Seconds(0)); }

void Attempt::signal(int number) const {
  if (pid_ >= 0) ::kill(pid_, number);
}

int Attempt::finish(Seconds limit) {
  if (pid_ < 0) return result_;
  if (!ended_within(pid_, limit)) {
    ::kill(pid_, SIGKILL);
    // Not even that may help where the kernel hangs: no waiting without a limit.
    if (ended_within(pid_, kPatience)) reap(pid_);
    pid_ = -1;
    FAIL("still running after " << limit.count() << " s");
  }
  result_ = reap(pid_);
  pid_ = -1;
  return result_;
}

Holder::Holder(const std::function<int()>& body, uid_t user) {
  int ready[2];
  REQUIRE(pipe2(ready, O_CLOEXEC) == 0);
  const pid_t parent = getpid();
  pid_ = fork();
  REQUIRE(pid_ >= 0);
  if (pid_ == 0) {
    become_stranger(parent, user, ready[1]);
    const auto answer = static_cast<unsigned char>(body());
    if (write(3, &answer, 1) != 1) _exit(127);
    for (;;) pause();
  }
  close(ready[1]);
  const UniqueFd answers(ready[0]);
  pollfd said{answers.get(), POLLIN, 0};
  REQUIRE(poll(&said, 1, 30'000) == 1);
  unsigned char answer = 255;
  REQUIRE(read(answers.get(), &answer, 1) == 1);
  result_ = answer;
}

void Holder::signal(int number) const {
  if (pid_ >= 0) ::kill(pid_, number);
}

void Holder::end() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  if (ended_within(pid_, kPatience)) reap(pid_);
  pid_ = -1;
}

int pin_and_keep(const std::string& path, std::uint64_t offset, std::uint64_t length,
                 std::uint32_t flags) {
  const bool writes = (flags & (DAXFS_PIN_WRITE | DAXFS_PIN_ALLOCATE)) != 0;
  const int fd = open(path.c_str(), (writes ? O_RDWR : O_RDONLY) | O_CLOEXEC);
  if (fd < 0) return errno;
  std::uint64_t pin = 0;
  return error_of(daxfs_pin(fd, offset, length, flags, &pin));
}

int punch_blocks(const std::string& path, std::uint64_t first, std::uint64_t count) {
  const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd) return errno;
  return error_of(fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                            static_cast<off_t>(first * kBlock),
                            static_cast<off_t>(count * kBlock)));
}

int shrink(const std::string& path, std::uint64_t size) {
  return error_of(truncate(path.c_str(), static_cast<off_t>(size)));
}

}  // namespace daxfs::test
