// Direct access on real mounts: what a program sees, who is kept out, and clients that die, are
// stopped, or outlive the daemon, in the middle of a copy.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstring>
#include <thread>

#include "client/daxfs.h"
#include "client/direct_extents.h"
#include "client/direct_map.h"
#include "client/doorbell.h"
#include "tests/mount/direct_run.h"
#include "tests/mount/file_helpers.h"
#include "tests/mount/gate_helpers.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

constexpr std::size_t kBlocks = 8;

struct DirectMount : Mount {
  explicit DirectMount(const std::string& options = "short_timeout=60s")
      : Mount({.options = "direct," + options}) {
    write_file(file, pattern(kBlocks * kBlock, 1));
  }
  bool attached(std::size_t count) const {
    return eventually([&] { return live_list(*this, DAXFS_QUERY_ATTACHED).size() == count; });
  }
  const std::string file = path("f");
};

struct Impatient : DirectMount {
  Impatient() : DirectMount("short_timeout=100ms") {}
};

// An attached file, through libdaxfs.
struct Direct {
  explicit Direct(const std::string& path, int flags = O_RDWR) {
    const daxfs::UniqueFd fd = open_file(path, flags);
    direct = daxfs_attach(fd.get());
    INFO(std::strerror(errno));
    REQUIRE(direct != nullptr);
  }
  ~Direct() { daxfs_detach(direct); }
  Direct(const Direct&) = delete;
  Direct& operator=(const Direct&) = delete;
  std::string read(std::uint64_t offset, std::size_t length) {
    std::string out(length, '?');
    const ssize_t got = daxfs_pread(direct, out.data(), length, offset);
    REQUIRE(got >= 0);
    out.resize(static_cast<std::size_t>(got));
    return out;
  }
  void write(std::uint64_t offset, const std::string& data) {
    REQUIRE(daxfs_pwrite(direct, data.data(), data.size(), offset) ==
            static_cast<ssize_t>(data.size()));
  }
  daxfs_counts counts() {
    daxfs_counts out;
    daxfs_direct_counts(direct, &out);
    return out;
  }
  daxfs_direct* direct;
};

// Copies the first block's first bytes by hand, and stays in the middle of it: a child of the test.
class HalfCopy {
 public:
  explicit HalfCopy(const std::string& path) {
    int ready[2];
    REQUIRE(pipe(ready) == 0);
    REQUIRE(pipe(go_) == 0);
    child_ = fork();
    if (child_ == 0) _exit(body(path, ready[1]));
    ::close(ready[1]);
    char byte = 0;
    const bool said = read(ready[0], &byte, 1) == 1;
    ::close(ready[0]);
    REQUIRE(said);
  }
  ~HalfCopy() {
    if (child_ > 0) {
      kill(child_, SIGKILL);
      waitpid(child_, nullptr, 0);
    }
    ::close(go_[0]);
    ::close(go_[1]);
  }
  HalfCopy(const HalfCopy&) = delete;
  HalfCopy& operator=(const HalfCopy&) = delete;
  void die() {
    kill(child_, SIGKILL);
    waitpid(child_, nullptr, 0);
    child_ = 0;
  }
  // Does the other half, and ends.
  void finish() {
    const bool said = ::write(go_[1], "x", 1) == 1;
    int status = 0;
    waitpid(child_, &status, 0);
    child_ = 0;
    CHECK(said);
    CHECK(status == 0);
  }

 private:
  int body(const std::string& path, int ready) const {
    const int fd = ::open(path.c_str(), O_RDWR | O_DIRECT);
    daxfs::client::Attached attached;
    if (!daxfs::client::attach_and_map(fd, &attached)) return errno;
    daxfs::client::Extents* const extents =
        daxfs::client::ask_for_extents(fd, attached.terms.pin_id, attached.pool->mapped.length);
    const auto number = daxfs::doorbell::Attachment{attached.terms.attachment};
    daxfs::doorbell::Slot* const slot = daxfs::doorbell::claim(*attached.page, number);
    if (extents == nullptr || slot == nullptr ||
        !daxfs::doorbell::take(*attached.page, *slot, extents->epoch))
      return EAGAIN;
    char byte = 'x';
    if (::write(ready, &byte, 1) != 1 || read(go_[0], &byte, 1) != 1) return EPIPE;
    std::memset(attached.pool->mapped.start + extents->at(0, kBlock).pool_offset, '#', kBlock);
    daxfs::doorbell::give_back(*slot);
    return 0;
  }

  int go_[2] = {-1, -1};
  pid_t child_ = -1;
};

}  // namespace

TEST_CASE_METHOD(DirectMount,
                 "direct: reads and writes are those of the file, without system calls") {
  Direct direct(file);
  CHECK(attached(1));
  CHECK(difference(direct.read(0, kBlocks * kBlock), pattern(kBlocks * kBlock, 1)) == "");
  CHECK(direct.read(100, 50) == pattern(kBlocks * kBlock, 1).substr(100, 50));
  CHECK(direct.read(kBlocks * kBlock - 10, 100).size() == 10);
  CHECK(direct.read(kBlocks * kBlock, 100).empty());
  direct.write(4090, "across a border");
  CHECK(direct.counts().by_kernel == 0);
  CHECK(direct.counts().direct == 5);
  const daxfs::UniqueFd other = open_file(file, O_RDWR);
  CHECK(read_at(other.get(), 4090, 15) == "across a border");
  write_at(other.get(), 8000, "by somebody else");
  CHECK(direct.read(8000, 16) == "by somebody else");

  iovec parts[2];
  std::string a(5, '?'), b(10, '?');
  parts[0] = {a.data(), a.size()};
  parts[1] = {b.data(), b.size()};
  REQUIRE(daxfs_preadv(direct.direct, parts, 2, 4090) == 15);
  CHECK(a + b == "across a border");
  std::memcpy(a.data(), "ACROS", 5);
  REQUIRE(daxfs_pwritev(direct.direct, parts, 2, 4090) == 15);
  CHECK(read_at(other.get(), 4090, 15) == "ACROSs a border");
  CHECK(direct.counts().by_kernel == 0);
}

TEST_CASE_METHOD(DirectMount,
                 "direct: what makes a file longer or fills it is a system call, and seen") {
  Direct direct(file);
  direct.write(kBlocks * kBlock, "longer");
  CHECK(status_of(file).st_size == kBlocks * kBlock + 6);
  CHECK(direct.read(kBlocks * kBlock, 100) == "longer");
  REQUIRE(ftruncate(open_file(file, O_RDWR).get(), 100 * kBlock) == 0);
  CHECK(direct.read(50 * kBlock, 3 * kBlock) == std::string(3 * kBlock, '\0'));
  const daxfs::UniqueFd other = open_file(file, O_RDWR);
  write_at(other.get(), 51 * kBlock, "filled");
  CHECK(direct.read(51 * kBlock, 6) == "filled");
  direct.write(70 * kBlock, "by itself");
  CHECK(direct.read(70 * kBlock, 9) == "by itself");
  CHECK(punch(file, 0, kBlock) == 0);
  CHECK(direct.read(0, kBlock) == std::string(kBlock, '\0'));
  REQUIRE(truncate(file.c_str(), 10) == 0);
  CHECK(direct.read(0, 100) == std::string(10, '\0'));
}

TEST_CASE_METHOD(DirectMount, "direct: the times of a file follow what is written") {
  Direct direct(file);
  const auto before = status_of(file);
  next_tick();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // the client's clock is a coarse one
  CHECK(status_of(file).st_mtim.tv_nsec == before.st_mtim.tv_nsec);
  direct.write(0, "new");
  const auto after = status_of(file);
  CHECK(std::pair(after.st_mtim.tv_sec, after.st_mtim.tv_nsec) >
        std::pair(before.st_mtim.tv_sec, before.st_mtim.tv_nsec));
}

TEST_CASE_METHOD(DirectMount, "direct: whoever cannot open the pool for writing is kept out") {
  REQUIRE(chmod(pool().c_str(), 0644) == 0);
  REQUIRE(chmod(file.c_str(), 0666) == 0);
  const auto attach_as = [&](uid_t user, int flags) {
    return in_child(
        [&] {
          const int fd = open(file.c_str(), flags);
          daxfs_direct* const direct = daxfs_attach(fd);
          return direct == nullptr ? errno : 0;
        },
        user);
  };
  CHECK(attach_as(1234, O_RDWR) == EACCES);
  CHECK(attach_as(0, O_RDONLY) == 0);
  CHECK(attach_as(0, O_WRONLY) == 0);
  // A proof that was not given.
  CHECK(in_child([&] {
          const int fd = open(file.c_str(), O_RDWR | O_DIRECT);
          daxfs_attach_args args = {};
          args.proof = 42;
          return error_of(ioctl(fd, DAXFS_IOC_ATTACH, &args));
        }) == EACCES);
  CHECK(attached(0));
  CHECK(limbo() == 0);
}

TEST_CASE("direct: a mount without the option has none") {
  Mount mount;
  write_file(mount.path("f"), "x");
  const daxfs::UniqueFd fd = open_file(mount.path("f"), O_RDWR);
  CHECK(daxfs_attach(fd.get()) == nullptr);
  CHECK(errno == EOPNOTSUPP);
}

TEST_CASE_METHOD(DirectMount, "direct: an ordinary mapping meets everybody in the kernel") {
  const daxfs::UniqueFd cached = open_file(file, O_RDWR);
  Direct direct(file);
  void* const view = mmap(nullptr, kBlock, PROT_READ | PROT_WRITE, MAP_SHARED, cached.get(), 0);
  REQUIRE(view != MAP_FAILED);
  auto* const bytes = static_cast<char*>(view);
  CHECK(bytes[5] == pattern(kBlock, 1)[5]);
  for (int i = 0; i < 50; ++i) {
    const std::string text = "turn " + std::to_string(i);
    direct.write(0, text);
    CHECK(std::string(bytes, text.size()) == text);
    std::memcpy(bytes, text.data(), 4);
    bytes[2000] = static_cast<char>('a' + i % 26);
    CHECK(direct.read(2000, 1) == std::string(1, bytes[2000]));
    if (i % 10 == 9) std::this_thread::sleep_for(std::chrono::milliseconds(120));
  }
  munmap(view, kBlock);
}

TEST_CASE_METHOD(DirectMount, "direct: a truncate waits for a copy, and for nobody who is dead") {
  const std::uint64_t before = free();
  std::optional<HalfCopy> copy(file);
  Attempt truncating([&] { return shrink(file, 0); });
  REQUIRE(waiting_becomes(*this, 1));
  CHECK(live_list(*this, DAXFS_QUERY_ATTACHED).size() == 1);
  SECTION("it ends") { copy->finish(); }
  SECTION("its process is killed") { copy->die(); }
  CHECK(truncating.finish() == 0);
  copy.reset();
  CHECK(attached(0));
  CHECK(space_becomes(before + kBlocks * kBlock, 0));
}

TEST_CASE_METHOD(Impatient,
                 "direct: a copy that does not end is refused for, or keeps its blocks") {
  const std::string policy = GENERATE("refuse", "defer", "ignore");
  remount("direct,short_timeout=100ms,unsafe_demo,pin_policy=" + policy);
  HalfCopy copy(file);
  const int error = shrink(file, 0);
  CHECK(error == (policy == "refuse" ? ETXTBSY : 0));
  // Somebody else takes all that is free.
  const std::string taken = path("taken");
  const daxfs::UniqueFd fd = open_file(taken, O_RDWR | O_CREAT | O_DIRECT);
  const std::string some(1 << 20, 't');
  while (write(fd.get(), some.data(), some.size()) > 0) {
  }
  copy.finish();
  const std::string seen = read_at(fd.get(), 0, static_cast<std::size_t>(status_of(taken).st_size));
  const bool damaged = seen.find('#') != std::string::npos;
  CHECK(damaged == (policy == "ignore"));
}

TEST_CASE_METHOD(DirectMount,
                 "direct: copies go on while the daemon is dead, and end at the next mount") {
  auto copy = std::make_unique<HalfCopy>(file);
  Direct direct(file);
  direct.write(0, "before");
  const std::uint64_t before = free();
  kill_daemon();
  // Nobody has closed it yet.
  direct.write(0, "without");
  CHECK(direct.read(0, 7) == "without");
  mount("direct,short_timeout=100ms");
  CHECK(read_file(file).substr(0, 7) == "without");
  char byte = 0;
  CHECK(daxfs_pread(direct.direct, &byte, 1, 0) ==
        -1);  // its descriptor is of a mount that is gone
  CHECK(free() <= before);
  CHECK(shrink(file, 0) == ETXTBSY);
  copy->finish();
  CHECK(eventually([&] { return shrink(file, 0) == 0; }));
  copy.reset();
  CHECK(eventually([&] { return limbo() <= daxfs::test::kBlock; }));
}

TEST_CASE("direct: clients beside detaches of every kind see nothing foreign, and damage nobody") {
  const std::string policy = GENERATE("refuse", "defer", "wait", "break");
  Mount mount({.size = "8M+", .options = "direct,short_timeout=50ms,pin_policy=" + policy});
  const std::uint64_t before = mount.free();
  const DirectFound found = run_direct(
      mount.path(),
      {.seconds = 1, .readers = 1, .writers = 1, .stop_clients = true, .kill_clients = true});
  INFO(found.first);
  CHECK(found.foreign == 0);
  CHECK(found.direct > 0);
  CHECK(found.detaches > 0);
  CHECK(mount.space_becomes(before, 0));
}
