// What may happen behind a reply: the kernel closes and forgets at once, while the daemon's handler
// is still at work. The daemon sleeps after each of its replies here, so that it does happen.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "client/daxfs.h"
#include "tests/mount/mount_fixture.h"
#include "tests/mount/process.h"
#include "tests/unit/catch.h"

namespace daxfs::test {
namespace {

// Every daemon that is started meanwhile sleeps so long after each reply.
class SlowReplies {
 public:
  explicit SlowReplies(const char* microseconds) {
    setenv("DAXFS_TEST_REPLY_DELAY", microseconds, 1);
  }
  ~SlowReplies() { unsetenv("DAXFS_TEST_REPLY_DELAY"); }
  SlowReplies(const SlowReplies&) = delete;
  SlowReplies& operator=(const SlowReplies&) = delete;
};

constexpr int kFiles = 40;

void make_files(const std::string& directory) {
  for (int i = 0; i < kFiles; ++i) {
    const std::string name = directory + "/a" + std::to_string(i);
    const UniqueFd fd(open(name.c_str(), O_CREAT | O_WRONLY, 0600));
    REQUIRE(write(fd.get(), "hello", 5) == 5);
    REQUIRE(link(name.c_str(), (directory + "/b" + std::to_string(i)).c_str()) == 0);
  }
}

// 0, or the step that failed.
int read_and_forget(const std::string& directory) {
  for (int i = 0; i < kFiles; ++i) {
    const std::string a = directory + "/a" + std::to_string(i);
    const std::string b = directory + "/b" + std::to_string(i);
    char text[8];
    {
      const UniqueFd fd(open(a.c_str(), O_RDONLY | O_DIRECT));
      if (fd.get() < 0 || unlink(a.c_str()) != 0) return 1;
      if (pread(fd.get(), text, sizeof text, 0) != 5) return 2;
    }
    {
      const UniqueFd fd(open(b.c_str(), O_RDWR | O_DIRECT));
      if (fd.get() < 0 || pread(fd.get(), text, sizeof text, 0) != 5) return 3;
      if (std::memcmp(text, "hello", 5) != 0) return 4;
      if (pwrite(fd.get(), "world", 5, 0) != 5) return 5;
    }
    if (unlink(b.c_str()) != 0) return 6;
  }
  return 0;
}

// Pins, punches and truncates whose last reply is followed at once by the end of the file.
int hold_and_forget(const std::string& directory) {
  for (int i = 0; i < kFiles; ++i) {
    const std::string name = directory + "/held";
    const UniqueFd fd(open(name.c_str(), O_CREAT | O_RDWR, 0600));
    if (fd.get() < 0 || unlink(name.c_str()) != 0) return 1;
    std::uint64_t pin = 0;
    if (daxfs_pin(fd.get(), 0, 8192, DAXFS_PIN_ALLOCATE | DAXFS_PIN_WRITE, &pin) != 0) return 2;
    if (i % 4 == 0 && daxfs_unpin(fd.get(), pin) != 0) return 3;
    if (i % 4 == 1 && fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 16384, 4096))
      return 4;
    if (i % 4 == 2 && ftruncate(fd.get(), 1 << 20) != 0) return 5;
    if (i % 4 == 3 && daxfs_extents(fd.get(), 0, 8192, nullptr, 0) < 0) return 6;
  }
  return 0;
}

}  // namespace

TEST_CASE("nothing of an inode is touched behind the reply that lets the kernel forget it") {
  need_mounts();
  const SlowReplies slow("2000");
  Mount mount;
  make_files(mount.path());
  mount.remount();  // so that the kernel knows none of them
  CHECK(in_child([&] { return read_and_forget(mount.path()); }) == 0);
  CHECK(in_child([&] { return hold_and_forget(mount.path()); }) == 0);
  mount.unmount();
}

TEST_CASE("whatever a stranger does to the contents takes set-user-id from the cached mode, too") {
  need_mounts();
  if (getuid() != 0) skip_here("needs root, to be somebody else");
  constexpr uid_t kOther = 4002;
  Mount mount;
  REQUIRE(chmod(mount.path().c_str(), 0777) == 0);
  const std::string name = mount.path("program");
  const auto privileged = [&] {
    const UniqueFd fd(open(name.c_str(), O_CREAT | O_RDWR | O_TRUNC, 0600));
    const std::vector<char> block(8192, 'x');
    REQUIRE(write(fd.get(), block.data(), block.size()) == 8192);
    REQUIRE(fchmod(fd.get(), 06777) == 0);
    REQUIRE((status_of(name).st_mode & 07777) == 06777);  // the kernel knows it now
  };
  const auto changed_by_other = [&](const std::function<int(int)>& change) {
    privileged();
    CHECK(in_child(
              [&] {
                const UniqueFd fd(open(name.c_str(), O_RDWR));
                return fd.get() < 0 ? 100 : change(fd.get());
              },
              kOther) == 0);
    CHECK((status_of(name).st_mode & 07777) == 0777);
  };
  const std::vector<char> data(4096, 'y');
  SECTION("overwriting in place") {
    changed_by_other([&](int fd) { return pwrite(fd, data.data(), 4096, 0) == 4096 ? 0 : 1; });
  }
  SECTION("appending") {
    changed_by_other([&](int fd) { return pwrite(fd, data.data(), 4096, 8192) == 4096 ? 0 : 1; });
  }
  SECTION("allocating") {
    changed_by_other([&](int fd) { return fallocate(fd, 0, 0, 65536); });
  }
  SECTION("punching") {
    changed_by_other(
        [&](int fd) { return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096); });
  }
  SECTION("truncating") {
    changed_by_other([&](int fd) { return ftruncate(fd, 100); });
  }
  SECTION("pinning what is there for writing") {
    changed_by_other([&](int fd) {
      std::uint64_t pin = 0;
      return daxfs_pin(fd, 0, 4096, DAXFS_PIN_WRITE, &pin);
    });
  }
  SECTION("growing by a pin") {
    changed_by_other([&](int fd) {
      std::uint64_t pin = 0;
      return daxfs_pin(fd, 0, 65536, DAXFS_PIN_WRITE | DAXFS_PIN_ALLOCATE, &pin);
    });
  }
}

TEST_CASE("a signal fails no call that need not wait") {
  need_mounts();
  Mount mount;
  CHECK(in_child([&] {
          if (chdir(mount.path().c_str()) != 0) return 1;
          const UniqueFd fd(open("one", O_RDWR | O_CREAT, 0600));
          const UniqueFd other(open("two", O_RDWR | O_CREAT, 0600));
          struct sigaction action {};
          action.sa_handler = [](int) {};
          action.sa_flags = SA_RESTART;
          sigaction(SIGALRM, &action, nullptr);
          const std::vector<char> block(65536, 'x');
          itimerval every{{0, 500}, {0, 500}};
          setitimer(ITIMER_REAL, &every, nullptr);
          for (int i = 0; i < 3000; ++i) {
            if (pwrite(fd.get(), block.data(), block.size(), 0) < 0 && errno != EINTR) return 2;
            if (fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 8192) != 0)
              return 3;
            std::uint64_t pin = 0;
            if (daxfs_pin(fd.get(), 0, 4096, 0, &pin) != 0) {
              if (errno != ENXIO) return 4;
            } else if (daxfs_unpin(fd.get(), pin) != 0) {
              return 5;
            }
            if (ftruncate(fd.get(), 4096) != 0) return 6;
            if (rename("one", "two") != 0 || rename("two", "one") != 0) return 7;
          }
          itimerval off{};
          setitimer(ITIMER_REAL, &off, nullptr);
          return 0;
        }) == 0);
}

}  // namespace daxfs::test
