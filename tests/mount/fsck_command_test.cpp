// The command fsck.daxfs: exit codes, what it changes and what it does not, and what it says.
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <functional>
#include <optional>

#include "base/crc32c.h"
#include "blockmap/format.h"
#include "tests/mount/file_helpers.h"
#include "tests/mount/mount_fixture.h"
#include "tests/mount/pin_helpers.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;
namespace pmem = daxfs::pmem;

namespace {

constexpr std::uint64_t kPoolSize = 8 << 20;

// A pool with a file, not mounted.
struct Bench {
  Bench() {
    REQUIRE(run({tool("mkfs.daxfs"), "--size", std::to_string(kPoolSize), pool}).code == 0);
  }
  Finished fsck(std::vector<std::string> words) {
    words.insert(words.begin(), tool("fsck.daxfs"));
    words.push_back(pool);
    Finished done = run(words);
    UNSCOPED_INFO(done.out << done.err);
    return done;
  }
  template <class T>
  void change(std::uint64_t at, const std::function<void(T&)>& how) {
    T record;
    const auto fd = open_file(pool, O_RDWR);
    REQUIRE(pread(fd.get(), &record, sizeof record, static_cast<off_t>(at)) == sizeof record);
    how(record);
    REQUIRE(pwrite(fd.get(), &record, sizeof record, static_cast<off_t>(at)) == sizeof record);
  }
  // One copy of the superblock: costs nothing.
  void lose_copy() {
    change<pmem::Superblock>(0, [](auto& super) { super = {}; });
  }
  // The root directory has no place any more: a loss.
  void lose_root() {
    const auto super = load<pmem::Superblock>(kPoolSize - kBlock);
    change<pmem::InodeSlot>(super.inode_region_start * kBlock, [](auto& slot) { slot = {}; });
  }
  template <class T>
  T load(std::uint64_t at) {
    T record;
    const auto fd = open_file(pool, O_RDONLY);
    REQUIRE(pread(fd.get(), &record, sizeof record, static_cast<off_t>(at)) == sizeof record);
    return record;
  }

  TempDir dir;
  const std::string pool = dir.path("pool");
};

}  // namespace

TEST_CASE_METHOD(Bench, "fsck.daxfs: exit codes are those of fsck(8)") {
  SECTION("clean") {
    const std::string before = read_file(pool);
    for (const char* how : {"-n", "-p", "-a", "-y", "-f", "-C"}) {
      const Finished clean = fsck({how});
      CHECK(clean.code == 0);
      CHECK(clean.out.find("clean") != std::string::npos);
    }
    CHECK(fsck({}).code == 0);
    CHECK(read_file(pool) == before);
  }
  SECTION("repaired without loss") {
    for (const auto& how : std::vector<std::vector<std::string>>{{}, {"-p"}, {"-a"}, {"-y"}}) {
      lose_copy();
      CHECK(fsck({"-n"}).code == 4);
      CHECK(fsck(how).code == 1);
      CHECK(fsck(how).code == 0);
    }
  }
  SECTION("what loses something needs -y") {
    lose_root();
    CHECK(fsck({}).code == 4);  // there is no terminal to ask
    CHECK(fsck({"-p"}).code == 4);
    CHECK(fsck({"-p"}).err.find("-y") != std::string::npos);
    CHECK(fsck({"-n"}).code == 4);
    CHECK(fsck({"-y"}).code == 1);
    CHECK(fsck({"-n"}).code == 0);
  }
  SECTION("cannot be checked") {
    write_file(pool, std::string(kPoolSize, 'x'));
    const Finished failed = fsck({"-y"});
    CHECK(failed.code == 8);
    CHECK(failed.err.find("not a daxfs pool") != std::string::npos);
  }
  SECTION("truncated: refused, nothing is changed, and the way out is named") {
    REQUIRE(truncate(pool.c_str(), kPoolSize / 2) == 0);
    const std::string before = read_file(pool);
    const Finished failed = fsck({"-y"});
    CHECK(failed.code == 8);
    CHECK(failed.err.find("truncate -s 8388608 ") != std::string::npos);
    CHECK(read_file(pool) == before);
    REQUIRE(truncate(pool.c_str(), kPoolSize) == 0);
    CHECK(fsck({"-y"}).code == 1);
  }
  SECTION("usage") {
    CHECK(fsck({"-n", "-y"}).code == 16);
    CHECK(fsck({"-n", "-p"}).code == 16);
    CHECK(fsck({"--nonsense"}).code == 16);
  }
}

TEST_CASE_METHOD(Bench, "fsck.daxfs -n changes nothing, not even the times of the pool") {
  lose_copy();
  lose_root();
  REQUIRE(chmod(pool.c_str(), 0400) == 0);
  const struct stat before = status_of(pool);
  const std::string content = read_file(pool);
  const Finished looked = fsck({"-n"});
  CHECK(looked.code == 4);
  CHECK(looked.out.find("[data-loss, root]") != std::string::npos);
  CHECK(looked.out.find("[repairable, superblock]") != std::string::npos);
  const struct stat after = status_of(pool);
  CHECK(after.st_mtim.tv_sec == before.st_mtim.tv_sec);
  CHECK(after.st_mtim.tv_nsec == before.st_mtim.tv_nsec);
  CHECK(after.st_ctim.tv_nsec == before.st_ctim.tv_nsec);
  CHECK(read_file(pool) == content);
}

TEST_CASE("fsck.daxfs fills no holes of a sparse pool") {
  const TempDir dir;
  const std::string pool = dir.path("pool");
  REQUIRE(run({tool("mkfs.daxfs"), "--size", "1T", pool}).code == 0);
  // Everything that is not in use is looked at for pin records.
  const auto fd = open_file(pool, O_RDWR);
  pmem::Superblock super;
  REQUIRE(pread(fd.get(), &super, sizeof super, 0) == sizeof super);
  const std::string zeroes(pmem::kPinSlotBytes, '\0');
  REQUIRE(pwrite(fd.get(), zeroes.data(), zeroes.size(),
                 static_cast<off_t>(super.pin_region_start * kBlock)) == pmem::kPinSlotBytes);
  const auto before = status_of(pool).st_blocks;
  const Finished repaired = run({tool("fsck.daxfs"), "-y", pool});
  INFO(repaired.out << repaired.err);
  CHECK(repaired.code == 1);
  CHECK(repaired.out.find("[repairable, pin-blocks]") != std::string::npos);
  CHECK(status_of(pool).st_blocks < before + 64 * 1024);  // of 512 bytes
}

TEST_CASE_METHOD(Bench, "fsck.daxfs --json reports what was found and done") {
  lose_root();
  const Finished looked = fsck({"-n", "--json"});
  CHECK(looked.code == 4);
  const Json seen = Json::parse(looked.out);
  CHECK(seen["exit_code"] == 4);
  CHECK(seen["changed_nothing"] == true);
  CHECK(seen["counts"]["data-loss"] == 1);
  CHECK(seen["findings"][0]["code"] == "root");
  CHECK(seen["findings"][0]["fixed"] == false);

  const Json repaired = Json::parse(fsck({"-y", "--json"}).out);
  CHECK(repaired["findings"][0]["fixed"] == true);
  CHECK(repaired["exit_code"] == 1);
  const Json clean = Json::parse(fsck({"-y", "--json"}).out);
  CHECK(clean["exit_code"] == 0);
  CHECK(clean["findings"].empty());
  CHECK(clean["directories"] == 1);
}

TEST_CASE_METHOD(
    Bench, "fsck.daxfs says once what is the same of many inodes, and all of it with --json") {
  const auto super = load<pmem::Superblock>(kPoolSize - kBlock);
  for (const std::uint64_t slot : {10, 11, 12, 13, 20}) {
    change<pmem::InodeSlot>(super.inode_region_start * kBlock + slot * sizeof(pmem::InodeSlot),
                            [](auto& bad) { std::memset(static_cast<void*>(&bad), 'x', 64); });
  }
  const Finished looked = fsck({"-n"});
  CHECK(looked.code == 4);
  CHECK(std::ranges::count(looked.out, '\n') == 1);
  CHECK(looked.out.find("inode 11-14, 21: ") == 0);
  CHECK(looked.out.find("[data-loss, inode-record] (5 times) (nothing was changed)\n") !=
        std::string::npos);
  CHECK(looked.err.find("5 problems") != std::string::npos);
  CHECK(Json::parse(fsck({"-n", "--json"}).out)["findings"].size() == 5);
}

TEST_CASE_METHOD(Bench, "fsck.daxfs -C FD writes lines for fsck(8)") {
  const std::string script =
      tool("fsck.daxfs") + " -C5 " + pool + " 5>" + dir.path("lines") + " >/dev/null";
  REQUIRE(run({"/bin/sh", "-c", script}).code == 0);
  const std::string lines = read_file(dir.path("lines"));
  CHECK(lines.find("1 1024 1024 " + pool + "\n") != std::string::npos);
}

TEST_CASE("fsck.daxfs refuses a mounted pool, and checks that of a killed daemon") {
  Mount mount({.size = "16M"});
  write_file(mount.path("file"), pattern(100'000, 1));
  for (const char* how : {"-n", "-y"}) {
    const Finished refused = run({tool("fsck.daxfs"), how, mount.pool()});
    CHECK(refused.code == 8);
    CHECK(refused.err.find("in use") != std::string::npos);
    CHECK(refused.err.find("mounted on " + mount.path()) != std::string::npos);
  }
  // Killed: -n sees what the next mount will see, and changes nothing.
  mount.kill_daemon();
  const std::string before = read_file(mount.pool());
  CHECK(run({tool("fsck.daxfs"), "-n", mount.pool()}).code == 0);
  CHECK(read_file(mount.pool()) == before);
  CHECK(run({tool("fsck.daxfs"), "-y", mount.pool()}).code <= 1);
  mount.mount();
  CHECK(read_file(mount.path("file")) == pattern(100'000, 1));
  mount.unmount();
}

TEST_CASE("fsck.daxfs and mkfs.daxfs wait for a daemon that is about to end") {
  Mount mount;
  mount.unmount();
  const std::string& pool = mount.pool();
  const std::string said = mount.beside("said");
  // In the place of the daemon: a process that has the lock until it is waited for.
  const std::string user = "exec 9<" + pool + "; flock -x 9; (until grep -q waiting " + said +
                           "; do sleep 0.02; done) 2>/dev/null & exec 9<&-; ";
  for (const std::string& command :
       {tool("fsck.daxfs") + " -n ", tool("mkfs.daxfs") + " --force "}) {
    const Finished waited =
        run({"/bin/sh", "-c",
             user + command + pool + " 2>" + said + "; status=$?; wait; exit $status"});
    INFO(waited.out << waited.err);
    CHECK(waited.code == 0);
    CHECK(read_file(said).find("waiting up to 30 s for its former daemon") != std::string::npos);
    std::filesystem::remove(said);
  }
}

TEST_CASE("fsck.daxfs and pins of a process that outlives the daemon") {
  Mount mount({.size = "16M"});
  const auto fsck = [&](std::vector<std::string> words) {
    words.insert(words.begin(), tool("fsck.daxfs"));
    words.push_back(mount.pool());
    Finished done = run(words);
    UNSCOPED_INFO(done.out << done.err);
    return done;
  };
  write_file(mount.path("file"), pattern(100'000, 1));
  HoldProcess holder(mount.path("file"), 0, 8192, {"--read-only"});
  mount.kill_daemon();
  const Finished repaired = fsck({"-y"});
  CHECK(repaired.code <= 1);
  CHECK(repaired.out.find("1 pins of former mounts") != std::string::npos);
  CHECK(Json::parse(fsck({"-n", "--json"}).out)["pins"] == 1);

  // Its record is destroyed: nobody knows any more what it keeps, so that is no safe repair.
  const auto fd = open_file(mount.pool(), O_RDWR);
  pmem::Superblock super;
  REQUIRE(pread(fd.get(), &super, sizeof super, 0) == sizeof super);
  const std::string zeroes(64, '\0');
  const auto record = static_cast<off_t>(super.pin_region_start * kBlock + pmem::kPinSlotBytes);
  REQUIRE(pwrite(fd.get(), zeroes.data(), zeroes.size(), record + 8) == 64);
  CHECK(fsck({"-n"}).out.find("[data-loss, pin-record]") != std::string::npos);
  CHECK(fsck({"-p"}).code == 4);
  CHECK(fsck({"-y"}).code == 1);
  CHECK(fsck({"-n"}).code == 0);
  CHECK(Json::parse(fsck({"-n", "--json"}).out)["pins"] == 0);
  mount.mount();
  CHECK(read_file(mount.path("file")) == pattern(100'000, 1));
  mount.unmount();
}
