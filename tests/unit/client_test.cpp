// libdaxfs against a daemon that is played by this program: its ioctl() answers the daxfs numbers,
// everything else goes to the kernel. The pool is a plain file in which every block is filled with
// its own number.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "client/daxfs.h"
#include "tests/unit/catch.h"
#include "tests/unit/skip.h"

extern "C" {
extern const unsigned long daxfs_abi_numbers_in_c[11];
int daxfs_abi_call_all_from_c(int fd);
int daxfs_abi_lease_from_c(int fd);
}

namespace {

constexpr std::uint64_t kBlock = DAXFS_BLOCK_SIZE;
constexpr std::uint64_t kHuge = 2u << 20;
constexpr std::uint64_t kPoolBlocks = 4096;
constexpr int kFile =
    1 << 20;  // no real descriptor: whatever reaches the kernel with it fails with EBADF

struct Daemon {
  std::string pool;
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint64_t alignment = kBlock;
  std::vector<daxfs_extent> pinned;
  std::uint64_t pin_id = 77;
  std::uint32_t per_call = DAXFS_EXTENTS_PER_CALL;
  bool stuck = false;  // always promises more, never advances
  int dead = 0;        // errno for everything
  daxfs_pin_args last_pin = {};
};
Daemon* daemon_at_work = nullptr;

int fail_with(int code) {
  errno = code;
  return -1;
}

int answer_extents(Daemon& daemon, daxfs_extents_args& args, bool of_pin) {
  if (of_pin && args.pin_id != daemon.pin_id) return fail_with(ENOENT);
  args.count = 0;
  std::uint64_t index = args.cursor;
  while (index < daemon.pinned.size() && args.count < daemon.per_call) {
    args.extents[args.count++] = daemon.pinned[index++];
  }
  if (!daemon.stuck) args.cursor = index;
  args.more = daemon.stuck || index < daemon.pinned.size() ? 1 : 0;
  return 0;
}

int answer(Daemon& daemon, unsigned long request, void* argument) {
  if (daemon.dead != 0) return fail_with(daemon.dead);
  switch (request) {
    case DAXFS_IOC_PIN: {
      auto& args = *static_cast<daxfs_pin_args*>(argument);
      daemon.last_pin = args;
      args.pin_id = daemon.pin_id;
      return 0;
    }
    case DAXFS_IOC_UNPIN:
      if (static_cast<daxfs_unpin_args*>(argument)->pin_id != daemon.pin_id)
        return fail_with(ENOENT);
      return 0;
    case DAXFS_IOC_PIN_EXTENTS:
      return answer_extents(daemon, *static_cast<daxfs_extents_args*>(argument), true);
    case DAXFS_IOC_EXTENTS:
      return answer_extents(daemon, *static_cast<daxfs_extents_args*>(argument), false);
    case DAXFS_IOC_POOL: {
      auto& args = *static_cast<daxfs_pool_args*>(argument);
      args.map_alignment = daemon.alignment;
      args.device = daemon.device;
      args.inode = daemon.inode;
      std::memset(args.path, 0, sizeof args.path);
      daemon.pool.copy(args.path, sizeof args.path - 1);
      return 0;
    }
    default:
      return fail_with(ENOTTY);
  }
}

// Sets up the pool and plays the daemon as long as it lives.
class Setup : public Daemon {
 public:
  Setup() {
    std::string name = (std::filesystem::temp_directory_path() / "daxfs_client_XXXXXX").string();
    const int fd = mkstemp(name.data());
    REQUIRE(fd >= 0);
    std::vector<std::uint64_t> block(kBlock / 8);
    for (std::uint64_t i = 0; i < kPoolBlocks; ++i) {
      std::fill(block.begin(), block.end(), i);
      REQUIRE(write(fd, block.data(), kBlock) == static_cast<ssize_t>(kBlock));
    }
    struct stat status;
    REQUIRE(fstat(fd, &status) == 0);
    close(fd);
    pool = name;
    device = status.st_dev;
    inode = status.st_ino;
    daemon_at_work = this;
  }
  ~Setup() {
    daemon_at_work = nullptr;
    unlink(pool.c_str());
  }

  // The next blocks of the file lie here.
  void add(std::uint64_t pool_block, std::uint64_t blocks,
           std::uint32_t flags = DAXFS_EXTENT_WRITABLE) {
    const std::uint64_t start =
        pinned.empty() ? 5 * kBlock : pinned.back().file_offset + pinned.back().length;
    pinned.push_back({start, pool_block * kBlock, blocks * kBlock, flags, 1});
  }

  std::uint64_t pool_word(std::uint64_t block) const {
    std::ifstream in(pool, std::ios::binary);
    in.seekg(static_cast<std::streamoff>(block * kBlock));
    std::uint64_t word = 0;
    in.read(reinterpret_cast<char*>(&word), sizeof word);
    return word;
  }
};

std::uint64_t word_at(const void* address) {
  std::uint64_t word;
  std::memcpy(&word, address, sizeof word);
  return word;
}

bool is_mapped(const void* address) {
  const auto page = reinterpret_cast<std::uintptr_t>(address) & ~(kBlock - 1);
  unsigned char resident;
  return mincore(reinterpret_cast<void*>(page), kBlock, &resident) == 0;
}

// Checks every block of the view, and that the bytes are the pool's own.
void check_view(const Setup& setup, const std::byte* view) {
  const std::uint64_t start = setup.pinned.front().file_offset;
  for (const daxfs_extent& extent : setup.pinned) {
    for (std::uint64_t at = 0; at < extent.length; at += kBlock) {
      const std::byte* block = view + (extent.file_offset - start) + at;
      REQUIRE(word_at(block) == (extent.pool_offset + at) / kBlock);
    }
  }
}

}  // namespace

extern "C" int ioctl(int fd, unsigned long request, ...) noexcept {
  va_list list;
  va_start(list, request);
  void* argument = va_arg(list, void*);
  va_end(list);
  if (fd == kFile && daemon_at_work != nullptr) return answer(*daemon_at_work, request, argument);
  return static_cast<int>(syscall(SYS_ioctl, fd, request, argument));
}

TEST_CASE("client: C and C++ see the same ioctl numbers", "[client]") {
  const unsigned long numbers[] = {DAXFS_IOC_PIN,     DAXFS_IOC_UNPIN,   DAXFS_IOC_PIN_EXTENTS,
                                   DAXFS_IOC_EXTENTS, DAXFS_IOC_POOL,    DAXFS_IOC_QUERY,
                                   DAXFS_IOC_LEASE,   DAXFS_IOC_UNLEASE, DAXFS_IOC_NEXT_EVENT,
                                   DAXFS_IOC_ADOPT,   DAXFS_IOC_POLICY};
  CHECK(std::equal(std::begin(numbers), std::end(numbers), daxfs_abi_numbers_in_c));
}

TEST_CASE("client: a C program can call everything", "[client]") {
  Setup setup;
  setup.add(10, 1);
  CHECK(daxfs_abi_call_all_from_c(kFile) == 0);
  // On a file that is none of daxfs every one of them fails.
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  CHECK(daxfs_abi_lease_from_c(null) == 6);
  close(null);
}

TEST_CASE("client: what is no daxfs file is ENOTTY, what is no descriptor EBADF", "[client]") {
  std::uint64_t pin = 0;
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  REQUIRE(null >= 0);
  CHECK(daxfs_pin(null, 0, 1, 0, &pin) == -1);
  CHECK(errno == ENOTTY);
  CHECK(daxfs_map(null, 1, nullptr) == nullptr);
  CHECK(errno == EINVAL);
  std::size_t length = 0;
  CHECK(daxfs_map(null, 1, &length) == nullptr);
  CHECK(errno == ENOTTY);
  CHECK(daxfs_pin_extents(null, 1, nullptr, 0) == -1);
  CHECK(errno == ENOTTY);
  close(null);
  CHECK(daxfs_unpin(-1, 1) == -1);
  CHECK(errno == EBADF);
}

TEST_CASE("client: pin hands its arguments on unchanged", "[client]") {
  Setup setup;
  std::uint64_t pin = 0;
  REQUIRE(daxfs_pin(kFile, 123, UINT64_MAX, DAXFS_PIN_SHORT | 0x80000000u, &pin) == 0);
  CHECK(pin == 77);
  CHECK(setup.last_pin.offset == 123);
  CHECK(setup.last_pin.length == UINT64_MAX);
  CHECK(setup.last_pin.flags == (DAXFS_PIN_SHORT | 0x80000000u));
  CHECK(setup.last_pin.reserved == 0);
  CHECK(daxfs_unpin(kFile, 78) == -1);
  CHECK(errno == ENOENT);
}

TEST_CASE("client: extents come in full, over any number of calls", "[client]") {
  Setup setup;
  for (std::uint64_t i = 0; i < 1234; ++i) setup.add(i * 2 + 1, 1);
  for (const std::uint32_t per_call : {1u, 7u, 499u, DAXFS_EXTENTS_PER_CALL}) {
    setup.per_call = per_call;
    std::vector<daxfs_extent> all(2000);
    REQUIRE(daxfs_pin_extents(kFile, 77, all.data(), all.size()) == 1234);
    CHECK(std::memcmp(all.data(), setup.pinned.data(), 1234 * sizeof(daxfs_extent)) == 0);

    // Too little room: filled up to there, and the count says what is missing.
    std::vector<daxfs_extent> few(11);
    few[10].length = 42;
    REQUIRE(daxfs_extents(kFile, 0, UINT64_MAX, few.data(), 10) == 1234);
    CHECK(few[9].pool_offset == setup.pinned[9].pool_offset);
    CHECK(few[10].length == 42);
    REQUIRE(daxfs_extents(kFile, 0, UINT64_MAX, nullptr, 0) == 1234);
  }
}

TEST_CASE("client: an answer that contradicts itself is EIO, never a loop or a crash", "[client]") {
  Setup setup;
  setup.add(10, 4);
  std::size_t length = 0;
  SECTION("never ends") {
    setup.stuck = true;
    CHECK(daxfs_pin_extents(kFile, 77, nullptr, 0) == -1);
  }
  SECTION("no extents") {
    setup.pinned.clear();
    CHECK(daxfs_map(kFile, 77, &length) == nullptr);
  }
  SECTION("empty extent") {
    setup.pinned[0].length = 0;
    CHECK(daxfs_map(kFile, 77, &length) == nullptr);
  }
  SECTION("half a block") {
    setup.pinned[0].pool_offset += 512;
    CHECK(daxfs_map(kFile, 77, &length) == nullptr);
  }
  SECTION("a gap") {
    setup.add(20, 1);
    setup.pinned[1].file_offset += kBlock;
    CHECK(daxfs_map(kFile, 77, &length) == nullptr);
  }
  SECTION("beyond all files") {
    setup.pinned[0].length = UINT64_MAX / kBlock * kBlock;
    CHECK(daxfs_map(kFile, 77, &length) == nullptr);
  }
  SECTION("a step that is no power of two") {
    setup.alignment = 3 * kBlock;
    CHECK(daxfs_map(kFile, 77, &length) == nullptr);
  }
  CHECK(errno == EIO);
}

TEST_CASE("client: a view shows the pinned blocks in file order", "[client]") {
  Setup setup;
  std::mt19937_64 random(21);
  for (int round = 0; round < 30; ++round) {
    setup.pinned.clear();
    const std::uint64_t count = 1 + random() % 40;
    for (std::uint64_t i = 0; i < count; ++i) {
      const std::uint64_t blocks = 1 + random() % (random() % 8 == 0 ? 1200 : 5);
      setup.add(random() % (kPoolBlocks - blocks), blocks);
    }
    std::size_t length = 0;
    void* view = daxfs_map(kFile, 77, &length);
    REQUIRE(view != nullptr);
    CHECK(length == setup.pinned.back().file_offset + setup.pinned.back().length - 5 * kBlock);
    check_view(setup, static_cast<std::byte*>(view));
    REQUIRE(daxfs_unmap(view, length) == 0);
    CHECK_FALSE(is_mapped(view));
  }
}

TEST_CASE("client: writing through a view of a write pin reaches the pool", "[client]") {
  Setup setup;
  setup.add(100, 1);
  setup.add(50, 1);
  std::size_t length = 0;
  void* view = daxfs_map(kFile, 77, &length);
  REQUIRE(view != nullptr);
  REQUIRE(length == 2 * kBlock);
  const std::uint64_t word = 0xabcdef;
  std::memcpy(static_cast<std::byte*>(view) + kBlock, &word, sizeof word);
  CHECK(setup.pool_word(50) == word);
  CHECK(setup.pool_word(100) == 100);
  REQUIRE(daxfs_unmap(view, length) == 0);
}

TEST_CASE("client: a view of a read pin is read-only, and needs no right to write", "[client]") {
  Setup setup;
  setup.add(100, 1, 0);
  std::size_t length = 0;
  void* view = daxfs_map(kFile, 77, &length);
  REQUIRE(view != nullptr);
  CHECK(word_at(view) == 100);
  // The kernel writes for us: EFAULT where a store would kill the test.
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  REQUIRE(write(ends[1], "x", 1) == 1);
  CHECK(read(ends[0], view, 1) == -1);
  CHECK(errno == EFAULT);
  // Neither can it be made writable: the pool was opened for reading.
  CHECK(mprotect(view, length, PROT_READ | PROT_WRITE) == -1);
  CHECK(errno == EACCES);
  close(ends[0]);
  close(ends[1]);
  daxfs_unmap(view, length);
}

TEST_CASE("client: big runs get addresses that allow huge pages", "[client]") {
  Setup setup;
  setup.add(3, 2);
  setup.add(600, 1100);
  std::size_t length = 0;
  auto* view = static_cast<std::byte*>(daxfs_map(kFile, 77, &length));
  REQUIRE(view != nullptr);
  CHECK((reinterpret_cast<std::uintptr_t>(view) + 2 * kBlock) % kHuge == (600 * kBlock) % kHuge);
  check_view(setup, view);
  daxfs_unmap(view, length);
}

TEST_CASE("client: another file in the pool's place is ESTALE", "[client]") {
  Setup setup;
  setup.add(100, 1);
  std::size_t length = 0;
  iovec part;
  SECTION("other inode") { ++setup.inode; }
  SECTION("other device") { ++setup.device; }
  CHECK(daxfs_map(kFile, 77, &length) == nullptr);
  CHECK(errno == ESTALE);
  CHECK(daxfs_map_iov(kFile, 77, &part, 1) == -1);
  CHECK(errno == ESTALE);
}

TEST_CASE("client: a pool that is not there is ENOENT, a foreign pin too", "[client]") {
  Setup setup;
  setup.add(100, 1);
  std::size_t length = 0;
  CHECK(daxfs_map(kFile, 78, &length) == nullptr);
  CHECK(errno == ENOENT);
  const std::string real = std::exchange(setup.pool, "/nonexistent/pool");
  CHECK(daxfs_map(kFile, 77, &length) == nullptr);
  CHECK(errno == ENOENT);
  setup.pool = real;
}

TEST_CASE("client: map_iov counts, refuses too little room, and gives one address per extent",
          "[client]") {
  Setup setup;
  setup.add(10, 2);
  setup.add(12, 1);
  setup.add(5, 1);
  std::vector<iovec> parts(3);
  CHECK(daxfs_map_iov(kFile, 77, nullptr, 0) == 3);
  CHECK(daxfs_map_iov(kFile, 77, parts.data(), 2) == -1);
  CHECK(errno == ENOSPC);
  REQUIRE(daxfs_map_iov(kFile, 77, parts.data(), 3) == 3);
  CHECK(parts[0].iov_len == 2 * kBlock);
  CHECK(word_at(parts[0].iov_base) == 10);
  CHECK(word_at(parts[1].iov_base) == 12);
  CHECK(word_at(parts[2].iov_base) == 5);
  REQUIRE(daxfs_unmap_iov(kFile, parts.data(), parts.size()) == 0);
  for (const iovec& part : parts) CHECK_FALSE(is_mapped(part.iov_base));
}

TEST_CASE("client: a device with large steps", "[client]") {
  Setup setup;
  setup.alignment = kHuge;
  std::size_t length = 0;
  SECTION("small extents have no view, but addresses") {
    setup.add(511, 2);  // crosses a step
    setup.add(7, 1);
    CHECK(daxfs_map(kFile, 77, &length) == nullptr);
    CHECK(errno == EOPNOTSUPP);
    std::vector<iovec> parts(2);
    REQUIRE(daxfs_map_iov(kFile, 77, parts.data(), 2) == 2);
    CHECK(reinterpret_cast<std::uintptr_t>(parts[0].iov_base) % kHuge == 511 * kBlock);
    CHECK(reinterpret_cast<std::uintptr_t>(parts[1].iov_base) % kHuge == 7 * kBlock);
    CHECK(word_at(parts[0].iov_base) == 511);
    CHECK(word_at(static_cast<std::byte*>(parts[0].iov_base) + kBlock) == 512);
    CHECK(word_at(parts[1].iov_base) == 7);
    REQUIRE(daxfs_unmap_iov(kFile, parts.data(), 2) == 0);
    // The surroundings are gone too.
    CHECK_FALSE(is_mapped(static_cast<std::byte*>(parts[0].iov_base) - 100 * kBlock));
    CHECK_FALSE(is_mapped(static_cast<std::byte*>(parts[1].iov_base) + 100 * kBlock));
  }
  SECTION("whole steps do have a view, even if they come in pieces") {
    setup.add(1024, 100);
    setup.add(1124, 412, DAXFS_EXTENT_WRITABLE | DAXFS_EXTENT_UNWRITTEN);
    setup.add(512, 512);
    void* view = daxfs_map(kFile, 77, &length);
    REQUIRE(view != nullptr);
    CHECK(reinterpret_cast<std::uintptr_t>(view) % kHuge == 0);
    check_view(setup, static_cast<std::byte*>(view));
    daxfs_unmap(view, length);
  }
}

TEST_CASE("client: mappings can be given back when the daemon is gone", "[client]") {
  Setup setup;
  setup.add(10, 2);
  setup.add(700, 600);
  std::vector<iovec> parts(2);
  std::size_t length = 0;
  REQUIRE(daxfs_map_iov(kFile, 77, parts.data(), 2) == 2);
  void* view = daxfs_map(kFile, 77, &length);
  REQUIRE(view != nullptr);
  setup.dead = ENOTCONN;
  CHECK(word_at(parts[1].iov_base) == 700);
  CHECK(daxfs_unpin(kFile, 77) == -1);
  CHECK(errno == ENOTCONN);
  CHECK(daxfs_unmap_iov(kFile, parts.data(), 2) == 0);
  CHECK(daxfs_unmap(view, length) == 0);
  CHECK_FALSE(is_mapped(parts[1].iov_base));
  CHECK_FALSE(is_mapped(view));
}

TEST_CASE("client: an extent outside the pool is EIO, not a view that kills", "[client]") {
  Setup setup;
  setup.add(10, 1);
  setup.add(kPoolBlocks - 1, 2);
  std::size_t length = 0;
  std::vector<iovec> parts(2);
  CHECK(daxfs_map(kFile, 77, &length) == nullptr);
  CHECK(errno == EIO);
  CHECK(daxfs_map_iov(kFile, 77, parts.data(), 2) == -1);
  CHECK(errno == EIO);
}

TEST_CASE("client: a mapping that fails half-way leaves nothing behind", "[client]") {
#if defined(__SANITIZE_THREAD__)
  daxfs::test::skip_test("without a mapping to spare, ThreadSanitizer itself ends");
#endif
  std::uint64_t most = 0;
  std::ifstream("/proc/sys/vm/max_map_count") >> most;
  if (most == 0 || most > 200000) {
    daxfs::test::skip_test("vm.max_map_count is " + std::to_string(most) +
                           ", too high to run into");
  }
  Setup setup;
  for (std::uint64_t i = 0; i < most + 10; ++i) setup.add(i * 2 % kPoolBlocks, 1);
  const auto mappings = [] {
    std::ifstream maps("/proc/self/maps");
    std::string line;
    std::size_t count = 0;
    while (std::getline(maps, line)) count += line.find("daxfs_client_") != std::string::npos;
    return count;
  };
  std::vector<iovec> parts(setup.pinned.size());
  std::size_t length = 0;
  CHECK(daxfs_map(kFile, 77, &length) == nullptr);
  CHECK(errno == ENOMEM);
  CHECK(mappings() == 0);
  CHECK(daxfs_map_iov(kFile, 77, parts.data(), parts.size()) == -1);
  CHECK(errno == ENOMEM);
  CHECK(mappings() == 0);
}
