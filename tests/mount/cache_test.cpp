// cache=: what each mode of the page cache promises.
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <optional>
#include <string>

#include "base/unique_fd.h"
#include "client/daxfs.h"
#include "tests/mount/file_helpers.h"
#include "tests/mount/gate_helpers.h"
#include "tests/unit/catch.h"

namespace daxfs::test {
namespace {

constexpr const char* kWriteback = "cache=writeback";

std::int64_t nanoseconds(const timespec& time) {
  return time.tv_sec * 1'000'000'000ll + time.tv_nsec;
}

std::uint64_t pinned(int fd, std::uint64_t offset, std::uint64_t length, std::uint32_t flags) {
  daxfs_pin_args pin{};
  pin.offset = offset;
  pin.length = length;
  pin.flags = flags;
  REQUIRE(ioctl(fd, DAXFS_IOC_PIN, &pin) == 0);
  return pin.pin_id;
}

std::uint64_t free_blocks(const Mount& mount) {
  struct statvfs now {};
  REQUIRE(statvfs(mount.path().c_str(), &now) == 0);
  return now.f_bfree;
}

// Without files but one, which takes all blocks but so many.
void fill_but(const Mount& mount, std::uint64_t blocks) {
  const UniqueFd fd = open_file(mount.path("fill"), O_RDWR | O_CREAT | O_DIRECT);
  allocate_all_free(fd.get());
  const auto freed = static_cast<off_t>(blocks * kBlock);
  REQUIRE(fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, freed) == 0);
  REQUIRE(mount.free() == blocks * kBlock);
}

}  // namespace

TEST_CASE("daxfsctl status tells the mode of the cache") {
  need_mounts();
  const std::string mode = GENERATE("through", "writeback", "none");
  const Mount mount({.options = "cache=" + mode});
  CHECK(mount.status()["cache"] == mode);
}

TEST_CASE("with cache=writeback a write stays in the kernel until fsync, which makes it durable") {
  need_mounts();
  Mount mount({.options = kWriteback});
  const std::string data = pattern(1 << 20, 1);
  UniqueFd fd = open_file(mount.path("f"), O_WRONLY | O_CREAT);
  // The kernel may send some of it at once, but not always. (A child that is started closes its
  // copies of descriptors, which sends all.)
  bool kept = false;
  for (std::uint64_t at = 0; at < data.size(); at += 4 * kBlock) {
    const std::uint64_t before = free_blocks(mount);
    write_at(fd.get(), at, data.substr(at, 4 * kBlock));
    kept = kept || free_blocks(mount) == before;
  }
  CHECK(kept);
  CHECK(status_of(mount.path("f")).st_size == 1 << 20);
  REQUIRE(fsync(fd.get()) == 0);
  write_at(fd.get(), 1 << 20, "not yet");
  mount.kill_daemon();
  CHECK(fsync(fd.get()) != 0);
  fd = UniqueFd();
  mount.mount(kWriteback);
  CHECK(difference(read_file(mount.path("f")).substr(0, 1 << 20), data) == "");
}

TEST_CASE("a daemon that is told to end has what is kept of open files written first") {
  need_mounts();
  const std::string mode = GENERATE("writeback", "through");
  INFO("cache=" << mode);
  Mount mount({.options = "cache=" + mode});
  write_file(mount.path("mapped"), pattern(2 * kBlock, 1));
  UniqueFd mapped = open_file(mount.path("mapped"), O_RDWR);
  UniqueFd written = open_file(mount.path("written"), O_WRONLY | O_CREAT);
  void* const at = mmap(nullptr, 2 * kBlock, PROT_READ | PROT_WRITE, MAP_SHARED, mapped.get(), 0);
  REQUIRE(at != MAP_FAILED);
  const std::string data = pattern(64 * kBlock, 2);
  write_at(written.get(), 0, data);
  std::memcpy(static_cast<char*>(at) + kBlock, "stored", 6);
  REQUIRE(::kill(mount.daemon(), SIGTERM) == 0);
  mount.end_of_daemon();
  CHECK(munmap(at, 2 * kBlock) == 0);
  mapped = UniqueFd();
  written = UniqueFd();
  mount.mount();
  CHECK(read_file(mount.path("written")) == data);
  CHECK(read_file(mount.path("mapped")).substr(kBlock, 6) == "stored");
}

TEST_CASE("with cache=writeback a close writes what was written, and its time") {
  need_mounts();
  Mount mount({.options = kWriteback});
  struct stat before {};
  {
    const UniqueFd fd = open_file(mount.path("f"), O_WRONLY | O_CREAT);
    next_tick();
    write_at(fd.get(), 100, "here");
    REQUIRE(fstat(fd.get(), &before) == 0);
    next_tick();
  }
  mount.kill_daemon();
  mount.mount(kWriteback);
  CHECK(read_file(mount.path("f")) == std::string(100, '\0') + "here");
  const struct stat after = status_of(mount.path("f"));
  CHECK(nanoseconds(after.st_mtim) == nanoseconds(before.st_mtim));
  CHECK(nanoseconds(after.st_ctim) == nanoseconds(before.st_ctim));
}

TEST_CASE("with cache=writeback a descriptor that cannot read can write a part of a page") {
  need_mounts();
  Mount mount({.options = kWriteback});
  std::string data = pattern(3 * kBlock, 2);
  write_file(mount.path("f"), data);
  mount.remount(kWriteback);
  {
    const UniqueFd fd = open_file(mount.path("f"), O_WRONLY);
    write_at(fd.get(), kBlock + 7, "seven");
    std::uint64_t id = 0;
    CHECK(daxfs_pin(fd.get(), 0, kBlock, DAXFS_PIN_WRITE, &id) == -1);
    CHECK(errno == EBADF);
    char byte = 0;
    CHECK(pread(fd.get(), &byte, 1, 0) == -1);
  }
  mount.remount(kWriteback);
  CHECK(difference(read_file(mount.path("f")), data.replace(kBlock + 7, 5, "seven")) == "");
}

TEST_CASE("with cache=writeback what does not fit is told by fsync and by close") {
  need_mounts();
  Mount mount({.size = "8M", .options = kWriteback});
  fill_but(mount, 16);
  const std::string data = pattern(32 * kBlock, 3);
  UniqueFd fd = open_file(mount.path("f"), O_WRONLY | O_CREAT);
  write_at(fd.get(), 0, data);
  const bool synced = GENERATE(true, false);
  if (synced) {
    CHECK(error_of(fsync(fd.get())) == ENOSPC);
  } else {
    CHECK(error_of(close(fd.release())) == ENOSPC);
  }
  fd = UniqueFd();
  // With room again, all is as ever.
  REQUIRE(unlink(mount.path("fill").c_str()) == 0);
  write_file(mount.path("f"), data);
  mount.remount(kWriteback);
  CHECK(difference(read_file(mount.path("f")), data) == "");
}

TEST_CASE("with cache=writeback who writes without end into a full pool is told, and stops") {
  need_mounts();
  const Mount mount({.size = "8M", .options = kWriteback});
  const UniqueFd fd = open_file(mount.path("f"), O_WRONLY | O_CREAT);
  const std::string data = pattern(1 << 20, 3);
  int error = 0;
  // A write may come before the kernel has tried to send the last ones.
  for (int i = 0; i < 4096 && error == 0; ++i)
    error = error_of(pwrite(fd.get(), data.data(), data.size(), i << 20) < 0 ? -1 : 0);
  CHECK(error == ENOSPC);
  CHECK(error_of(fsync(fd.get())) == ENOSPC);
  struct stat now {};
  CHECK(fstat(fd.get(), &now) == 0);
  REQUIRE(ftruncate(fd.get(), 0) == 0);
  // What the kernel was still sending may be told of once more.
  REQUIRE(eventually([&] {
    return pwrite(fd.get(), data.data(), data.size(), 0) == static_cast<ssize_t>(data.size());
  }));
  CHECK(fsync(fd.get()) == 0);
}

TEST_CASE("with cache=writeback O_DIRECT writes say what did not fit") {
  need_mounts();
  const Mount mount({.size = "8M", .options = kWriteback});
  fill_but(mount, 4);
  const UniqueFd fd = open_file(mount.path("f"), O_RDWR | O_CREAT | O_DIRECT);
  AlignedBuffer memory(8 * kBlock);
  std::memset(memory.data(), 'd', 8 * kBlock);
  CHECK(pwrite(fd.get(), memory.data(), 8 * kBlock, 0) == -1);
  CHECK(errno == ENOSPC);
}

TEST_CASE("msync tells of pages that did not fit, also where the first of them did") {
  need_mounts();
  const std::string mode = GENERATE("through", "writeback");
  Mount mount({.size = "8M", .options = "cache=" + mode});
  const UniqueFd fd = open_file(mount.path("f"), O_RDWR | O_CREAT);
  REQUIRE(ftruncate(fd.get(), 16 * kBlock) == 0);
  fill_but(mount, 2);
  void* const memory = mmap(nullptr, 16 * kBlock, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  REQUIRE(memory != MAP_FAILED);
  std::memset(memory, 'm', 16 * kBlock);
  CHECK(error_of(msync(memory, 16 * kBlock, MS_SYNC)) == ENOSPC);
  munmap(memory, 16 * kBlock);
  REQUIRE(unlink(mount.path("fill").c_str()) == 0);
}

TEST_CASE("with cache=writeback data and holes are told as they were written") {
  need_mounts();
  const Mount mount({.options = kWriteback});
  const UniqueFd fd = open_file(mount.path("f"), O_RDWR | O_CREAT);
  write_at(fd.get(), 8 * kBlock, pattern(kBlock, 4));
  CHECK(lseek(fd.get(), 0, SEEK_DATA) == 8 * kBlock);
  CHECK(lseek(fd.get(), 8 * kBlock, SEEK_HOLE) == 9 * kBlock);
  write_at(fd.get(), 16 * kBlock, pattern(kBlock, 5));
  CHECK(extents_of(fd.get()).size() == 2);
  CHECK(lseek(fd.get(), 9 * kBlock, SEEK_DATA) == 16 * kBlock);
}

TEST_CASE("with cache=writeback O_DIRECT and the page cache see each other") {
  need_mounts();
  const Mount mount({.options = kWriteback});
  const UniqueFd fd = open_file(mount.path("f"), O_RDWR | O_CREAT);
  const UniqueFd direct = open_file(mount.path("f"), O_RDWR | O_DIRECT);
  const std::string data = pattern(4 * kBlock, 6);
  write_at(fd.get(), 0, data);
  AlignedBuffer memory(kBlock);
  REQUIRE(pread(direct.get(), memory.data(), kBlock, kBlock) == kBlock);
  CHECK(difference(memory.view(), data.substr(kBlock, kBlock)) == "");
  std::memset(memory.data(), 'd', kBlock);
  REQUIRE(pwrite(direct.get(), memory.data(), kBlock, 2 * kBlock) == kBlock);
  CHECK(read_at(fd.get(), 2 * kBlock, kBlock) == memory.view());
  REQUIRE(pwrite(direct.get(), memory.data(), kBlock, 9 * kBlock) == kBlock);
  CHECK(status_of(mount.path("f")).st_size == 10 * kBlock);
}

TEST_CASE("with cache=writeback what is read past the cache ends where the file does") {
  Mount mount({.options = kWriteback});
  const std::string file = mount.path("f");
  write_file(file, pattern(kBlock, 1));
  const UniqueFd cached = open_file(file, O_RDWR);
  write_at(cached.get(), 20 * kBlock + 10, "the end");  // in the kernel alone
  std::optional<UniqueFd> pinning;
  SECTION("by O_DIRECT") {}
  SECTION("by a descriptor that was opened while there is a write pin") {
    pinning.emplace(open_file(file, O_RDWR));
    pinned(pinning->get(), 0, kBlock, DAXFS_PIN_WRITE);
    write_at(cached.get(), 20 * kBlock + 10, "the end");
  }
  const UniqueFd past = open_file(file, O_RDONLY | (pinning ? 0 : O_DIRECT));
  char* const buffer = static_cast<char*>(
      mmap(nullptr, kBlock, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  REQUIRE(buffer != MAP_FAILED);
  CHECK(pread(past.get(), buffer, kBlock, 10 * kBlock) == static_cast<ssize_t>(kBlock));
  CHECK(std::string(buffer, kBlock) == std::string(kBlock, '\0'));
  // Its end is written back by its own page; longer again by another one.
  CHECK(pread(past.get(), buffer, kBlock, 20 * kBlock) == 17);
  write_at(cached.get(), 30 * kBlock, "x");
  CHECK(pread(past.get(), buffer, kBlock, 20 * kBlock) == static_cast<ssize_t>(kBlock));
  CHECK(std::string(buffer + 10, 7) == "the end");
  CHECK(pread(past.get(), buffer, kBlock, 31 * kBlock) == 0);
  munmap(buffer, kBlock);
}

TEST_CASE("with cache=writeback the kernel learns of what a pin has added, and appends behind it") {
  need_mounts();
  const Mount mount({.options = kWriteback});
  const UniqueFd fd = open_file(mount.path("f"), O_RDWR | O_CREAT | O_APPEND);
  REQUIRE(::write(fd.get(), "hello", 5) == 5);
  const UniqueFd holder = open_file(mount.path("f"), O_RDWR);
  constexpr std::size_t kLength = 16 * kBlock;
  const std::uint64_t id = pinned(holder.get(), 0, kLength, DAXFS_PIN_WRITE | DAXFS_PIN_ALLOCATE);
  CHECK(status_of(mount.path("f")).st_size == static_cast<off_t>(kLength));
  CHECK(read_at(fd.get(), 0, 2 * kLength) == "hello" + std::string(kLength - 5, '\0'));
  std::size_t length = 0;
  char* const view = view_of(holder.get(), id, &length);
  std::memset(view, 'P', kLength);
  REQUIRE(::write(fd.get(), "end", 3) == 3);
  REQUIRE(fsync(fd.get()) == 0);
  CHECK(std::string(view, kLength) == std::string(kLength, 'P'));
  daxfs_unmap(view, length);
  REQUIRE(daxfs_unpin(holder.get(), id) == 0);
  CHECK(read_file(mount.path("f")) == std::string(kLength, 'P') + "end");
  // Cut off, the end is where the kernel sees it, and stays there.
  REQUIRE(ftruncate(fd.get(), 7) == 0);
  const std::uint64_t again = pinned(holder.get(), 0, 1, DAXFS_PIN_WRITE);
  REQUIRE(daxfs_unpin(holder.get(), again) == 0);
  CHECK(status_of(mount.path("f")).st_size == 7);
}

TEST_CASE("with cache=writeback an older descriptor writes its bytes of a pinned page, no others") {
  need_mounts();
  const Mount mount({.options = kWriteback});
  write_file(mount.path("f"), pattern(4 * kBlock, 7));
  const UniqueFd older = open_file(mount.path("f"), O_RDWR);
  write_at(older.get(), kBlock + 1, "before");
  const UniqueFd holder = open_file(mount.path("f"), O_RDWR);
  const std::uint64_t id = pinned(holder.get(), 0, 4 * kBlock, DAXFS_PIN_WRITE);
  std::size_t length = 0;
  char* const view = view_of(holder.get(), id, &length);
  CHECK(std::string(view + kBlock + 1, 6) == "before");
  for (int round = 0; round < 20; ++round) {
    const std::string mark = std::to_string(1000 + round);
    write_at(older.get(), kBlock + 100, mark);
    std::memset(view, 'a' + round, 100);
    std::memset(view + kBlock, 'A' + round, 100);
    std::memset(view + kBlock + 200, 'A' + round, kBlock - 200);
    REQUIRE(fsync(older.get()) == 0);
    CHECK(std::string(view, 100) == std::string(100, static_cast<char>('a' + round)));
    CHECK(std::string(view + kBlock, 100) == std::string(100, static_cast<char>('A' + round)));
    CHECK(std::string(view + kBlock + 100, 4) == mark);
    CHECK(std::string(view + kBlock + 200, kBlock - 200) ==
          std::string(kBlock - 200, static_cast<char>('A' + round)));
  }
  // What is opened now goes past the page cache.
  const UniqueFd newer = open_file(mount.path("f"), O_RDWR);
  write_at(newer.get(), 3 * kBlock, "at once");
  CHECK(std::string(view + 3 * kBlock, 7) == "at once");
  daxfs_unmap(view, length);
}

TEST_CASE(
    "with cache=writeback a holder keeps what it stores where the file was made longer before") {
  need_mounts();
  const Mount mount({.options = kWriteback});
  write_file(mount.path("f"), pattern(kBlock, 11));
  const UniqueFd older = open_file(mount.path("f"), O_RDWR);
  REQUIRE(ftruncate(older.get(), 100) == 0);
  const UniqueFd holder = open_file(mount.path("f"), O_RDWR);
  const std::uint64_t id = pinned(holder.get(), 0, 100, DAXFS_PIN_WRITE);
  std::size_t length = 0;
  char* const view = view_of(holder.get(), id, &length);
  write_at(older.get(), 4 * kBlock, "far");
  CHECK(std::string(view + 100, 100) == std::string(100, '\0'));
  std::memset(view + 200, 'h', 100);
  REQUIRE(fsync(older.get()) == 0);
  CHECK(std::string(view + 200, 100) == std::string(100, 'h'));
  CHECK(std::string(view + 100, 100) == std::string(100, '\0'));
  daxfs_unmap(view, length);
  REQUIRE(daxfs_unpin(holder.get(), id) == 0);
  CHECK(read_at(older.get(), 100, 200) == std::string(100, '\0') + std::string(100, 'h'));
}

TEST_CASE("with cache=writeback whole pages that are written again reach a pinned block") {
  need_mounts();
  const Mount mount({.options = kWriteback});
  write_file(mount.path("f"), std::string(kBlock, 'o'));
  const UniqueFd older = open_file(mount.path("f"), O_RDWR);
  const UniqueFd holder = open_file(mount.path("f"), O_RDWR);
  const std::uint64_t id = pinned(holder.get(), 0, kBlock, DAXFS_PIN_WRITE);
  std::size_t length = 0;
  char* const view = view_of(holder.get(), id, &length);
  write_at(older.get(), 0, std::string(kBlock, 'w'));
  REQUIRE(fsync(older.get()) == 0);
  CHECK(std::string(view, kBlock) == std::string(kBlock, 'w'));
  std::memset(view, 'h', kBlock);
  // The pages of what was written are dropped behind the answer: until then the kernel has 'w'.
  REQUIRE(eventually([&] { return read_at(older.get(), 0, 1) == "h"; }));
  write_at(older.get(), 0, std::string(kBlock, 'w'));
  REQUIRE(fsync(older.get()) == 0);
  CHECK(std::string(view, kBlock) == std::string(kBlock, 'w'));
  daxfs_unmap(view, length);
}

TEST_CASE(
    "with cache=writeback a holder can end while a truncate waits that keeps pages unwritten") {
  need_mounts();
  const Mount mount({.options = "cache=writeback,pin_policy=wait"});
  const std::string name = mount.path("f");
  const UniqueFd writer = open_file(name, O_RDWR | O_CREAT);
  write_at(writer.get(), 0, pattern(4 * kBlock, 8));
  Holder holder([&] { return pin_and_keep(name, 0, 4 * kBlock); });
  REQUIRE(holder.result() == 0);
  write_at(writer.get(), 0, pattern(kBlock, 9));
  Attempt cut([&] { return error_of(truncate(name.c_str(), 0)); });
  REQUIRE(waiting_becomes(mount, 1));
  // Its close writes the page, and may wait for the truncate, which waits for the close: until the
  // truncate is told EINTR.
  holder.end();
  const int answer = cut.finish();
  CHECK((answer == EINTR || answer == 0));
  REQUIRE(fsync(writer.get()) == 0);
}

TEST_CASE("with cache=none descriptors see at once what a holder stores, and writes are at once") {
  need_mounts();
  const Mount mount({.options = "cache=none"});
  const UniqueFd fd = open_file(mount.path("f"), O_RDWR | O_CREAT);
  const std::uint64_t before = free_blocks(mount);
  write_at(fd.get(), 0, pattern(4 * kBlock, 9));
  CHECK(free_blocks(mount) < before);
  CHECK(read_at(fd.get(), 0, kBlock) == pattern(4 * kBlock, 9).substr(0, kBlock));
  const UniqueFd holder = open_file(mount.path("f"), O_RDWR);
  const std::uint64_t id = pinned(holder.get(), 0, kBlock, DAXFS_PIN_WRITE);
  std::size_t length = 0;
  char* const view = view_of(holder.get(), id, &length);
  std::memset(view, 'h', kBlock);
  CHECK(read_at(fd.get(), 0, kBlock) == std::string(kBlock, 'h'));
  daxfs_unmap(view, length);
}

}  // namespace daxfs::test
