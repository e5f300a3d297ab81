#include "blockmap/xattr.h"

#include <random>

#include "base/crc32c.h"
#include "tests/unit/catch.h"
#include "tests/unit/test_volume.h"

using namespace daxfs;
using namespace daxfs::test;

namespace {

constexpr InodeNumber kInode(5);

struct Fixture {
  std::unique_ptr<FenceMedium> medium = make_pool(ByteCount(8 << 20));
  std::unique_ptr<Volume> volume = open_volume(*medium);
  pmem::InodeRecord record{};
  std::vector<PoolRange> released;

  Status replace(const XattrMap& attributes) {
    return replace_xattrs(*medium, volume->allocator(), kInode, record, attributes, released);
  }
  Result<XattrMap> load(InodeNumber inode = kInode) const {
    return load_xattrs(*medium, inode, record, volume->data_area());
  }
  std::uint64_t free_blocks() const { return volume->allocator().free_blocks().value; }
};

}  // namespace

TEST_CASE_METHOD(Fixture, "attributes are replaced as a whole") {
  const std::uint64_t before = free_blocks();
  CHECK(load()->empty());
  const XattrMap some = {{"user.a", "1"}, {"user.empty", ""}, {"user.zero", std::string(3, '\0')}};
  REQUIRE(replace(some));
  CHECK(released.empty());
  CHECK(*load() == some);
  CHECK(xattr_run(record).count.value == 1);
  CHECK(free_blocks() == before - 1);

  const PoolRange first = xattr_run(record);
  XattrMap more = some;
  more["user.long"] = std::string(10000, 'x');
  REQUIRE(replace(more));
  CHECK(*load() == more);
  CHECK(xattr_run(record).count.value == 3);
  REQUIRE(released == std::vector{first});

  const PoolRange second = xattr_run(record);
  REQUIRE(replace({}));
  CHECK(load()->empty());
  CHECK(record.xattr_block == 0);
  CHECK(record.xattr_bytes == 0);
  CHECK(released == std::vector{first, second});
  free_ranges(*volume, released);
  CHECK(free_blocks() == before);
}

TEST_CASE_METHOD(Fixture, "random attributes come back") {
  std::mt19937 random(4);
  const auto text = [&](std::size_t longest) {
    std::string out(random() % (longest + 1), ' ');
    for (char& c : out) c = static_cast<char>(random());
    return out;
  };
  for (int round = 0; round < 200; ++round) {
    XattrMap attributes;
    for (unsigned i = 0; i < random() % 20; ++i) attributes["n" + text(254)] = text(3000);
    released.clear();
    REQUIRE(replace(attributes));
    REQUIRE(*load() == attributes);
    free_ranges(*volume, released);
  }
}

TEST_CASE_METHOD(Fixture, "what does not fit changes nothing") {
  REQUIRE(replace({{"user.a", "1"}}));
  const pmem::InodeRecord before = record;
  const std::uint64_t free_before = free_blocks();
  const auto unchanged = [&] {
    return std::memcmp(&before, &record, sizeof record) == 0 && free_blocks() == free_before &&
           released.empty();
  };
  // 32 bytes of header, 8 of item header, 1 of name.
  CHECK(replace({{"a", std::string(kMaxXattrBytes - 40, 'x')}}).error().code == ENOSPC);
  CHECK(unchanged());
  CHECK(replace({{"", "x"}}).error().code == EINVAL);
  CHECK(unchanged());

  std::vector<PoolRange> taken;
  REQUIRE(volume->allocator().allocate(BlockCount(free_before), PoolBlock(0), taken));
  CHECK(replace({{"a", "x"}}).error().code == ENOSPC);
  free_ranges(*volume, taken);
  CHECK(unchanged());

  const XattrMap largest = {{"a", std::string(kMaxXattrBytes - 41, 'x')}};
  REQUIRE(replace(largest));
  CHECK(*load() == largest);
}

TEST_CASE_METHOD(Fixture, "damaged attributes are refused") {
  REQUIRE(replace({{"user.a", "one"}, {"user.b", std::string(5000, 'b')}}));
  CHECK(load(InodeNumber(6)).error().code == EUCLEAN);
  const PoolOffset at = offset_of(PoolBlock(record.xattr_block));
  for (std::uint64_t bit = 0; bit < record.xattr_bytes * 8; bit += 31) {
    flip_bit(*medium, at + ByteCount(bit / 8), bit % 8);
    CHECK_FALSE(load());
    flip_bit(*medium, at + ByteCount(bit / 8), bit % 8);
  }
  REQUIRE(load());

  // A run that the record misplaces, with a checksum that matches or not.
  const std::uint64_t end = medium->blocks().value;
  for (const std::uint64_t block : {std::uint64_t{1}, end - 1, end, ~std::uint64_t{0}}) {
    pmem::InodeRecord bad = record;
    bad.xattr_block = block;
    CHECK_FALSE(load_xattrs(*medium, kInode, bad, volume->data_area()));
  }
  for (const std::uint64_t length : {0ull, 31ull, 32ull, kMaxXattrBytes + 1ull, ~0ull}) {
    pmem::InodeRecord bad = record;
    bad.xattr_bytes = length;
    CHECK_FALSE(load_xattrs(*medium, kInode, bad, volume->data_area()));
  }
}

TEST_CASE_METHOD(Fixture, "a hostile run with a good checksum is refused") {
  REQUIRE(replace({{"user.a", "one"}, {"user.b", "two"}}));
  const PoolOffset at = offset_of(PoolBlock(record.xattr_block));
  const std::vector<std::byte> good(medium->at(at), medium->at(at) + record.xattr_bytes);
  const auto with = [&](std::size_t place, auto value) {
    std::vector<std::byte> bad = good;
    std::memcpy(bad.data() + place, &value, sizeof value);
    std::memset(bad.data(), 0, 4);
    const std::uint32_t crc = sealed_crc(bad);
    std::memcpy(bad.data(), &crc, sizeof crc);
    medium->write(at, bad);
    return load();
  };
  REQUIRE(with(32, std::uint16_t{6}));               // as it was
  CHECK_FALSE(with(32, std::uint16_t{0}));           // no name
  CHECK_FALSE(with(32, std::uint16_t{0xffff}));      // a name over the end
  CHECK_FALSE(with(36, std::uint32_t{0xffffffff}));  // a value over the end
  CHECK_FALSE(with(36, std::uint32_t{4}));           // the next item misplaced
  CHECK_FALSE(with(24, std::uint64_t{1}));           // bytes left over
  CHECK_FALSE(with(24, std::uint64_t{3}));           // one too many
  CHECK_FALSE(with(24, ~std::uint64_t{0}));
  CHECK_FALSE(with(54, 'a'));  // the same name twice
}
