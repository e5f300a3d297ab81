#include "tests/mount/mount_fixture.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <vector>

#include "blockmap/medium/pool.h"
#include "blockmap/volume/check.h"
#include "client/daxfs.h"
#include "tests/unit/catch.h"

namespace daxfs::test {
namespace {

// The text is what ctest looks for (tests/CMakeLists.txt).
[[noreturn]] void skip(const char* reason) {
  std::printf("SKIPPED: %s\n", reason);
  std::fflush(stdout);
  _exit(77);
}

}  // namespace

void need_mounts() {
  if (geteuid() != 0) skip("mounting needs root");
  if (access("/dev/fuse", R_OK | W_OK) != 0) skip("no /dev/fuse");
}

void skip_here(const std::string& reason) {
  // Catch knows no skipping, but ctest does, whatever the end of the program.
  FAIL("SKIPPED: " << reason);
  std::abort();
}

void need_own_machine() {
  if (std::getenv("DAXFS_TEST_OWN_MACHINE") == nullptr)
    skip_here("what it changes is others', too, unless DAXFS_TEST_OWN_MACHINE says that it is not");
}

std::string pool_device() {
  const char* const device = std::getenv("DAXFS_TEST_POOL_DEVICE");
  return device != nullptr ? device : "";
}

bool on_persistent_memory() {
  return std::getenv("DAXFS_TEST_POOL_DIR") != nullptr || !pool_device().empty();
}

std::string make_pool(const std::string& path, const std::string& size) {
  need_mounts();
  std::vector<std::string> command{tool("mkfs.daxfs")};
  std::string pool = pool_device();
  if (!pool.empty()) {
    if (!size.empty() && !size.ends_with('+'))
      skip("this test needs a pool of its own size, and a device has its own");
    command.insert(command.end(), {"--force", pool});
  } else {
    pool = path;
    command.insert(command.end(),
                   {"--size", size.empty() ? "64M" : size.substr(0, size.find('+')), pool});
  }
  const Finished made = run(command);
  INFO(made.err);
  REQUIRE(made.code == 0);
  return pool;
}

TempDir::TempDir() {
  const char* base = std::getenv("DAXFS_TEST_POOL_DIR");
  if (base == nullptr) base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
  path_ = std::string(base) + "/daxfs-test-XXXXXX";
  REQUIRE(mkdtemp(path_.data()) != nullptr);
  REQUIRE(chmod(path_.c_str(), 0755) == 0);
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

Mount::Mount() : Mount(Setup{}) {}

Mount::Mount(const Setup& setup) {
  pool_ = make_pool(setup.pool.empty() ? dir_.path("pool") : setup.pool, setup.size);
  REQUIRE(mkdir(path().c_str(), 0755) == 0);
  mount(setup.options);
  // Tests of unprivileged users work in the root.
  REQUIRE(chmod(path().c_str(), 0777) == 0);
}

Mount::~Mount() {
  if (!daemon_) return;
  if (std::uncaught_exceptions() > 0) {
    WARN("the daemon said: " << daemon_->out() << daemon_->err());
    umount2(path().c_str(), MNT_DETACH);
    daemon_->finish(Seconds(10));
    return;
  }
  // No exception may leave from here: no REQUIRE.
  const bool unmounted =
      eventually([this] { return umount2(path().c_str(), 0) == 0; }, Seconds(10));
  CHECK(unmounted);
  if (!unmounted) umount2(path().c_str(), MNT_DETACH);
  const Finished ended = daemon_->finish(kPatience);
  INFO(ended.out << ended.err);
  CHECK_FALSE(ended.timed_out);
  CHECK(ended.code == 0);
  daemon_.reset();
  check_pool();
}

void Mount::mount(const std::string& options) {
  // Kernels that do not count pinned pages, and other tests that pin some, make the whole grace
  // pass after each death.
  std::string all = options;
  if (all.find("exit_grace=") == std::string::npos)
    all += all.empty() ? "exit_grace=1s" : ",exit_grace=1s";
  if (const char* const cache = std::getenv("DAXFS_TEST_CACHE")) {
    if (all.find("cache=") == std::string::npos) all += std::string(",cache=") + cache;
  }
  daemon_.emplace(std::vector<std::string>{tool("daxfs"), pool(), path(), "-f", "-o", all});
  const bool ready = daemon_->says(" on " + path() + ":");
  INFO(daemon_->out() << daemon_->err());
  REQUIRE(ready);
  struct statvfs answer {};
  REQUIRE(statvfs(path().c_str(), &answer) == 0);
}

void Mount::unmount() {
  // An own descriptor's release may still be on its way.
  REQUIRE(eventually([this] { return umount2(path().c_str(), 0) == 0; }));
  end_of_daemon();
}

void Mount::end_of_daemon() {
  const Finished ended = daemon_->finish(kPatience);
  daemon_.reset();
  INFO(ended.out << ended.err);
  REQUIRE_FALSE(ended.timed_out);
  REQUIRE(ended.code == 0);
}

void Mount::remount(const std::string& options) {
  unmount();
  mount(options);
}

void Mount::kill_daemon() {
  daemon_->signal(SIGKILL);
  daemon_->finish();
  daemon_.reset();
  REQUIRE(umount2(path().c_str(), MNT_DETACH) == 0);
}

Finished Mount::daemon_ends() {
  Finished ended = daemon_->finish(kPatience);
  daemon_.reset();
  umount2(path().c_str(), MNT_DETACH);
  return ended;
}

std::uint64_t Mount::check_pool() const {
  const auto opened = Pool::open(pool(), {.read_only = true, .lock_timeout_seconds = 30});
  if (!opened) {
    FAIL_CHECK(opened.error().text);
    return 0;
  }
  const CheckReport report = check_volume((*opened)->medium(), pool());
  for (const std::string& error : report.errors) FAIL_CHECK(error);
  return report.free_blocks * kBlockSize;
}

Finished Mount::run_as(uid_t user, std::vector<std::string> command) const {
  namespace fs = std::filesystem;
  const fs::path dir = dir_.path("tools");
  fs::create_directory(dir);
  for (const fs::path& file :
       {fs::path(tool(command[0])), fs::path(tool("client")) / "libdaxfs.so.0"}) {
    fs::copy_file(file, dir / file.filename(), fs::copy_options::skip_existing);
  }
  command[0] = dir / command[0];
  command.insert(command.begin(), {"/usr/bin/env", "LD_LIBRARY_PATH=" + dir.string()});
  return run(command, user);
}

Json Mount::ctl(const std::string& view, const std::string& name) const {
  const Finished shown = run({tool("daxfsctl"), view, path(name), "--json"});
  INFO(shown.err);
  REQUIRE(shown.code == 0);
  return Json::parse(shown.out);
}

bool Mount::space_becomes(std::uint64_t free, std::uint64_t limbo) const {
  Json last;
  const bool became = eventually([&] {
    last = status();
    return last["free"] == free && last["limbo"] == limbo;
  });
  if (!became) {
    WARN("free " << last["free"] << ", limbo " << last["limbo"] << "; expected " << free << " and "
                 << limbo);
  }
  return became;
}

char* view_of(int fd, std::uint64_t pin_id, std::size_t* length) {
  void* const view = daxfs_map(fd, pin_id, length);
  if (view == nullptr && errno == EOPNOTSUPP && !pool_device().empty()) {
    skip_here("a view of these blocks is finer than what " + pool_device() + " can map");
  }
  REQUIRE(view != nullptr);
  return static_cast<char*>(view);
}

struct stat status_of(const std::string& path) {
  struct stat status {};
  INFO(path);
  REQUIRE(lstat(path.c_str(), &status) == 0);
  return status;
}

}  // namespace daxfs::test
