// daxfsctl scrub on a real mount.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstring>
#include <thread>

#include "base/crc32c.h"
#include "blockmap/format.h"
#include "tests/mount/file_helpers.h"
#include "tests/mount/mount_fixture.h"
#include "tests/mount/pin_helpers.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;
namespace pmem = daxfs::pmem;

namespace {

constexpr uid_t kSomebody = 1000;

struct Fixture : Mount {
  Fixture() : Mount({.size = "32M", .options = "pin_policy=defer"}) {}

  Finished scrub(std::vector<std::string> more = {}) {
    more.insert(more.begin(), {tool("daxfsctl"), "scrub", path()});
    Finished done = run(more);
    UNSCOPED_INFO(done.code << ": " << done.out << done.err);
    return done;
  }
  // The pool is in use; a stray write does not ask.
  void flip_bit(std::uint64_t at) {
    const auto fd = open_file(pool(), O_RDWR);
    std::string byte = read_at(fd.get(), at, 1);
    byte[0] = static_cast<char>(byte[0] ^ 4);
    write_at(fd.get(), at, byte);
  }
  std::uint64_t inode_place(const std::string& name) {
    const auto fd = open_file(pool(), O_RDONLY);
    pmem::Superblock super;
    const std::string bytes = read_at(fd.get(), 0, sizeof super);
    std::memcpy(&super, bytes.data(), sizeof super);
    return super.inode_region_start * kBlock +
           (status_of(path(name)).st_ino - 1) * pmem::kInodeBytes;
  }
};

}  // namespace

TEST_CASE_METHOD(Fixture, "daxfsctl scrub: a clean verdict, in words and in JSON") {
  write_file(path("file"), pattern(100 * kBlock, 1));
  const HoldProcess holder(path("file"), 0, 16 * kBlock);
  REQUIRE(punch(path("file"), 0, 8 * kBlock) == 0);

  const Finished words = scrub();
  CHECK(words.code == 0);
  CHECK(contains(words.out, "clean: 1 files, 1 directories, 1 pins"));
  const Finished done = scrub({"--json"});
  CHECK(done.code == 0);
  const Json all = Json::parse(done.out);
  CHECK(all["clean"] == true);
  CHECK(all["findings"].empty());
  CHECK(all["limbo"] == 8 * kBlock);
  const auto number = [&](const char* key) { return all[key].get<std::uint64_t>(); };
  CHECK(number("owned") + number("limbo") + number("free") == number("total"));
  CHECK(number("free") == free());
  // Any path of the mount will do.
  CHECK(run({tool("daxfsctl"), "scrub", path("file")}).code == 0);
  CHECK(contains(run({"/bin/cat", path(".daxfs/scrub")}).out, "\"clean\":true"));
}

TEST_CASE_METHOD(Fixture, "daxfsctl scrub is for root and the user who mounted") {
  const Finished other = run_as(kSomebody, {"daxfsctl", "scrub", path()});
  CHECK(other.code == 1);
  CHECK(contains(other.err, "only root and the user who mounted"));
  CHECK(scrub().code == 0);
}

TEST_CASE_METHOD(Fixture, "daxfsctl scrub: wrong use, and what is no mount") {
  CHECK(run({tool("daxfsctl"), "scrub"}).code == 2);
  CHECK(run({tool("daxfsctl"), "scrub", "/"}).code == 1);
  CHECK(contains(run({tool("daxfsctl"), "scrub", "--help"}).out, "while it is in use"));
  const auto reading = open_file(path(".daxfs/scrub"), O_RDONLY);
  const Finished second = scrub();
  CHECK(second.code == 1);
  CHECK(contains(second.err, "another scrub"));
}

TEST_CASE_METHOD(Fixture, "daxfsctl scrub: a damaged record is told, and everything else goes on") {
  write_file(path("file"), pattern(10 * kBlock, 1));
  remount();
  const std::uint64_t at = inode_place("file") + offsetof(pmem::InodeRecord, uid);
  flip_bit(at);
  const Finished words = scrub();
  CHECK(words.code == 4);
  const std::string name = "inode " + std::to_string(status_of(path("file")).st_ino);
  CHECK(contains(words.out, name + ": one bit of its record"));
  CHECK(contains(words.out, "fsck.daxfs " + pool()));
  const Finished done = scrub({"--json"});
  CHECK(done.code == 4);
  const Json all = Json::parse(done.out);
  CHECK(all["clean"] == false);
  REQUIRE(all["findings"].size() == 1);
  CHECK(all["findings"][0]["code"] == "inode-record");
  CHECK(all["stopped"].is_null());
  write_file(path("other"), "goes on");
  flip_bit(at);
  CHECK(scrub().code == 0);
}

TEST_CASE_METHOD(Fixture, "daxfsctl scrub: what could spread stops all changes") {
  write_file(path("one"), pattern(kBlock, 1));
  write_file(path("two"), pattern(kBlock, 2));
  remount();
  // The extent of one, as the record of the other has it, with a good checksum.
  const auto pool_file = open_file(pool(), O_RDWR);
  const std::uint64_t one = inode_place("one") + offsetof(pmem::InodeSlot, extents);
  const std::uint64_t two = inode_place("two") + offsetof(pmem::InodeSlot, extents);
  const std::string before = read_at(pool_file.get(), two, sizeof(pmem::ExtentRecord));
  pmem::ExtentRecord stolen;
  std::memcpy(&stolen, before.data(), sizeof stolen);
  std::memcpy(&stolen.pool_block,
              read_at(pool_file.get(), one + offsetof(pmem::ExtentRecord, pool_block), 8).data(),
              8);
  daxfs::seal(stolen);
  write_at(pool_file.get(), two, {reinterpret_cast<const char*>(&stolen), sizeof stolen});

  const Finished words = scrub();
  CHECK(words.code == 4);
  CHECK(contains(words.out, "shared-blocks"));
  CHECK(contains(words.out, "nothing is changed any more"));
  CHECK(status()["stopped"].is_string());
  CHECK(error_of(mkdir(path("new").c_str(), 0755)) == EIO);
  CHECK(read_file(path("one")) == pattern(kBlock, 1));

  write_at(pool_file.get(), two, before);
  unmount();
  mount();
  CHECK(status()["stopped"].is_null());
  CHECK(scrub().code == 0);
  CHECK(read_file(path("two")) == pattern(kBlock, 2));
}

TEST_CASE_METHOD(Fixture, "daxfsctl scrub: no false alarm under load, and the load goes on") {
  // No assertions in threads: Catch2 does not allow them.
  std::atomic<bool> stop = false;
  std::atomic<std::uint64_t> changes = 0;
  const std::string data = pattern(5 * kBlock, 1);
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&, mine = path("t" + std::to_string(t))] {
      int failed = 0;
      while (!stop) {
        mkdir(mine.c_str(), 0755);
        for (int i = 0; i < 10; ++i) {
          const std::string file = mine + "/" + std::to_string(i);
          const int fd = open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
          if (pwrite(fd, data.data(), data.size(), i * 3000) < 0) ++failed;
          fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2 * kBlock, kBlock);
          close(fd);
          failed += symlink("target", (file + ".link").c_str()) != 0;
          failed += rename(file.c_str(), (mine + "/other").c_str()) != 0;
          failed += unlink((file + ".link").c_str()) != 0;
          if (failed == 0) ++changes;
        }
        failed += unlink((mine + "/other").c_str()) != 0;
        rmdir(mine.c_str());
      }
    });
  }
  Process holders({"/bin/sh", "-c",
                   "trap 'wait; exit 0' TERM; while :; do '" + tool("daxfs-hold") + "' '" +
                       path("held") +
                       "' --length 64K --allocate --seconds 1 > /dev/null & sleep 0.2; "
                       "truncate -s 0 '" +
                       path("held") + "'; wait; done"});
  std::string wrong;
  int scrubs = 0;
  for (const auto end = std::chrono::steady_clock::now() + Seconds(5);
       std::chrono::steady_clock::now() < end && wrong.empty(); ++scrubs) {
    const Finished done = run({tool("daxfsctl"), "scrub", path()});
    if (done.code != 0) wrong = done.out + done.err;
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  holders.signal(SIGTERM);
  CHECK(holders.finish().code == 0);
  CHECK(wrong.empty());
  CHECK(scrubs > 3);
  CHECK(changes > 10);
  CHECK(scrub().code == 0);
}
