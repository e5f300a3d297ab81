// Memory mappings through the kernel's page cache, beside every other way to the same bytes.
#include <sys/mman.h>
#include <unistd.h>

#include "tests/mount/file_helpers.h"
#include "tests/mount/mount_fixture.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

constexpr std::size_t kSize = 64 * kBlock;

// A shared or private mapping of a whole file.
class Mapping {
 public:
  Mapping(int fd, int flags, int protection = PROT_READ | PROT_WRITE) {
    void* const at = mmap(nullptr, kSize, protection, flags, fd, 0);
    code_ = at == MAP_FAILED ? errno : 0;
    if (code_ == 0) data_ = static_cast<char*>(at);
  }
  ~Mapping() {
    if (data_ != nullptr) munmap(data_, kSize);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  int code() const { return code_; }
  char* data() { return data_; }
  std::string text(std::size_t offset, std::size_t length) const {
    return {data_ + offset, length};
  }
  void put(std::size_t offset, std::string_view text) { text.copy(data_ + offset, text.size()); }
  int sync() { return error_of(msync(data_, kSize, MS_SYNC)); }

 private:
  char* data_ = nullptr;
  int code_ = 0;
};

struct MappedFile : Mount {
  MappedFile() { write_file(file, data); }
  const std::string file = path("f");
  const std::string data = pattern(kSize, 1);
};

}  // namespace

TEST_CASE_METHOD(MappedFile, "a shared mapping writes the file") {
  {
    const daxfs::UniqueFd fd = open_file(file, O_RDWR);
    Mapping mapping(fd.get(), MAP_SHARED);
    REQUIRE(mapping.code() == 0);
    CHECK(difference(mapping.text(0, kSize), data) == "");
    mapping.put(100, "mapped");
    mapping.put(kSize - 6, "at end");
    CHECK(read_at(fd.get(), 100, 6) == "mapped");
    CHECK(mapping.sync() == 0);
    const daxfs::UniqueFd direct = open_file(file, O_RDONLY | O_DIRECT);
    CHECK(read_at(direct.get(), 100, 6) == "mapped");
    CHECK(in_child([&] { return mapping.text(100, 6) == "mapped" ? 0 : 1; }) == 0);
    mapping.put(200, "not synced");
  }
  {
    // Before Linux 6.16 an unmount does not wait for these bytes to reach the daemon
    // (docs/decisions.md), but a read beside the page cache does.
    const daxfs::UniqueFd direct = open_file(file, O_RDONLY | O_DIRECT);
    CHECK(read_at(direct.get(), 200, 10) == "not synced");
  }
  remount();
  std::string expected = data;
  expected.replace(100, 6, "mapped").replace(kSize - 6, 6, "at end").replace(200, 10, "not synced");
  CHECK(difference(read_file(file), expected) == "");
}

TEST_CASE_METHOD(MappedFile, "a private mapping writes nothing") {
  const daxfs::UniqueFd fd = open_file(file, O_RDONLY);
  Mapping mapping(fd.get(), MAP_PRIVATE);
  REQUIRE(mapping.code() == 0);
  mapping.put(100, "private");
  CHECK(mapping.text(100, 7) == "private");
  CHECK(difference(read_file(file), data) == "");
}

TEST_CASE_METHOD(MappedFile, "mappings and buffered descriptors see each other's bytes") {
  const daxfs::UniqueFd fd = open_file(file, O_RDWR);
  const daxfs::UniqueFd other = open_file(file, O_RDWR);
  Mapping shared(fd.get(), MAP_SHARED);
  Mapping reader(other.get(), MAP_SHARED, PROT_READ);
  REQUIRE(shared.code() == 0);
  REQUIRE(reader.code() == 0);
  for (unsigned i = 0; i < 50; ++i) {
    const std::string text = "round " + std::to_string(i);
    const std::size_t at = (i * 7919) % (kSize - 100);
    write_at(other.get(), at, text);
    CHECK(shared.text(at, text.size()) == text);
    shared.put(at + 50, text);
    CHECK(read_at(other.get(), at + 50, text.size()) == text);
    CHECK(reader.text(at + 50, text.size()) == text);
  }
}

TEST_CASE_METHOD(MappedFile, "O_DIRECT and buffered descriptors see each other's bytes") {
  const daxfs::UniqueFd direct = open_file(file, O_RDWR | O_DIRECT);
  const daxfs::UniqueFd buffered = open_file(file, O_RDWR);
  CHECK(difference(read_at(buffered.get(), 0, kSize), data) == "");  // cached
  AlignedBuffer block(kBlock);
  for (unsigned i = 0; i < 50; ++i) {
    const std::size_t at = (i * 13) % (kSize / kBlock) * kBlock;
    pattern(kBlock, 100 + i).copy(block.data(), kBlock);
    write_at(direct.get(), at, block.view());
    CHECK(difference(read_at(buffered.get(), at, kBlock), block.view()) == "");
    const std::string text = "buffered " + std::to_string(i);
    write_at(buffered.get(), at + 1000, text);
    CHECK(read_at(direct.get(), at + 1000, text.size()) == text);
  }
}

TEST_CASE_METHOD(MappedFile, "a direct write shows in a mapping that has the pages already") {
  const daxfs::UniqueFd fd = open_file(file, O_RDWR);
  Mapping mapping(fd.get(), MAP_SHARED);
  REQUIRE(mapping.code() == 0);
  CHECK(difference(mapping.text(0, kSize), data) == "");
  const daxfs::UniqueFd direct = open_file(file, O_RDWR | O_DIRECT);
  const std::string text = pattern(3 * kBlock, 9);
  write_at(direct.get(), 5 * kBlock, text);
  CHECK(mapping.text(5 * kBlock, text.size()) == text);
  // And the other way round, once it is synced.
  mapping.put(20 * kBlock, "from the mapping");
  CHECK(mapping.sync() == 0);
  CHECK(read_at(direct.get(), 20 * kBlock, 16) == "from the mapping");
}

TEST_CASE_METHOD(MappedFile, "an O_DIRECT descriptor can be mapped") {
  const daxfs::UniqueFd direct = open_file(file, O_RDWR | O_DIRECT);
  Mapping copy(direct.get(), MAP_PRIVATE);
  REQUIRE(copy.code() == 0);
  CHECK(difference(copy.text(0, kSize), data) == "");
  Mapping shared(direct.get(), MAP_SHARED);
  REQUIRE(shared.code() == shared_mapping_of_direct_handle());
  if (shared.code() != 0) return;
  CHECK(difference(shared.text(0, kSize), data) == "");
  shared.put(7000, "shared, direct");
  CHECK(shared.sync() == 0);
  CHECK(read_at(direct.get(), 7000, 14) == "shared, direct");
  write_at(direct.get(), 9000, "direct, shared");
  CHECK(shared.text(9000, 14) == "direct, shared");
}

TEST_CASE_METHOD(MappedFile, "a mapping fills holes, and follows truncate and punch") {
  const daxfs::UniqueFd fd = open_file(path("sparse"), O_RDWR | O_CREAT);
  REQUIRE(ftruncate(fd.get(), kSize) == 0);
  const std::uint64_t before = free();
  Mapping mapping(fd.get(), MAP_SHARED);
  REQUIRE(mapping.code() == 0);
  CHECK(difference(mapping.text(0, kSize), std::string(kSize, '\0')) == "");
  mapping.put(10 * kBlock + 5, "data");
  CHECK(mapping.sync() == 0);
  CHECK(free() == before - kBlock);
  CHECK(data_parts(path("sparse")) == Parts{{10 * kBlock, 11 * kBlock}});
  REQUIRE(fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 10 * kBlock, kBlock) ==
          0);
  CHECK(difference(mapping.text(10 * kBlock, kBlock), std::string(kBlock, '\0')) == "");
  CHECK(free() == before);
  mapping.put(0, "again");
  REQUIRE(ftruncate(fd.get(), 3) == 0);
  REQUIRE(ftruncate(fd.get(), kSize) == 0);
  CHECK(mapping.text(0, 5) == std::string("aga\0\0", 5));
}
