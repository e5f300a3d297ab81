// Where files have blocks and where not: sparse files, fallocate, truncate.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "tests/mount/file_helpers.h"
#include "tests/mount/mount_fixture.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

constexpr std::uint64_t kTiB = 1ull << 40;
constexpr int kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

std::string zeroes(std::size_t size) { return std::string(size, '\0'); }

std::uint64_t allocated(const std::string& path) {
  return static_cast<std::uint64_t>(status_of(path).st_blocks) * 512;
}

std::uint64_t size_of(const std::string& path) {
  return static_cast<std::uint64_t>(status_of(path).st_size);
}

int allocate(int fd, int mode, std::uint64_t offset, std::uint64_t length) {
  return error_of(fallocate(fd, mode, static_cast<off_t>(offset), static_cast<off_t>(length)));
}

// A mount with one file, open for both.
struct OneFile : Mount {
  OneFile() : fd(open_file(file, O_RDWR | O_CREAT)), before(free()) {}
  const std::string file = path("f");
  daxfs::UniqueFd fd;
  const std::uint64_t before;  // free, with the file empty
};

}  // namespace

TEST_CASE_METHOD(OneFile, "files of many TiB cost what is written of them") {
  REQUIRE(ftruncate(fd.get(), 8 * kTiB) == 0);
  CHECK(allocated(file) == 0);
  write_at(fd.get(), 5 * kTiB + 100, "five");
  REQUIRE(fsync(fd.get()) == 0);
  CHECK(allocated(file) == kBlock);
  CHECK(size_of(file) == 8 * kTiB);
  CHECK(difference(read_at(fd.get(), 5 * kTiB, 104), zeroes(100) + "five") == "");
  CHECK(difference(read_at(fd.get(), 3 * kTiB, 5000), zeroes(5000)) == "");
  CHECK(data_parts(file) == Parts{{5 * kTiB, 5 * kTiB + kBlock}});
  const std::uint64_t end = INT64_MAX;
  write_at(fd.get(), end - 1, "z");
  REQUIRE(fsync(fd.get()) == 0);
  CHECK(size_of(file) == end);
  fd = daxfs::UniqueFd();
  remount();
  CHECK(allocated(file) == 2 * kBlock);
  CHECK(size_of(file) == end);
  CHECK(data_parts(file) == Parts{{5 * kTiB, 5 * kTiB + kBlock}, {end / kBlock * kBlock, end}});
  REQUIRE(truncate(file.c_str(), 0) == 0);
  CHECK(space_becomes(before, 0));
}

TEST_CASE_METHOD(OneFile, "SEEK_DATA and SEEK_HOLE see data and holes as written") {
  const auto seek = [&](std::uint64_t from, int whence) -> std::int64_t {
    const off_t at = lseek(fd.get(), static_cast<off_t>(from), whence);
    return at < 0 ? -errno : at;
  };
  CHECK(seek(0, SEEK_DATA) == -ENXIO);
  CHECK(seek(0, SEEK_HOLE) == -ENXIO);
  write_at(fd.get(), 2 * kBlock, pattern(kBlock, 1));
  write_at(fd.get(), 4 * kBlock, pattern(100, 2));
  REQUIRE(fsync(fd.get()) == 0);
  CHECK(seek(0, SEEK_HOLE) == 0);
  CHECK(seek(0, SEEK_DATA) == 2 * kBlock);
  CHECK(seek(2 * kBlock + 5, SEEK_DATA) == 2 * kBlock + 5);
  CHECK(seek(2 * kBlock + 5, SEEK_HOLE) == 3 * kBlock);
  CHECK(seek(4 * kBlock, SEEK_HOLE) == 4 * kBlock + 100);
  CHECK(seek(4 * kBlock + 99, SEEK_DATA) == 4 * kBlock + 99);
  CHECK(seek(4 * kBlock + 100, SEEK_DATA) == -ENXIO);
  CHECK(seek(4 * kBlock + 100, SEEK_HOLE) == -ENXIO);
}

TEST_CASE_METHOD(OneFile, "fallocate takes space, with the size or without") {
  CHECK(allocate(fd.get(), FALLOC_FL_KEEP_SIZE, 0, 10 * kBlock) == 0);
  CHECK(size_of(file) == 0);
  CHECK(allocated(file) == 10 * kBlock);
  CHECK(free() == before - 10 * kBlock);
  CHECK(allocate(fd.get(), 0, 5 * kBlock + 1, 10 * kBlock) == 0);
  CHECK(size_of(file) == 15 * kBlock + 1);
  CHECK(allocated(file) == 16 * kBlock);
  CHECK(difference(read_at(fd.get(), 0, 20 * kBlock), zeroes(15 * kBlock + 1)) == "");
  write_at(fd.get(), 3 * kBlock + 7, "inside");
  REQUIRE(fsync(fd.get()) == 0);
  CHECK(free() == before - 16 * kBlock);
  CHECK(data_parts(file) == Parts{{3 * kBlock, 4 * kBlock}});
  CHECK(difference(read_at(fd.get(), 3 * kBlock, kBlock),
                   zeroes(7) + "inside" + zeroes(kBlock - 13)) == "");
  fd = daxfs::UniqueFd();
  remount();
  CHECK(allocated(file) == 16 * kBlock);
  CHECK(difference(read_file(file),
                   zeroes(3 * kBlock + 7) + "inside" + zeroes(12 * kBlock + 1 - 13)) == "");
}

TEST_CASE_METHOD(OneFile, "a punch leaves zeroes and gives whole blocks back") {
  const std::string data = pattern(10 * kBlock, 1);
  write_at(fd.get(), 0, data);
  CHECK(allocate(fd.get(), kPunch, 100, 50) == 0);
  CHECK(allocated(file) == 10 * kBlock);
  CHECK(allocate(fd.get(), kPunch, 2 * kBlock - 10, 3 * kBlock + 20) == 0);
  CHECK(allocated(file) == 7 * kBlock);
  CHECK(free() == before - 7 * kBlock);
  CHECK(size_of(file) == 10 * kBlock);
  CHECK(allocate(fd.get(), kPunch, 9 * kBlock, 100 * kBlock) == 0);
  CHECK(allocate(fd.get(), kPunch, 50 * kBlock, 10 * kBlock) == 0);
  CHECK(size_of(file) == 10 * kBlock);
  std::string expected = data;
  expected.replace(100, 50, zeroes(50));
  expected.replace(2 * kBlock - 10, 3 * kBlock + 20, zeroes(3 * kBlock + 20));
  expected.replace(9 * kBlock, kBlock, zeroes(kBlock));
  CHECK(difference(read_at(fd.get(), 0, 11 * kBlock), expected) == "");
  CHECK(data_parts(file) == Parts{{0, 2 * kBlock}, {5 * kBlock, 9 * kBlock}});
  CHECK(free() == before - 6 * kBlock);
  CHECK(allocate(fd.get(), kPunch, 0, INT64_MAX) == 0);
  CHECK(free() == before);
}

TEST_CASE_METHOD(OneFile, "ZERO_RANGE keeps the blocks and fills the holes") {
  const std::string data = pattern(4 * kBlock, 1);
  write_at(fd.get(), 0, data);
  CHECK(allocate(fd.get(), FALLOC_FL_ZERO_RANGE, kBlock / 2, 2 * kBlock) == 0);
  CHECK(allocated(file) == 4 * kBlock);
  std::string expected = data;
  expected.replace(kBlock / 2, 2 * kBlock, zeroes(2 * kBlock));
  CHECK(difference(read_file(file), expected) == "");
  CHECK(allocate(fd.get(), FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 3 * kBlock, 3 * kBlock) ==
        0);
  CHECK(size_of(file) == 4 * kBlock);
  CHECK(allocated(file) == 6 * kBlock);
  CHECK(allocate(fd.get(), FALLOC_FL_ZERO_RANGE, 6 * kBlock, kBlock + 1) == 0);
  CHECK(size_of(file) == 7 * kBlock + 1);
  expected.replace(3 * kBlock, kBlock, zeroes(kBlock));
  CHECK(difference(read_file(file), expected + zeroes(3 * kBlock + 1)) == "");
}

TEST_CASE_METHOD(OneFile, "other modes and bad ranges are refused and change nothing") {
  write_at(fd.get(), 0, pattern(4 * kBlock, 1));
  REQUIRE(fsync(fd.get()) == 0);
  const Snapshot snapshot(file);
  next_tick();
  CHECK(allocate(fd.get(), FALLOC_FL_COLLAPSE_RANGE, 0, kBlock) == EOPNOTSUPP);
  CHECK(allocate(fd.get(), FALLOC_FL_INSERT_RANGE, 0, kBlock) == EOPNOTSUPP);
  CHECK(allocate(fd.get(), FALLOC_FL_UNSHARE_RANGE, 0, kBlock) == EOPNOTSUPP);
  CHECK(allocate(fd.get(), FALLOC_FL_PUNCH_HOLE, 0, kBlock) == EOPNOTSUPP);
  CHECK(allocate(fd.get(), 0, 0, 0) == EINVAL);
  CHECK(allocate(fd.get(), 0, ~0ull, 1) == EINVAL);
  CHECK(allocate(fd.get(), 0, INT64_MAX, 1) == EFBIG);
  CHECK(allocate(fd.get(), 0, 0, before + kBlock) == ENOSPC);
  CHECK(allocate(open_file(file, O_RDONLY).get(), kPunch, 0, kBlock) == EBADF);
  CHECK(error_of(ftruncate(fd.get(), -1)) == EINVAL);
  CHECK(Snapshot(file) == snapshot);
  CHECK(free() == before - 4 * kBlock);
}

TEST_CASE_METHOD(OneFile, "what truncate cut off never comes back") {
  const std::string data = pattern(20'000, 3);
  for (const std::uint64_t cut : {0, 1, 4095, 4096, 4097, 9000, 12288, 19'999}) {
    INFO(cut);
    write_at(fd.get(), 0, data);
    REQUIRE(ftruncate(fd.get(), static_cast<off_t>(cut)) == 0);
    CHECK(allocated(file) == (cut + kBlock - 1) / kBlock * kBlock);
    CHECK(free() == before - allocated(file));
    const std::string start = data.substr(0, cut);
    CHECK(difference(read_at(fd.get(), 0, 30'000), start) == "");
    REQUIRE(ftruncate(fd.get(), 30'000) == 0);
    CHECK(difference(read_at(fd.get(), 0, 30'000), start + zeroes(30'000 - cut)) == "");
    const daxfs::UniqueFd direct = open_file(file, O_RDONLY | O_DIRECT);
    CHECK(difference(read_at(direct.get(), 0, 30'000), start + zeroes(30'000 - cut)) == "");
    // Growing by writing beyond the end shows zeroes between, too.
    REQUIRE(ftruncate(fd.get(), static_cast<off_t>(cut)) == 0);
    write_at(fd.get(), 25'000, "end");
    CHECK(difference(read_at(fd.get(), 0, 30'000), start + zeroes(25'000 - cut) + "end") == "");
    REQUIRE(ftruncate(fd.get(), 0) == 0);
  }
  CHECK(space_becomes(before, 0));
}

TEST_CASE_METHOD(OneFile,
                 "the tail of a block that a holder wrote does not show when the file grows") {
  write_at(fd.get(), 0, "short");
  std::uint64_t pin = 0;
  REQUIRE(daxfs_pin(fd.get(), 0, 5, DAXFS_PIN_WRITE, &pin) == 0);
  std::size_t length = 0;
  char* const view = view_of(fd.get(), pin, &length);
  std::fill(view, view + length, 'h');
  REQUIRE(daxfs_unmap(view, length) == 0);
  REQUIRE(daxfs_unpin(fd.get(), pin) == 0);
  REQUIRE(ftruncate(fd.get(), 100) == 0);
  CHECK(difference(read_at(fd.get(), 0, 100), "hhhhh" + zeroes(95)) == "");
}

TEST_CASE_METHOD(OneFile, "recycled blocks show nothing of their former file") {
  write_at(fd.get(), 0, pattern(4 << 20, 1));
  REQUIRE(unlink(file.c_str()) == 0);
  fd = daxfs::UniqueFd();
  REQUIRE(space_becomes(before + kBlock, 0));  // the empty directory's block, too
  const daxfs::UniqueFd fresh = open_file(path("g"), O_RDWR | O_CREAT);
  REQUIRE(allocate(fresh.get(), 0, 0, 8 << 20) == 0);
  for (std::size_t at = 0; at < (8u << 20); at += 50'000) write_at(fresh.get(), at + 777, "w");
  std::string expected = zeroes(8 << 20);
  for (std::size_t at = 0; at < (8u << 20); at += 50'000) expected[at + 777] = 'w';
  CHECK(difference(read_file(path("g")), expected) == "");
  const daxfs::UniqueFd direct = open_file(path("g"), O_RDONLY | O_DIRECT);
  CHECK(difference(read_at(direct.get(), 0, 8 << 20), expected) == "");
}
