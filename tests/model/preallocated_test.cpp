// What was preallocated can be written and pinned however full the pool is.
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <random>

#include "blockmap/volume/check.h"
#include "client/daxfs.h"
#include "tests/model/mounted.h"
#include "tests/unit/catch.h"

using namespace daxfs;
using namespace daxfs::testing;

namespace {

constexpr std::uint64_t kBlock = kBlockSize;
// Far behind what is preallocated: extents there take slots and never touch others.
constexpr std::uint64_t kFar = 1ull << 30;

// A file with preallocated blocks in a pool without a free one, where whatever was not zeroed
// shows.
struct FullPool {
  explicit FullPool(std::uint64_t pool_bytes) : medium(ByteCount(pool_bytes)) {
    format_medium(medium);
    mounted.emplace(medium, mount_options(PinPolicy::refuse));
    file = made("file");
    other = made("other");
    auto junk = made("junk");
    const std::string bytes(std::size_t{64} * kBlock, 'J');
    for (std::uint64_t at = 0; write(fs(), *junk, at, bytes); at += bytes.size()) {
    }
    fs().files().release(std::move(junk));
    REQUIRE(fs().names().unlink(kRootInode, "junk"));
  }
  ~FullPool() {
    close();
    if (mounted) fs().unmount();
  }
  Filesystem& fs() { return *mounted->fs; }
  std::uint64_t free() { return mounted->volume->allocator().free_blocks().value; }
  OpenFileRef made(const std::string& name) {
    const auto number =
        number_of(fs(), fs().names().make_node(kRootInode, name, S_IFREG | 0644, 0, {}));
    REQUIRE(number);
    return std::move(*fs().files().open(*number, O_RDWR));
  }
  void close() {
    if (file) fs().files().release(std::move(file));
    if (other) fs().files().release(std::move(other));
  }

  // `extents` extents of `each` blocks, one behind the other in the file but not in the pool.
  void preallocate(std::uint64_t extents, std::uint64_t each) {
    for (std::uint64_t i = 0; i < extents; ++i) {
      REQUIRE(fs().space().allocate(*file, FileOffset(i * each * kBlock), ByteCount(each * kBlock),
                                    false));
      REQUIRE(write(fs(), *other, i * kBlock, std::string(kBlock, 'o')));
    }
    content.assign(extents * each * kBlock, '\0');
  }
  void take_slots(std::uint64_t count) {
    for (std::uint64_t i = 0; i < count; ++i) {
      REQUIRE(write(fs(), *file, kFar + 2 * i * kBlock, std::string(kBlock, 'f')));
    }
  }
  void fill_up(std::uint64_t leave = 0) {
    for (std::uint64_t at = kFar; free() > leave;) {
      const std::uint64_t length = (free() - leave) * kBlock;
      if (!fs().space().allocate(*other, FileOffset(at), ByteCount(length), false)) {
        REQUIRE(fs().space().allocate(*other, FileOffset(at), ByteCount(kBlock), false));
        at += kBlock;
      }
    }
    REQUIRE(free() == leave);
  }

  void write_at(std::uint64_t offset, std::uint64_t length) {
    const std::string bytes(length, static_cast<char>('a' + last_++ % 26));
    INFO("write at " << offset << " + " << length);
    REQUIRE(write(fs(), *file, offset, bytes) == length);
    content.replace(offset, length, bytes);
  }
  bool right() { return read(fs(), *file, 0, content.size()) == content; }
  // Also after a mount.
  void check() {
    REQUIRE(right());
    const InodeNumber number = file->inode->number;
    close();
    fs().unmount();
    mounted.reset();
    const CheckReport report = check_volume(medium, "pool");
    CHECK(report.errors.empty());
    mounted.emplace(medium, mount_options(PinPolicy::refuse));
    file = std::move(*fs().files().open(number, O_RDWR));
    REQUIRE(right());
  }

  HeapMedium medium;
  std::optional<Mounted> mounted;
  OpenFileRef file;
  OpenFileRef other;
  std::string content;

 private:
  int last_ = 0;
};

constexpr std::uint64_t kBlocks = 96;

// Preallocated in one piece or in three, with 0 to 3 of the inode's slots for extents free.
struct SmallFullPool : FullPool {
  SmallFullPool() : FullPool(4 << 20) {
    const std::uint64_t extents = GENERATE(1u, 3u);
    const std::uint64_t taken = GENERATE(0u, 1u, 2u, 3u);
    CAPTURE(extents, taken);
    preallocate(extents, kBlocks / extents);
    take_slots(std::min(taken, 4 - extents));
    fill_up();
  }
};

}  // namespace

TEST_CASE_METHOD(SmallFullPool, "random writes into preallocated blocks of a full pool") {
  const unsigned seed = GENERATE(1u, 2u, 3u, 4u);
  std::mt19937_64 random(seed);
  CAPTURE(seed);
  for (int i = 0; i < 100; ++i) {
    if (seed % 2 == 0) {
      write_at(random() % kBlocks * kBlock, kBlock);
    } else {
      const std::uint64_t offset = random() % content.size();
      write_at(offset, 1 + random() % std::min(content.size() - offset, 3 * kBlock));
    }
    REQUIRE(right());
  }
  check();
}

TEST_CASE_METHOD(SmallFullPool, "sequential writes into preallocated blocks of a full pool") {
  const bool backwards = GENERATE(false, true);
  CAPTURE(backwards);
  for (std::uint64_t i = 0; i < kBlocks; ++i) {
    write_at((backwards ? kBlocks - 1 - i : i) * kBlock, kBlock);
    REQUIRE(right());
  }
  check();
}

TEST_CASE_METHOD(SmallFullPool, "pins of preallocated blocks of a full pool") {
  std::mt19937_64 random(5);
  for (int i = 0; i < 40; ++i) {
    const std::uint64_t offset = random() % content.size();
    const std::uint64_t length = 1 + random() % std::min(content.size() - offset, 40 * kBlock);
    INFO("pin " << offset << " + " << length);
    const auto id = pin(fs(), *file,
                        {FileOffset(offset), ByteCount(length), DAXFS_PIN_WRITE | DAXFS_PIN_SHORT});
    REQUIRE(id);
    // What the holder sees, and writes.
    const auto extents = fs().extents().of_pin(*file, *id, 0, 100);
    REQUIRE(extents);
    for (const auto& extent : extents->extents) {
      const std::string seen(reinterpret_cast<const char*>(medium.at(extent.pool)),
                             extent.length.value);
      REQUIRE(seen == content.substr(extent.file.value, extent.length.value));
    }
    const auto& first = extents->extents.front();
    const std::string mine(kBlock, static_cast<char>('A' + i % 26));
    medium.write(first.pool, std::as_bytes(std::span(mine)));
    content.replace(first.file.value, kBlock, mine);
    REQUIRE(right());
    REQUIRE(unpin(fs(), *file, *id));
  }
  check();
}

TEST_CASE("behind preallocated blocks a write is short, and does not fail") {
  const std::uint64_t left = GENERATE(0u, 1u, 2u);
  CAPTURE(left);
  FullPool pool(4 << 20);
  pool.preallocate(1, 8);
  pool.take_slots(3);
  pool.fill_up(left);
  const std::string bytes(12 * kBlock, 'w');
  const auto written = write(pool.fs(), *pool.file, 4 * kBlock, bytes);
  REQUIRE(written);
  CHECK(*written >= 4 * kBlock);
  pool.content.resize(4 * kBlock + *written);
  pool.content.replace(4 * kBlock, *written, bytes, 0, *written);
  pool.check();
}

TEST_CASE("a long way from the beginning of preallocated blocks is zeroed in pieces") {
  FullPool pool(128 << 20);
  pool.preallocate(1, 100 * 256);
  pool.take_slots(1);
  pool.fill_up();
  pool.write_at(95 << 20, kBlock);  // takes the last two slots
  pool.write_at((94 << 20) + 100, kBlock);
  pool.write_at(96 << 20, kBlock);
  REQUIRE(pool.right());
  pool.write_at(7, 1);
  pool.write_at((98 << 20) - 1, 2);
  pool.check();
}
