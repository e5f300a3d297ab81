#include "tests/mount/process.h"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>
#include <thread>

#include "tests/unit/catch.h"

namespace daxfs::test {
namespace {

constexpr std::chrono::milliseconds kPollPeriod(2);

std::string content(int fd) {
  struct stat status {};
  if (fstat(fd, &status) != 0) return {};
  std::string text(static_cast<std::size_t>(status.st_size), '\0');
  const ssize_t got = pread(fd, text.data(), text.size(), 0);
  text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  return text;
}

int code_of(int status) {
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

bool become(uid_t user) {
  if (user == 0) return true;
  return setgroups(0, nullptr) == 0 && setresgid(user, user, user) == 0 &&
         setresuid(user, user, user) == 0;
}

// A child must not outlive a test program that was killed, nor report its signals as a test does.
void become_child(pid_t parent) {
  for (const int number : {SIGSEGV, SIGBUS, SIGABRT, SIGTERM, SIGINT}) signal(number, SIG_DFL);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);
}

}  // namespace

int error_of(long result) { return result < 0 ? errno : 0; }

bool eventually(const std::function<bool()>& condition, Seconds limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return condition();
    std::this_thread::sleep_for(kPollPeriod);
  }
  return true;
}

Process::Process(const std::vector<std::string>& command, uid_t user)
    : out_(memfd_create("stdout", MFD_CLOEXEC)), err_(memfd_create("stderr", MFD_CLOEXEC)) {
  REQUIRE(out_);
  REQUIRE(err_);
  std::vector<char*> argv;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  const pid_t parent = getpid();
  pid_ = fork();
  REQUIRE(pid_ >= 0);
  if (pid_ != 0) return;
  become_child(parent);
  const int null = open("/dev/null", O_RDONLY);
  if (null < 0 || dup2(null, 0) < 0 || dup2(out_.get(), 1) < 0 || dup2(err_.get(), 2) < 0 ||
      !become(user)) {
    _exit(127);
  }
  execv(argv[0], argv.data());
  _exit(127);
}

Process::~Process() {
  if (reaped_) return;
  ::kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

std::string Process::out() const { return content(out_.get()); }
std::string Process::err() const { return content(err_.get()); }

bool Process::reap(std::chrono::milliseconds limit) {
  if (reaped_) return true;
  const UniqueFd self(static_cast<int>(syscall(SYS_pidfd_open, pid_, 0)));
  pollfd ended{self.get(), POLLIN, 0};
  if (self && poll(&ended, 1, static_cast<int>(limit.count())) <= 0) return false;
  int status = 0;
  if (waitpid(pid_, &status, 0) != pid_) return false;
  code_ = code_of(status);
  reaped_ = true;
  return true;
}

bool Process::running() { return !reap(std::chrono::milliseconds(0)); }

bool Process::says(const std::string& text, Seconds limit) {
  bool found = false;
  eventually(
      [&] {
        const bool ended = !running();  // looked at first: what it says, it says before its end
        found = out().find(text) != std::string::npos;
        return found || ended;
      },
      limit);
  return found;
}

void Process::signal(int number) const {
  if (!reaped_) ::kill(pid_, number);
}

bool Process::stop_running() const {
  signal(SIGSTOP);
  return eventually([&] {
    std::error_code gone;
    const std::string tasks = "/proc/" + std::to_string(pid_) + "/task";
    for (const auto& task : std::filesystem::directory_iterator(tasks, gone)) {
      std::ifstream stat(task.path() / "stat");
      std::string text;
      std::getline(stat, text);
      const auto name_end = text.rfind(')');
      if (name_end == std::string::npos || text.at(name_end + 2) != 'T') return false;
    }
    return !gone;
  });
}

Finished Process::finish(Seconds limit) {
  Finished result;
  result.timed_out = !reap(limit);
  if (result.timed_out) {
    ::kill(pid_, SIGKILL);
    reap(kPatience);
  }
  result.code = code_;
  result.out = out();
  result.err = err();
  return result;
}

Finished run(const std::vector<std::string>& command, uid_t user, Seconds limit) {
  return Process(command, user).finish(limit);
}

std::string tool(const std::string& name) { return std::string(DAXFS_BUILD_DIR "/") + name; }

int in_child(const std::function<int()>& body, uid_t user) {
  const pid_t parent = getpid();
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    become_child(parent);
    if (!become(user)) _exit(255);
    _exit(body() & 0xff);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  return code_of(status);
}

ReadyChild::ReadyChild(const std::function<int()>& body, uid_t user) {
  int ready[2];
  int stay[2];
  REQUIRE(pipe2(ready, O_CLOEXEC) == 0);
  REQUIRE(pipe2(stay, O_CLOEXEC) == 0);
  const pid_t parent = getpid();
  pid_ = fork();
  REQUIRE(pid_ >= 0);
  if (pid_ == 0) {
    become_child(parent);
    close(stay[1]);
    const char answer = become(user) ? static_cast<char>(body()) : static_cast<char>(255);
    if (write(ready[1], &answer, 1) != 1) _exit(127);
    char unused;
    while (read(stay[0], &unused, 1) < 0 && errno == EINTR) {
    }
    _exit(0);
  }
  close(ready[1]);
  close(stay[0]);
  const UniqueFd answers(ready[0]);
  stay_ = UniqueFd(stay[1]);
  unsigned char answer = 255;
  REQUIRE(read(answers.get(), &answer, 1) == 1);
  result_ = answer;
}

ReadyChild::~ReadyChild() { kill(); }

void ReadyChild::kill() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

}  // namespace daxfs::test
