// A check of a filesystem in use: finds what was planted, and nothing else.
#include "src/scrub.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/crc32c.h"
#include "blockmap/dir_entry.h"
#include "blockmap/layout.h"
#include "blockmap/pin_record_scan.h"
#include "client/daxfs.h"
#include "src/control_directory.h"
#include "tests/model/mounted.h"
#include "tests/unit/catch.h"
#include "tests/unit/test_volume.h"

using namespace daxfs;
using namespace daxfs::testing;
using daxfs::test::flip_bit;
using nlohmann::json;

namespace {

struct Scrubbed {
  std::vector<json> findings;
  json summary;

  std::size_t count(std::string_view code, std::string_view severity = {}) const {
    for (const json& one : findings) UNSCOPED_INFO(one.dump());
    return static_cast<std::size_t>(std::ranges::count_if(findings, [&](const json& one) {
      return one["code"] == code && (severity.empty() || one["severity"] == severity);
    }));
  }
  bool clean() const {
    for (const json& one : findings) UNSCOPED_INFO(one.dump());
    return summary["clean"].get<bool>() && findings.empty();
  }
  std::uint64_t number(const char* key) const { return summary[key].get<std::uint64_t>(); }
};

Scrubbed finish(Scrub& scrub, const std::function<void()>& after_each_step = {}) {
  std::string lines;
  while (scrub.step(lines)) {
    if (after_each_step) after_each_step();
  }
  Scrubbed result;
  std::istringstream in(lines);
  for (std::string line; std::getline(in, line);) {
    const json one = json::parse(line);
    if (one.contains("finding")) result.findings.push_back(one["finding"]);
    if (one.contains("summary")) result.summary = one["summary"];
  }
  REQUIRE(result.summary.is_object());
  REQUIRE(result.number("found") == result.findings.size());
  return result;
}

constexpr std::uint64_t kBlock = kBlockSize;

// /dir/pieces (with an extent block), /dir/small, /link, /pinned; attributes; mounted.
struct Fixture {
  explicit Fixture(PinPolicy policy = PinPolicy::defer) {
    format_medium(medium);
    mounted = std::make_unique<Mounted>(medium, mount_options(policy));
    dir = made(fs().names().make_directory(kRootInode, "dir", 0755, {}));
    pieces = made(fs().names().make_node(dir, "pieces", S_IFREG | 0644, 0, {}));
    small = made(fs().names().make_node(dir, "small", S_IFREG | 0644, 0, {}));
    link = made(fs().names().make_symlink(kRootInode, "link", "dir/small", {}));
    pinned = made(fs().names().make_node(kRootInode, "pinned", S_IFREG | 0644, 0, {}));
    for (std::uint64_t block = 0; block < 40; block += 2) put(pieces, block, 1);
    put(small, 0, 3);
    REQUIRE(fs().xattrs().set(small, "user.a", std::string(5000, 'x'), 0, {}));
  }
  ~Fixture() {
    if (mounted) fs().unmount();
  }

  Filesystem& fs() { return *mounted->fs; }
  Volume& volume() { return *mounted->volume; }
  InodeNumber made(const Result<Entry>& entry) {
    const auto number = number_of(fs(), entry);
    REQUIRE(number);
    return *number;
  }
  OpenFileRef open(InodeNumber inode) {
    auto file = fs().files().open(inode, O_RDWR);
    REQUIRE(file);
    return std::move(*file);
  }
  void put(InodeNumber inode, std::uint64_t block, std::uint64_t count) {
    auto file = open(inode);
    const auto written = write(fs(), *file, block * kBlock, std::string(count * kBlock, 'd'));
    REQUIRE((written && *written == count * kBlock));
    fs().files().release(std::move(file));
  }
  // The first eight, by somebody who can be recorded as their owner.
  Result<PinId> pin_blocks(OpenFile& file) {
    const PinRange range{.offset = FileOffset(0),
                         .length = ByteCount(8 * kBlock),
                         .flags = DAXFS_PIN_ALLOCATE | DAXFS_PIN_WRITE};
    const Caller caller{.uid = getuid(), .gid = getgid(), .thread = getpid()};
    return wait_for<Result<PinId>>(
        [&](auto done) { fs().pins().pin(file, range, caller, nullptr, std::move(done)); });
  }
  void remount() {
    fs().unmount();
    mounted.reset();
    mounted = std::make_unique<Mounted>(medium, mount_options(PinPolicy::defer));
  }
  Scrubbed scrub(const std::function<void()>& after_each_step = {}) {
    auto begun = Scrub::begin(fs());
    REQUIRE(begun);
    return finish(**begun, after_each_step);
  }
  std::string stopped() {
    std::string lines;
    std::uint64_t cursor = 0;
    REQUIRE(fs().reports().report(DAXFS_QUERY_STATUS, cursor, 16000, lines, nullptr, {}));
    const json why = json::parse(lines)["stopped"];
    return why.is_null() ? "" : why.get<std::string>();
  }
  // Nothing is changed any more, and what is there can be read.
  void require_stopped() {
    CHECK_FALSE(stopped().empty());
    const auto refused = fs().names().make_node(kRootInode, "new", S_IFREG | 0644, 0, {});
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == EIO);
    CHECK(fs().files().open(small, O_RDWR).error().code == EIO);
    auto file = fs().files().open(small, O_RDONLY);
    REQUIRE(file);
    const auto text = read(fs(), **file, 0, 10);
    CHECK((text && *text == std::string(10, 'd')));
    fs().files().release(std::move(*file));
  }
  void require_goes_on() {
    CHECK(stopped().empty());
    CHECK(fs().names().make_node(kRootInode, "new", S_IFREG | 0644, 0, {}));
  }

  PoolOffset slot(InodeNumber inode) { return volume().inodes().slot(inode); }
  PoolOffset extent(InodeNumber inode, std::size_t i) {
    return slot(inode) +
           ByteCount(offsetof(pmem::InodeSlot, extents) + i * sizeof(pmem::ExtentRecord));
  }
  PoolBlock first_block(InodeNumber inode) {
    return PoolBlock(medium.load<pmem::ExtentRecord>(extent(inode, 0)).pool_block);
  }
  template <class T>
  void put_object(PoolOffset at, const T& object) {
    medium.store(at, std::as_bytes(std::span(&object, 1)));
  }

  HeapMedium medium{ByteCount(16 << 20)};
  std::unique_ptr<Mounted> mounted;
  InodeNumber dir, pieces, small, link, pinned;
};

struct Pinned : Fixture {
  explicit Pinned(PinPolicy policy = PinPolicy::defer) : Fixture(policy) {
    holder = open(pinned);
    const auto taken = pin_blocks(*holder);
    REQUIRE(taken);
    id = *taken;
    REQUIRE(punch(fs(), *holder, 2 * kBlock, 3 * kBlock));
    REQUIRE(fs().gate().totals().limbo.value == 3);
  }
  ~Pinned() { fs().files().release(std::move(holder)); }
  OpenFileRef holder;
  PinId id;
};

}  // namespace

TEST_CASE_METHOD(Pinned, "a scrub of a sound filesystem finds nothing, and counts every block") {
  const Scrubbed result = scrub();
  CHECK(result.clean());
  CHECK(result.number("files") == 4);
  CHECK(result.number("directories") == 2);
  CHECK(result.number("pins") == 1);
  CHECK(result.number("limbo") == 3 * kBlock);
  CHECK(result.number("owned") + result.number("limbo") + result.number("free") ==
        result.number("total"));
  CHECK(result.summary["stopped"].is_null());
  require_goes_on();
  CHECK(scrub().clean());
}

TEST_CASE_METHOD(Fixture, "one scrub at a time, and for those who may switch policies") {
  ControlDirectory control(fs());
  const auto node = control.lookup(ControlDirectory::kDirectory, "scrub");
  REQUIRE(node);
  CHECK((node->attributes.st_mode & 0777) == 0400);
  const auto nothing = [](HolderId) {};
  const auto other = control.open(node->inode, {.uid = getuid() + 12345}, nothing);
  REQUIRE_FALSE(other);
  CHECK(other.error().code == EPERM);
  const auto first = control.open(node->inode, {.uid = getuid()}, nothing);
  REQUIRE(first);
  CHECK(control.open(node->inode, {.uid = getuid()}, nothing).error().code == EBUSY);
  CHECK(Scrub::begin(fs()).error().code == EBUSY);
  std::string all;
  for (;;) {
    const auto some = (*first)->read(all.size(), 100);
    REQUIRE(some);
    if (some->empty()) break;
    all += *some;
  }
  CHECK(all.find("\"clean\":true") != all.npos);
  control.close(*first);
  CHECK(scrub().clean());
}

TEST_CASE_METHOD(Fixture, "a scrub finds a flipped bit wherever it is, and the rest goes on") {
  remount();
  const bool used = GENERATE(true, false);
  std::vector<OpenFileRef> in_memory;
  if (used) {
    REQUIRE(fs().names().lookup(kRootInode, "dir"));
    for (const InodeNumber inode : {small, pieces}) in_memory.push_back(open(inode));
    REQUIRE(fs().names().lookup(dir, "small"));
  }
  SECTION("superblock A") {
    flip_bit(medium, PoolOffset(70), 3);
    CHECK(scrub().count("superblock", "repairable") == 1);
  }
  SECTION("superblock B") {
    flip_bit(medium, offset_of(superblock_b(medium)) + ByteCount(70), 3);
    CHECK(scrub().count("superblock", "repairable") == 1);
  }
  SECTION("pool state") {
    flip_bit(medium, offset_of(kStateBlock) + ByteCount(100), 0);
    CHECK(scrub().count("pool-state") == 1);
  }
  SECTION("the header of the pin records") {
    flip_bit(medium, offset_of(PoolBlock(volume().superblock().pin_region_start)) + ByteCount(20),
             0);
    CHECK(scrub().count("pin-blocks") == 1);
  }
  SECTION("an inode's record") {
    flip_bit(medium, slot(small) + ByteCount(offsetof(pmem::InodeRecord, uid)), 4);
    CHECK(scrub().count("inode-record", "repairable") == 1);
  }
  SECTION("an inode's record, twice") {
    for (const unsigned bit : {1u, 6u}) flip_bit(medium, slot(small) + ByteCount(20), bit);
    CHECK(scrub().count("inode-record") == 1);
  }
  SECTION("an extent") {
    flip_bit(medium, extent(small, 0), 2);
    CHECK(scrub().count("extent-record", "repairable") == 1);
  }
  SECTION("the header of an extent block") {
    const auto record = medium.load<pmem::InodeRecord>(slot(pieces));
    REQUIRE(record.extent_block != 0);
    flip_bit(medium, offset_of(PoolBlock(record.extent_block)) + ByteCount(9), 2);
    CHECK(scrub().count("extent-chain", "repairable") == 1);
  }
  SECTION("an attribute") {
    const auto record = medium.load<pmem::InodeRecord>(slot(small));
    flip_bit(medium, offset_of(PoolBlock(record.xattr_block)) + ByteCount(3000), 2);
    CHECK(scrub().count("xattrs", "repairable") == 1);
  }
  SECTION("an access control list") {
    constexpr std::string_view list(
        "\2\0\0\0\1\0\6\0\xff\xff\xff\xff\4\0\4\0\xff\xff\xff\xff"
        "\x10\0\4\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff",
        36);
    REQUIRE(fs().xattrs().set(small, std::string(kAccessAcl), list, 0, {}));
    CHECK(scrub().clean());
    const auto record = medium.load<pmem::InodeRecord>(slot(small));
    const PoolOffset run = offset_of(PoolBlock(record.xattr_block));
    std::vector<std::byte> image(record.xattr_bytes);
    std::memcpy(image.data(), medium.at(run), image.size());
    const std::string_view text(reinterpret_cast<const char*>(image.data()), image.size());
    image[text.find(list) + 4] = std::byte{4};  // no owner
    std::memset(image.data(), 0, 4);
    const std::uint32_t crc = sealed_crc(image);
    std::memcpy(image.data(), &crc, sizeof crc);
    medium.write(run, image);
    CHECK(scrub().count("acl", "data-loss") == 1);
  }
  SECTION("a name") {
    flip_bit(medium, offset_of(first_block(dir)) + ByteCount(sizeof(pmem::DirEntryHeader)), 1);
    CHECK(scrub().count("entry-damaged", "repairable") == 1);
  }
  SECTION("a free slot") {
    flip_bit(medium, slot(InodeNumber{500}) + ByteCount(200), 1);
    CHECK(scrub().count("free-slot", "repairable") == 1);
  }
  CHECK(stopped().empty());
  // Here it ends: what was damaged stays so.
  in_memory.clear();
  mounted.reset();
}

TEST_CASE_METHOD(Pinned, "a scrub finds a damaged pin record") {
  const auto pins = fs().gate().pins_after(PinId{0}, 10);
  REQUIRE((pins.size() == 1 && pins.front().record != 0));
  flip_bit(medium, offset_of(PinSlot{pins.front().record}) + ByteCount(60), 1);
  const Scrubbed result = scrub();
  CHECK(result.count("pin-record") == 1);
  CHECK(result.findings.size() == 1);
  require_goes_on();
  flip_bit(medium, offset_of(PinSlot{pins.front().record}) + ByteCount(60), 1);
}

TEST_CASE_METHOD(Pinned, "a block that is free and somebody's stops the filesystem") {
  const auto expect = [&](PoolBlock block) {
    REQUIRE(volume().allocator().free({block, BlockCount(1)}));
    const Scrubbed result = scrub();
    CHECK(result.count("free-block") >= 1);
    CHECK(result.findings.size() == result.count("free-block"));
    CHECK(result.summary["stopped"].is_string());
    require_stopped();
    std::vector<PoolRange> taken;
    REQUIRE(volume().allocator().allocate(BlockCount(1), block, taken));
    REQUIRE(taken.front().start == block);
  };
  SECTION("a file's") { expect(first_block(small)); }
  SECTION("a directory's") { expect(first_block(dir)); }
  SECTION("an extent block") {
    expect(PoolBlock(medium.load<pmem::InodeRecord>(slot(pieces)).extent_block));
  }
  SECTION("one in limbo") { expect(fs().gate().limbo_from(PoolBlock(0), 1).front().range.start); }
}

TEST_CASE_METHOD(Fixture, "blocks that nobody has are told, and do no harm") {
  std::vector<PoolRange> leaked;
  REQUIRE(volume().allocator().allocate(BlockCount(3), PoolBlock(0), leaked));
  const Scrubbed result = scrub();
  CHECK(result.count("lost-blocks", "repairable") == leaked.size());
  CHECK(result.findings.size() == leaked.size());
  require_goes_on();
  remount();
  CHECK(scrub().clean());
}

TEST_CASE_METHOD(Fixture, "a block that two files have is told with both, and stops all changes") {
  const PoolBlock block = first_block(small);
  remount();
  auto stolen = medium.load<pmem::ExtentRecord>(extent(pieces, 1));
  stolen.pool_block = block.value;
  seal(stolen);
  put_object(extent(pieces, 1), stolen);
  const Scrubbed result = scrub();
  REQUIRE(result.count("shared-blocks") == 1);
  CHECK(result.count("lost-blocks") == 1);  // what lay there before
  const auto told = std::ranges::find_if(
      result.findings, [](const json& one) { return one["code"] == "shared-blocks"; });
  for (const InodeNumber inode : {small, pieces}) {
    const std::string name = "inode " + std::to_string(inode.value);
    CHECK((*told)["text"].get<std::string>().find(name) != std::string::npos);
  }
  require_stopped();
}

TEST_CASE_METHOD(Fixture, "a medium that says something else than memory stops all changes") {
  SECTION("a record") {
    const auto file = fs().files().open(small, O_RDONLY);  // in use, so in memory
    REQUIRE(file);
    auto record = medium.load<pmem::InodeRecord>(slot(small));
    record.uid += 1;
    seal(record, pmem::kInodeCrcBytes);
    put_object(slot(small), record);
    const Scrubbed result = scrub();
    CHECK(result.count("memory") == 1);
    CHECK(result.findings.size() == 1);
    require_stopped();
  }
  SECTION("a name") {
    REQUIRE(fs().names().lookup(kRootInode, "dir"));
    REQUIRE(fs().names().lookup(dir, "small"));  // so in memory
    auto header = medium.load<pmem::DirEntryHeader>(offset_of(first_block(dir)));
    const PoolOffset name = offset_of(first_block(dir)) + ByteCount(sizeof header);
    REQUIRE(medium.load<char>(name) == 'p');
    put_object(name, 'q');
    header.crc = entry_crc(dir, header, name_at(medium, offset_of(first_block(dir))));
    put_object(offset_of(first_block(dir)), header);
    CHECK(scrub().count("memory") == 1);
    require_stopped();
  }
}

TEST_CASE_METHOD(Fixture, "a name that leads nowhere is told") {
  remount();
  put_object(slot(small), pmem::InodeSlot{});
  const Scrubbed result = scrub();
  CHECK(result.count("entry-dangling") == 1);
  CHECK(result.count("lost-blocks") >= 1);
  mounted.reset();
}

TEST_CASE_METHOD(Pinned, "what changes while a scrub is under way is no damage") {
  int step = 0;
  // Blocks go round between all states: new files, limbo, the free space, and files again.
  const auto change = [&] {
    const std::string name = "file" + std::to_string(step++ % 7);
    static_cast<void>(fs().names().unlink(kRootInode, name));
    const InodeNumber file = made(fs().names().make_node(kRootInode, name, S_IFREG | 0644, 0, {}));
    put(file, 0, 5);
    REQUIRE(unpin(fs(), *holder, id));
    const auto taken = pin_blocks(*holder);
    REQUIRE(taken);
    id = *taken;
    REQUIRE(punch(fs(), *holder, (step % 5) * kBlock, 3 * kBlock));
  };
  for (int round = 0; round < 50; ++round) {
    change();
    auto begun = Scrub::begin(fs(), std::chrono::milliseconds(0));
    REQUIRE(begun);
    change();
    CHECK(finish(**begun, change).clean());
  }
}

TEST_CASE("under pin_policy=ignore a pinned block may be anybody's: that is no finding") {
  Fixture fixture(PinPolicy::ignore);
  auto holder = fixture.open(fixture.pinned);
  REQUIRE(fixture.pin_blocks(*holder));
  REQUIRE(punch(fixture.fs(), *holder, 0, 8 * kBlock));
  CHECK(fixture.scrub().clean());
  fixture.put(fixture.small, 3, 20);
  CHECK(fixture.scrub().clean());
  fixture.fs().files().release(std::move(holder));
}
