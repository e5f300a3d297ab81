#include "tests/mount/file_helpers.h"

#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <new>

#include "tests/mount/process.h"
#include "tests/unit/catch.h"

namespace daxfs::test {

std::string pattern(std::size_t size, unsigned seed) {
  std::string data(size, '\0');
  std::uint32_t state = 0;
  for (std::size_t i = 0; i < size; ++i) {
    if (i % kBlock == 0)
      state = static_cast<std::uint32_t>(seed * 2654435761u + i / kBlock * 97 + 1);
    state = state * 1664525u + 1013904223u;
    data[i] = static_cast<char>(1 + (state >> 24) % 255);
  }
  return data;
}

std::string difference(std::string_view seen, std::string_view expected) {
  if (seen == expected) return "";
  const auto at = static_cast<std::size_t>(
      std::mismatch(seen.begin(), seen.end(), expected.begin(), expected.end()).first -
      seen.begin());
  const auto hex = [at](std::string_view bytes) {
    std::string text;
    for (const char c : bytes.substr(std::min(at, bytes.size()), 16)) {
      text += fmt::format("{:02x}", static_cast<unsigned char>(c));
    }
    return text;
  };
  return fmt::format("{} bytes instead of {}; from byte {} (block {}) on {}, not {}", seen.size(),
                     expected.size(), at, at / kBlock, hex(seen), hex(expected));
}

UniqueFd open_file(const std::string& path, int flags, mode_t mode) {
  UniqueFd fd(open(path.c_str(), flags | O_CLOEXEC, mode));
  const int code = errno;
  INFO(path << ": " << code);
  REQUIRE(fd);
  return fd;
}

void write_at(int fd, std::uint64_t offset, std::string_view data) {
  while (!data.empty()) {
    const ssize_t done = pwrite(fd, data.data(), data.size(), static_cast<off_t>(offset));
    const int code = errno;
    INFO("errno " << code);
    REQUIRE(done > 0);
    data.remove_prefix(static_cast<std::size_t>(done));
    offset += static_cast<std::uint64_t>(done);
  }
}

std::string read_at(int fd, std::uint64_t offset, std::size_t length) {
  std::string data(length, '\0');
  std::size_t have = 0;
  while (have < length) {
    const ssize_t got =
        pread(fd, data.data() + have, length - have, static_cast<off_t>(offset + have));
    const int code = errno;
    INFO("errno " << code);
    REQUIRE(got >= 0);
    if (got == 0) break;
    have += static_cast<std::size_t>(got);
  }
  data.resize(have);
  return data;
}

void write_file(const std::string& path, std::string_view data) {
  write_at(open_file(path, O_WRONLY | O_CREAT | O_TRUNC).get(), 0, data);
}

std::string read_file(const std::string& path) {
  const UniqueFd fd = open_file(path, O_RDONLY);
  struct stat status {};
  REQUIRE(fstat(fd.get(), &status) == 0);
  return read_at(fd.get(), 0, static_cast<std::size_t>(status.st_size));
}

std::uint64_t allocate_all_free(int fd) {
  std::uint64_t size = 0;
  for (std::uint64_t step = 1 << 20; step >= kBlock;) {
    if (fallocate(fd, 0, static_cast<off_t>(size), static_cast<off_t>(step)) == 0) {
      size += step;
    } else {
      REQUIRE(errno == ENOSPC);
      step /= 2;
    }
  }
  return size;
}

void write_fragmented(const std::string& path, std::size_t blocks, unsigned seed) {
  const std::string data = pattern(blocks * kBlock, seed);
  const UniqueFd fd = open_file(path, O_RDWR | O_CREAT | O_EXCL);
  // Backwards, so that neighbours in the file are none in the pool; straight to the pool, or the
  // kernel would put the order right.
  const UniqueFd direct = open_file(path, O_WRONLY | O_DIRECT);
  AlignedBuffer block(kBlock);
  for (std::size_t i = blocks; i-- > 0;) {
    data.copy(block.data(), kBlock, i * kBlock);
    write_at(direct.get(), i * kBlock, block.view());
  }
  REQUIRE(extents_of(fd.get()).size() == blocks);
}

Parts data_parts(const std::string& path) {
  const UniqueFd fd = open_file(path, O_RDONLY);
  Parts parts;
  off_t at = 0;
  for (;;) {
    const off_t data = lseek(fd.get(), at, SEEK_DATA);
    if (data < 0) {
      REQUIRE(errno == ENXIO);
      return parts;
    }
    at = lseek(fd.get(), data, SEEK_HOLE);
    REQUIRE(at > data);
    parts.emplace_back(data, at);
  }
}

std::vector<daxfs_extent> extents_of(int fd) {
  const ssize_t count = daxfs_extents(fd, 0, INT64_MAX, nullptr, 0);
  REQUIRE(count >= 0);
  std::vector<daxfs_extent> extents(static_cast<std::size_t>(count));
  REQUIRE(daxfs_extents(fd, 0, INT64_MAX, extents.data(), extents.size()) == count);
  return extents;
}

int shared_mapping_of_direct_handle() {
  utsname kernel{};
  uname(&kernel);
  int major = 0;
  int minor = 0;
  REQUIRE(std::sscanf(kernel.release, "%d.%d", &major, &minor) == 2);
  return std::pair(major, minor) < std::pair(6, 6) ? ENODEV : 0;
}

AlignedBuffer::AlignedBuffer(std::size_t size)
    : data_(static_cast<char*>(std::aligned_alloc(kBlock, (size + kBlock - 1) / kBlock * kBlock))),
      size_(size) {
  if (data_ == nullptr) throw std::bad_alloc();
}

AlignedBuffer::~AlignedBuffer() { std::free(data_); }

void next_tick() {
  const auto now = [] {
    timespec time{};
    clock_gettime(CLOCK_REALTIME_COARSE, &time);
    return time.tv_sec * 1'000'000'000 + time.tv_nsec;
  };
  const auto begin = now();
  REQUIRE(eventually([&] { return now() != begin; }));
}

Snapshot::Snapshot(const std::string& path) : parts(data_parts(path)), data(read_file(path)) {
  // Last: reading may move the access time, and with it nothing else.
  struct stat status {};
  REQUIRE(lstat(path.c_str(), &status) == 0);
  inode = status.st_ino;
  size = static_cast<std::uint64_t>(status.st_size);
  blocks = static_cast<std::uint64_t>(status.st_blocks);
  links = status.st_nlink;
  mtime_ns = status.st_mtim.tv_sec * 1'000'000'000 + status.st_mtim.tv_nsec;
  ctime_ns = status.st_ctim.tv_sec * 1'000'000'000 + status.st_ctim.tv_nsec;
}

}  // namespace daxfs::test
