// cache=writeback, where the kernel keeps what is written: what is done with the pages that come
// back, and what it is told.
#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <string>
#include <utility>

#include "client/daxfs.h"
#include "tests/model/mounted.h"
#include "tests/unit/catch.h"

using namespace daxfs;
using namespace daxfs::testing;

namespace {

// Drops pages at once, and remembers what it was told of the file's end before.
struct TellingKernel : KernelCache {
  void invalidate_attributes(InodeNumber) override {}
  void invalidate_data(InodeNumber, Dropped done, Asker, End end) override {
    drops += 1;
    if (end) told = end();
    if (done) done(true);
  }
  void truncate_waits(InodeNumber) override {}
  void truncate_ends(InodeNumber) override {}
  void wake_poller(HolderId) override {}

  int drops = 0;
  std::uint64_t told = 0;
};

struct OneFile {
  explicit OneFile(CacheMode mode, ByteCount pool = ByteCount(8 << 20))
      : medium(pool), mounted(formatted(medium), options(mode), &kernel), fs(*mounted.fs) {
    inode = *number_of(fs, fs.names().make_node(kRootInode, "f", S_IFREG | 0644, 0, {}));
    file = *fs.files().open(inode, O_RDWR);
  }
  ~OneFile() {
    fs.files().release(std::move(file));
    fs.unmount();
  }
  static Medium& formatted(Medium& medium) {
    format_medium(medium);
    return medium;
  }
  static MountOptions options(CacheMode mode) {
    MountOptions all = mount_options(PinPolicy::refuse);
    all.cache = mode;
    return all;
  }
  Result<std::size_t> page(std::uint64_t offset, const std::string& data) {
    return wait_for<Result<std::size_t>>([&](auto done) {
      fs.writing().write(*file,
                         {.offset = FileOffset(offset),
                          .data = std::as_bytes(std::span(data)),
                          .by_page_cache = true},
                         std::move(done));
    });
  }
  struct stat attributes() {
    return *fs.attributes().get(inode);
  }

  TellingKernel kernel;
  HeapMedium medium;
  Mounted mounted;
  Filesystem& fs;
  InodeNumber inode{};
  OpenFileRef file;
};

const std::string kPage(kBlockSize, 'p');

}  // namespace

TEST_CASE("cache=writeback: the times of pages that come back are the kernel's to set") {
  OneFile f(CacheMode::writeback);
  AttributeChange past;
  past.mtime_ns = 1'000'000'007;
  past.ctime_ns = 2'000'000'009;
  REQUIRE(set_attributes(f.fs, f.inode, past));
  REQUIRE(f.page(0, kPage) == kBlockSize);  // into a new block
  REQUIRE(f.page(100, "in place") == 8);
  CHECK(f.attributes().st_mtim.tv_nsec == 7);
  CHECK(f.attributes().st_ctim.tv_nsec == 9);
  CHECK(f.attributes().st_size == static_cast<off_t>(kBlockSize));
  // What goes past its pages is ours.
  REQUIRE(testing::write(f.fs, *f.file, 0, "direct"));
  CHECK(f.attributes().st_mtim.tv_sec > 1'000'000);
}

TEST_CASE("pages that come back from a mapping change the times in the other modes") {
  OneFile f(CacheMode::through);
  AttributeChange past;
  past.mtime_ns = past.ctime_ns = 1'000'000'007;
  REQUIRE(set_attributes(f.fs, f.inode, past));
  REQUIRE(f.page(0, kPage) == kBlockSize);
  CHECK(f.attributes().st_mtim.tv_sec > 1'000'000);
}

TEST_CASE("pages that fit in part only are an error: the kernel looks at no short count") {
  OneFile f(GENERATE(CacheMode::through, CacheMode::writeback));
  const std::uint64_t free = f.mounted.volume->allocator().free_blocks().value;
  const std::string much((free + 4) * kBlockSize, 'm');
  const auto written = f.page(0, much);
  REQUIRE_FALSE(written);
  CHECK(written.error().code == ENOSPC);
}

TEST_CASE("cache=writeback: the kernel reads pages through a descriptor that cannot read") {
  const CacheMode mode = GENERATE(CacheMode::through, CacheMode::writeback);
  OneFile f(mode);
  REQUIRE(testing::write(f.fs, *f.file, 0, kPage));
  OpenFileRef other = *f.fs.files().open(f.inode, O_WRONLY);
  const auto read = [&](bool pages) {
    return f.fs.reading().read(
        *other, FileOffset(0), ByteCount(kBlockSize), [](auto) { return true; }, pages);
  };
  CHECK(read(true).has_value() == (mode == CacheMode::writeback));
  CHECK_FALSE(read(false));
  f.fs.files().release(std::move(other));
}

TEST_CASE("cache=writeback: the kernel is told how long a pin has made a file, and no longer") {
  OneFile f(CacheMode::writeback);
  REQUIRE(pin(
      f.fs, *f.file,
      {.offset = FileOffset(0), .length = ByteCount(3 * kBlockSize), .flags = DAXFS_PIN_ALLOCATE}));
  CHECK(f.kernel.told == 3 * kBlockSize);
  AttributeChange longer;
  longer.size = 5 * kBlockSize;
  REQUIRE(set_attributes(f.fs, f.inode, longer));
  // The kernel knows that by itself, and that it is cut off, too.
  AttributeChange shorter;
  shorter.size = 3 * kBlockSize - 1;
  REQUIRE(set_attributes(f.fs, f.inode, shorter));
  REQUIRE(pin(f.fs, *f.file, {.offset = FileOffset(0), .length = ByteCount(1)}));
  CHECK(f.kernel.told <= 3 * kBlockSize - 1);
}

TEST_CASE("cache=writeback: pages of what is pinned for writing are not kept") {
  OneFile f(CacheMode::writeback);
  REQUIRE(testing::write(f.fs, *f.file, 0, kPage));
  int before = f.kernel.drops;
  REQUIRE(f.page(0, kPage) == kBlockSize);
  CHECK(f.kernel.drops == before);
  REQUIRE(pin(f.fs, *f.file,
              {.offset = FileOffset(0), .length = ByteCount(1), .flags = DAXFS_PIN_WRITE}));
  before = f.kernel.drops;
  REQUIRE(f.page(0, kPage) == kBlockSize);
  CHECK(f.kernel.drops == before + 1);
}

TEST_CASE("which handles go past the page cache, by mode") {
  const CacheMode mode = GENERATE(CacheMode::through, CacheMode::writeback, CacheMode::none);
  OneFile f(mode);
  CHECK(f.file->direct == (mode == CacheMode::none));
  OpenFileRef direct = *f.fs.files().open(f.inode, O_RDWR | O_DIRECT);
  CHECK(direct->direct == (mode != CacheMode::writeback));
  REQUIRE(pin(f.fs, *f.file,
              {.offset = FileOffset(0),
               .length = ByteCount(1),
               .flags = DAXFS_PIN_WRITE | DAXFS_PIN_ALLOCATE}));
  OpenFileRef later = *f.fs.files().open(f.inode, O_RDWR);
  CHECK(later->direct);
  f.fs.files().release(std::move(direct));
  f.fs.files().release(std::move(later));
}
