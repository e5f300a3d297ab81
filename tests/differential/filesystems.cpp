#include "tests/differential/filesystems.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/unique_fd.h"

namespace daxfs::differential {
namespace {

constexpr const char* kPoolSize = "192M";
constexpr off_t kImageBytes = 192 << 20;

// Our namespace has got everybody's mounts, and would keep their daemons alive after an unmount.
void let_go_of_others() {
  std::ifstream table("/proc/self/mountinfo");
  std::vector<std::string> places;
  for (std::string line; std::getline(table, line);) {
    if (line.find(" - fuse.") == line.npos && line.find(" /dev/loop") == line.npos) continue;
    std::istringstream words(line);
    std::string word;
    for (int i = 0; i < 5; ++i) words >> word;
    places.push_back(word);
  }
  for (auto place = places.rbegin(); place != places.rend(); ++place)
    umount2(place->c_str(), MNT_DETACH);
}

void need_machine() {
  if (geteuid() != 0) throw Skip("only root can mount, and become other users");
  if (access("/dev/fuse", R_OK | W_OK) != 0) throw Skip("there is no /dev/fuse");
  utsname name{};
  unsigned major = 0, minor = 0;
  uname(&name);
  // Before, O_DIRECT of a FUSE file does not look for dirty pages, nor can it be mapped shared.
  if (std::sscanf(name.release, "%u.%u", &major, &minor) != 2 || major < 6 ||
      (major == 6 && minor < 6))
    throw Skip("views of a FUSE file agree from Linux 6.6 on");
  if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
    throw Skip("no mount namespace can be made here");
  let_go_of_others();
}

void make_file(const std::string& path, off_t bytes) {
  const UniqueFd file(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file || ftruncate(file.get(), bytes) != 0) throw Skip(path + ": cannot be made");
}

}  // namespace

std::string run_program(const std::vector<std::string>& words) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return "no pipe";
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDOUT_FILENO);
    dup2(ends[1], STDERR_FILENO);
    std::vector<char*> arguments;
    for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    execvp(arguments[0], arguments.data());
    _exit(127);
  }
  close(ends[1]);
  const UniqueFd from(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  // What a program says fits the pipe, and a daemon that it leaves behind may keep it open.
  std::string said(4096, '\0');
  fcntl(from.get(), F_SETFL, O_NONBLOCK);
  const ssize_t got = read(from.get(), said.data(), said.size());
  said.resize(got < 0 ? 0 : static_cast<std::size_t>(got));
  return words[0] + " failed (" + std::to_string(WEXITSTATUS(status)) + "): " + said;
}

Filesystems::Filesystems(const std::string& build) : build_(build) {
  need_machine();
  std::string name = std::string(access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp") +
                     "/daxfs-differential-XXXXXX";
  if (mkdtemp(name.data()) == nullptr) throw Skip(name + ": cannot be made");
  place_ = name;
  chmod(name.c_str(), 0755);
  for (const std::string& directory : directories()) mkdir(directory.c_str(), 0755);
  try {
    make_file(in("image"), kImageBytes);
    std::string failed = run_program({"mkfs.ext4", "-q", "-b", "4096", "-I", "256", in("image")});
    if (failed.empty())
      failed = run_program({"mount", "-o", "loop,acl,user_xattr,noatime", in("image"), in("ext4")});
    if (!failed.empty()) throw Skip("no ext4 on a loop device here: " + failed);
    failed = run_program({build_ + "/mkfs.daxfs", "--size", kPoolSize, in("pool")});
    if (!failed.empty()) throw std::runtime_error(failed);
  } catch (...) {
    umount2(in("ext4").c_str(), MNT_DETACH);
    std::filesystem::remove_all(place_);
    throw;
  }
}

Filesystems::~Filesystems() {
  unmount();
  // A loop device goes with its last user.
  umount2(in("ext4").c_str(), MNT_DETACH);
  std::error_code ignored;
  std::filesystem::remove_all(place_, ignored);
}

std::array<std::string, 2> Filesystems::directories() const { return {in("daxfs"), in("ext4")}; }

std::string Filesystems::unmount() {
  if (!mounted_) return {};
  mounted_ = false;
  if (umount(in("daxfs").c_str()) == 0) return {};
  umount2(in("daxfs").c_str(), MNT_DETACH);
  return "daxfs cannot be unmounted: it is busy";
}

std::string Filesystems::remount(const std::string& cache) {
  if (std::string failed = unmount(); !failed.empty()) return failed;
  // The daemon ends a little after its mount.
  std::string failed;
  for (int tries = 0; tries < 600; ++tries) {
    failed = run_program({build_ + "/fsck.daxfs", "-n", in("pool")});
    if (failed.find("in use by") == failed.npos) break;
    usleep(20'000);
  }
  if (!failed.empty()) return failed;
  failed =
      run_program({build_ + "/daxfs", in("pool"), in("daxfs"), "-o", "noatime,cache=" + cache});
  mounted_ = failed.empty();
  return failed;
}

}  // namespace daxfs::differential
