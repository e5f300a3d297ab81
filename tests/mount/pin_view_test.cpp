// What a holder sees through its mapping of the medium, and what others see of it.
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>

#include "tests/mount/file_helpers.h"
#include "tests/mount/mount_fixture.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

constexpr std::size_t kSize = 16 * kBlock;

struct Views : Mount {
  Views() { write_file(file, data); }
  const std::string file = path("f");
  const std::string data = pattern(kSize, 1);
};

// A pin with its view. Gone with the object, in order.
class View {
 public:
  View(int fd, std::uint64_t offset, std::uint64_t length, std::uint32_t flags) : fd_(fd) {
    REQUIRE(daxfs_pin(fd, offset, length, flags, &pin_) == 0);
    view_ = view_of(fd, pin_, &length_);
  }
  ~View() { release(); }
  View(const View&) = delete;
  View& operator=(const View&) = delete;
  void release() {
    unmap();
    if (pin_ != 0) CHECK(daxfs_unpin(fd_, pin_) == 0);
    pin_ = 0;
  }
  void unmap() {
    if (view_ != nullptr) CHECK(daxfs_unmap(view_, length_) == 0);
    view_ = nullptr;
  }
  std::uint64_t pin() const { return pin_; }
  std::size_t length() const { return length_; }
  std::string text(std::size_t at, std::size_t length) const { return {view_ + at, length}; }
  void put(std::size_t at, std::string_view text) { text.copy(view_ + at, text.size()); }

 private:
  int fd_;
  std::uint64_t pin_ = 0;
  char* view_ = nullptr;
  std::size_t length_ = 0;
};

}  // namespace

TEST_CASE_METHOD(Views, "the view is the whole blocks of the range") {
  const daxfs::UniqueFd fd = open_file(file, O_RDONLY);
  const View view(fd.get(), kBlock + 100, 2 * kBlock, 0);
  CHECK(view.length() == 3 * kBlock);
  CHECK(difference(view.text(0, view.length()), data.substr(kBlock, 3 * kBlock)) == "");
}

TEST_CASE_METHOD(Views, "a view of many scattered extents is one") {
  constexpr std::size_t kMany = 1234;
  write_fragmented(path("scattered"), kMany, 3);
  const daxfs::UniqueFd fd = open_file(path("scattered"), O_RDWR);
  View view(fd.get(), 0, kMany * kBlock, DAXFS_PIN_WRITE);
  CHECK(difference(view.text(0, view.length()), pattern(kMany * kBlock, 3)) == "");
  view.put(1000 * kBlock - 3, "across blocks");
  const daxfs::UniqueFd reader = open_file(path("scattered"), O_RDONLY);
  CHECK(read_at(reader.get(), 1000 * kBlock - 3, 13) == "across blocks");

  SECTION("its extents come in pages") {
    CHECK(daxfs_pin_extents(fd.get(), view.pin(), nullptr, 0) == kMany);
    std::vector<daxfs_extent> some(10);
    CHECK(daxfs_pin_extents(fd.get(), view.pin(), some.data(), some.size()) == kMany);
    std::vector<daxfs_extent> all(kMany + 10);
    REQUIRE(daxfs_pin_extents(fd.get(), view.pin(), all.data(), all.size()) == kMany);
    const std::vector<daxfs_extent> mapped = extents_of(fd.get());
    REQUIRE(mapped.size() == kMany);
    for (std::size_t i = 0; i < kMany; ++i) {
      REQUIRE(all[i].file_offset == i * kBlock);
      REQUIRE(all[i].length == kBlock);
      REQUIRE(all[i].flags == DAXFS_EXTENT_WRITABLE);
      REQUIRE(all[i].pins == 1);
      REQUIRE(all[i].pool_offset == mapped[i].pool_offset);
      if (i < some.size()) REQUIRE(some[i].pool_offset == all[i].pool_offset);
    }
    CHECK(ctl("extents", "scattered").size() == kMany);
  }
  SECTION("each extent has an address") {
    std::vector<iovec> parts(kMany);
    CHECK(daxfs_map_iov(fd.get(), view.pin(), nullptr, 0) == kMany);
    CHECK(error_of(daxfs_map_iov(fd.get(), view.pin(), parts.data(), kMany - 1)) == ENOSPC);
    REQUIRE(daxfs_map_iov(fd.get(), view.pin(), parts.data(), kMany) == kMany);
    for (std::size_t i = 0; i < kMany; ++i) {
      REQUIRE(parts[i].iov_len == kBlock);
      REQUIRE(difference(std::string_view(static_cast<char*>(parts[i].iov_base), kBlock),
                         view.text(i * kBlock, kBlock)) == "");
    }
    CHECK(daxfs_unmap_iov(fd.get(), parts.data(), kMany) == 0);
  }
}

TEST_CASE_METHOD(Views, "ranges of extents are listed as asked for") {
  const daxfs::UniqueFd fd = open_file(path("holes"), O_RDWR | O_CREAT);
  for (const std::uint64_t block : {2, 3, 7, 9}) {
    write_at(fd.get(), block * kBlock, pattern(kBlock, static_cast<unsigned>(block)));
    REQUIRE(fsync(fd.get()) == 0);
  }
  const auto list = [&](std::uint64_t offset, std::uint64_t length) {
    std::vector<daxfs_extent> extents(20);
    const ssize_t count = daxfs_extents(fd.get(), offset, length, extents.data(), extents.size());
    REQUIRE(count >= 0);
    Parts parts;
    for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
      const std::uint64_t end = extents[i].file_offset + extents[i].length;
      // Neighbours in the file need not be neighbours in the pool.
      if (!parts.empty() && parts.back().second == extents[i].file_offset) {
        parts.back().second = end;
      } else {
        parts.emplace_back(extents[i].file_offset, end);
      }
    }
    return parts;
  };
  CHECK(list(0, 100 * kBlock) ==
        Parts{{2 * kBlock, 4 * kBlock}, {7 * kBlock, 8 * kBlock}, {9 * kBlock, 10 * kBlock}});
  CHECK(list(0, 2 * kBlock).empty());
  CHECK(list(3 * kBlock + 1, 1) == Parts{{3 * kBlock, 4 * kBlock}});
  CHECK(list(7 * kBlock + 5, 2 * kBlock) ==
        Parts{{7 * kBlock, 8 * kBlock}, {9 * kBlock, 10 * kBlock}});
  CHECK(list(1ull << 50, 1).empty());
}

TEST_CASE_METHOD(Views, "the view shows what is written to the file") {
  const daxfs::UniqueFd fd = open_file(file, O_RDWR);
  const View view(fd.get(), 0, kSize, 0);
  const daxfs::UniqueFd direct = open_file(file, O_RDWR | O_DIRECT);
  write_at(direct.get(), 5000, "direct");
  CHECK(view.text(5000, 6) == "direct");
  const daxfs::UniqueFd buffered = open_file(file, O_RDWR);
  write_at(buffered.get(), 6000, "buffered");
  REQUIRE(fsync(buffered.get()) == 0);
  CHECK(view.text(6000, 8) == "buffered");
}

TEST_CASE_METHOD(Views, "what a holder wrote is the file, for old and new descriptors") {
  const daxfs::UniqueFd early = open_file(file, O_RDONLY);
  CHECK(difference(read_at(early.get(), 0, kSize), data) == "");  // now it is cached
  void* const mapped = mmap(nullptr, kSize, PROT_READ, MAP_SHARED, early.get(), 0);
  REQUIRE(mapped != MAP_FAILED);
  CHECK(difference(std::string_view(static_cast<char*>(mapped), kSize), data) == "");

  const daxfs::UniqueFd fd = open_file(file, O_RDWR);
  View view(fd.get(), 0, kSize, DAXFS_PIN_WRITE);
  const std::string written = pattern(kSize, 77);
  view.put(0, written);
  const daxfs::UniqueFd during = open_file(file, O_RDONLY);
  CHECK(difference(read_at(during.get(), 0, kSize), written) == "");
  view.put(kBlock, "once more");
  CHECK(read_at(during.get(), kBlock, 9) == "once more");
  std::string expected = written;
  expected.replace(kBlock, 9, "once more");

  view.release();
  CHECK(difference(read_at(early.get(), 0, kSize), expected) == "");
  CHECK(difference(read_at(fd.get(), 0, kSize), expected) == "");
  CHECK(difference(read_file(file), expected) == "");
  CHECK(difference(std::string_view(static_cast<char*>(mapped), kSize), expected) == "");
  CHECK(munmap(mapped, kSize) == 0);
}

TEST_CASE_METHOD(Views,
                 "pages cached by a mapping of a direct descriptor go stale no more than others") {
  const daxfs::UniqueFd direct = open_file(file, O_RDONLY | O_DIRECT);
  void* const mapped = mmap(nullptr, kSize, PROT_READ, MAP_PRIVATE, direct.get(), 0);
  REQUIRE(mapped != MAP_FAILED);
  const std::string_view seen(static_cast<char*>(mapped), kSize);
  for (unsigned round = 0; round < 3; ++round) {
    const daxfs::UniqueFd fd = open_file(file, O_RDWR);
    View view(fd.get(), 0, kSize, DAXFS_PIN_WRITE);
    view.put(0, pattern(kSize, 50 + round));
    view.release();
    CHECK(difference(seen, pattern(kSize, 50 + round)) == "");
  }
  CHECK(munmap(mapped, kSize) == 0);
}

TEST_CASE_METHOD(Views, "a holder that dies without unpinning leaves what it wrote") {
  const daxfs::UniqueFd early = open_file(file, O_RDONLY);
  CHECK(difference(read_at(early.get(), 0, kSize), data) == "");
  const std::string written = pattern(kSize, 78);
  {
    const ReadyChild holder([&] {
      const int fd = open(file.c_str(), O_RDWR);
      std::uint64_t pin = 0;
      std::size_t length = 0;
      if (daxfs_pin(fd, 0, kSize, DAXFS_PIN_WRITE, &pin) != 0) return errno;
      char* const view = static_cast<char*>(daxfs_map(fd, pin, &length));
      if (view == nullptr) return errno;
      written.copy(view, length);
      return 0;
    });
    REQUIRE(holder.result() == 0);
  }
  CHECK(eventually([&] { return status()["pins"]["long"] == 0; }));
  CHECK(eventually([&] { return read_at(early.get(), 0, kSize) == written; }));
  CHECK(difference(read_file(file), written) == "");
}

TEST_CASE_METHOD(Views, "unpinning a write pin moves the times, a read pin does not") {
  const daxfs::UniqueFd fd = open_file(file, O_RDWR);
  const Snapshot before(file);
  {
    View view(fd.get(), 0, kSize, 0);
    next_tick();
  }
  CHECK(Snapshot(file) == before);
  {
    View view(fd.get(), 0, kSize, DAXFS_PIN_WRITE);
    next_tick();
  }
  const Snapshot after(file);
  CHECK(after.mtime_ns > before.mtime_ns);
  CHECK(after.ctime_ns > before.ctime_ns);
  CHECK(after.data == before.data);
}

TEST_CASE_METHOD(Views, "a read pin is mapped read-only, and only who may open the pool maps it") {
  const daxfs::UniqueFd fd = open_file(file, O_RDWR);
  std::uint64_t pin = 0;
  REQUIRE(daxfs_pin(fd.get(), 0, kSize, 0, &pin) == 0);
  const int signal = in_child([&] {
    std::size_t length = 0;
    auto* const view = static_cast<volatile char*>(daxfs_map(fd.get(), pin, &length));
    if (view == nullptr) return 1;
    view[0] = 'x';
    return 2;
  });
  CHECK(signal == 128 + SIGSEGV);

  REQUIRE(chmod(pool().c_str(), 0600) == 0);
  REQUIRE(chmod(file.c_str(), 0666) == 0);
  const int code = in_child(
      [&] {
        const int own = open(file.c_str(), O_RDWR);
        std::uint64_t id = 0;
        std::size_t length = 0;
        if (daxfs_pin(own, 0, kSize, DAXFS_PIN_WRITE, &id) != 0) return 1;
        return daxfs_map(own, id, &length) == nullptr ? errno : 0;
      },
      4242);
  CHECK(code == EACCES);
}
