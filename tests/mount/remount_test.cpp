// Mounting and unmounting: in the background, over and over, and by signals.
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "tests/mount/file_helpers.h"
#include "tests/mount/mount_fixture.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

constexpr long kFuseMagic = 0x65735546;

// A pool without the fixture's daemon: these tests start it themselves, as users do.
struct Background {
  Background() { REQUIRE(mkdir(mnt.c_str(), 0755) == 0); }
  ~Background() {
    umount2(mnt.c_str(), MNT_DETACH);
    if (const pid_t daemon = find_daemon(); daemon != 0) {
      CHECK(eventually([&] { return find_daemon() == 0; }));
      if (find_daemon() == daemon) ::kill(daemon, SIGKILL);
    }
  }
  Finished mount(const std::string& options = {}) {
    std::vector<std::string> command{tool("daxfs"), pool, mnt};
    if (!options.empty()) command.insert(command.end(), {"-o", options});
    return run(command);
  }
  bool mounted() const {
    struct statfs status {};
    return statfs(mnt.c_str(), &status) == 0 && status.f_type == kFuseMagic;
  }
  int umount() const { return error_of(umount2(mnt.c_str(), 0)); }
  // The process that serves this pool, by its command line; 0 if there is none.
  pid_t find_daemon() const {
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      const std::string name = entry.path().filename();
      if (name.find_first_not_of("0123456789") != std::string::npos) continue;
      std::ifstream file(entry.path() / "cmdline");
      const std::string line((std::istreambuf_iterator<char>(file)), {});
      if (line.starts_with(tool("daxfs") + '\0' + pool + '\0')) return std::stoi(name);
    }
    return 0;
  }
  TempDir dir;
  const std::string pool = make_pool(dir.path("pool"));
  const std::string mnt = dir.path("mnt");
};

}  // namespace

TEST_CASE_METHOD(Background, "the daemon goes to the background when the mount answers") {
  const Finished done = mount();
  INFO(done.err);
  REQUIRE(done.code == 0);
  CHECK(mounted());
  CHECK(done.err.empty());
  CHECK(done.out.find(pool) != std::string::npos);
  CHECK(done.out.find("granularity") != std::string::npos);
  write_file(mnt + "/f", "served");
  CHECK(read_file(mnt + "/f") == "served");
  const pid_t daemon = find_daemon();
  REQUIRE(daemon != 0);
  // A session of its own, nowhere in the way.
  CHECK(getsid(daemon) == daemon);
  CHECK(std::filesystem::read_symlink("/proc/" + std::to_string(daemon) + "/cwd") == "/");
  CHECK(umount() == 0);
  CHECK(eventually([&] { return find_daemon() == 0; }));
  CHECK(mount("pin_policy=nonsense").code == 2);
  CHECK_FALSE(mounted());
}

TEST_CASE_METHOD(Background, "umount followed at once by a mount, twenty times") {
  REQUIRE(mount().code == 0);
  for (int round = 0; round < 20; ++round) {
    INFO("round " << round);
    write_file(mnt + "/" + std::to_string(round), pattern(100'000, static_cast<unsigned>(round)));
    REQUIRE(umount() == 0);
    const Finished again = mount();
    INFO(again.err);
    REQUIRE(again.code == 0);
    REQUIRE(mounted());
    for (int i = 0; i <= round; ++i) {
      REQUIRE(difference(read_file(mnt + "/" + std::to_string(i)),
                         pattern(100'000, static_cast<unsigned>(i))) == "");
    }
  }
  CHECK(umount() == 0);
}

TEST_CASE_METHOD(Background, "a mount waits for the daemon of a lazy unmount to finish") {
  REQUIRE(mount().code == 0);
  daxfs::UniqueFd open_still = open_file(mnt + "/f", O_RDWR | O_CREAT);
  write_at(open_still.get(), 0, "late");
  REQUIRE(umount2(mnt.c_str(), MNT_DETACH) == 0);
  Process waiting({tool("daxfs"), pool, mnt});
  CHECK(eventually([&] { return waiting.err().find("waiting") != std::string::npos; }));
  CHECK(waiting.running());
  write_at(open_still.get(), 4, "r");
  open_still = daxfs::UniqueFd();
  const Finished mounted_now = waiting.finish();
  INFO(mounted_now.err);
  REQUIRE(mounted_now.code == 0);
  CHECK(read_file(mnt + "/f") == "later");
  CHECK(umount() == 0);
}

TEST_CASE_METHOD(Background, "signals to the daemon unmount in good order") {
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) {
    INFO("signal " << signal);
    REQUIRE(mount().code == 0);
    write_file(mnt + "/f", "kept " + std::to_string(signal));
    const pid_t daemon = find_daemon();
    REQUIRE(daemon != 0);
    REQUIRE(::kill(daemon, signal) == 0);
    CHECK(eventually([&] { return find_daemon() == 0; }));
    CHECK_FALSE(mounted());
    REQUIRE(mount().code == 0);
    CHECK(read_file(mnt + "/f") == "kept " + std::to_string(signal));
    REQUIRE(umount() == 0);
  }
}

TEST_CASE_METHOD(Background, "a mount point whose daemon has died is named as such") {
  REQUIRE(mount().code == 0);
  const pid_t daemon = find_daemon();
  REQUIRE(::kill(daemon, SIGKILL) == 0);
  REQUIRE(eventually([&] { return find_daemon() == 0; }));
  REQUIRE(eventually([&] { return error_of(open((mnt + "/f").c_str(), O_RDONLY)) == ENOTCONN; }));
  const Finished refused = mount();
  CHECK(refused.code == 1);
  CHECK(refused.err.find(mnt) != std::string::npos);
  CHECK(refused.err.find("umount") != std::string::npos);
  const Finished asked = run({tool("daxfsctl"), "status", mnt});
  CHECK(asked.code == 1);
  REQUIRE(umount2(mnt.c_str(), MNT_DETACH) == 0);
  CHECK(mount().code == 0);
  CHECK(umount() == 0);
}

TEST_CASE_METHOD(Background, "all options of a mount are taken, and shown") {
  const Finished done = mount(
      "rw,noatime,nodev,nosuid,auto,_netdev,x-systemd.automount,pin_policy=defer,limbo_limit=1M,"
      "short_timeout=2s,longterm=allow");
  INFO(done.err);
  REQUIRE(done.code == 0);
  const Finished shown = run({tool("daxfsctl"), "status", mnt, "--json"});
  REQUIRE(shown.code == 0);
  const Json status = Json::parse(shown.out);
  CHECK(status["pool"] == pool);
  CHECK(status["mountpoint"] == mnt);
  CHECK(status["block_size"] == 4096);
  CHECK(status["policy"]["pin_policy"] == "defer");
  CHECK(status["policy"]["limbo_limit"] == 1 << 20);
  CHECK(status["policy"]["short_timeout"] == 2.0);
  CHECK(status["policy"]["longterm"] == "allow");
  for (const char* key :
       {"uuid", "total", "free", "limbo", "pins", "leases", "waiting", "granularity", "dax"}) {
    CHECK(status.contains(key));
  }
  for (const char* key : {"on_timeout", "wait_timeout", "break_timeout", "pin_limit"}) {
    CHECK(status["policy"].contains(key));
  }
  // nosuid and nodev are the kernel's to keep.
  REQUIRE(mknod((mnt + "/null").c_str(), S_IFCHR | 0666, 0x103) == 0);
  CHECK(error_of(open((mnt + "/null").c_str(), O_WRONLY)) == EACCES);
  CHECK(umount() == 0);
}

TEST_CASE_METHOD(Background, "a mount point whose daemon has died is named as that") {
  REQUIRE(mount().code == 0);
  struct stat known {};
  REQUIRE(stat(mnt.c_str(), &known) == 0);  // the kernel knows its attributes for a while
  REQUIRE(::kill(find_daemon(), SIGKILL) == 0);
  REQUIRE(eventually([&] { return find_daemon() == 0; }));
  // The process loses its name before its descriptors.
  REQUIRE(eventually([&] { return error_of(open((mnt + "/f").c_str(), O_RDONLY)) == ENOTCONN; }));
  const Finished refused = mount();
  INFO(refused.err);
  CHECK(refused.code == 1);
  CHECK(contains(refused.err,
                 "mount point " + mnt + ": a FUSE mount whose daemon has died; umount " + mnt));
  CHECK(umount() == 0);
  CHECK(mount().code == 0);
}

TEST_CASE_METHOD(Background, "a mount in the background is interrupted with its command") {
  // Another has the pool, so that the daemon waits for it.
  const auto held = open_file(pool, O_RDWR);
  REQUIRE(::flock(held.get(), LOCK_EX) == 0);
  Process waiting({tool("daxfs"), pool, mnt});
  REQUIRE(eventually([&] { return contains(waiting.err(), "waiting"); }));
  waiting.signal(SIGINT);
  CHECK(waiting.finish().code == 128 + SIGINT);
  CHECK(eventually([&] { return find_daemon() == 0; }, Seconds(10)));
  CHECK_FALSE(mounted());
}
