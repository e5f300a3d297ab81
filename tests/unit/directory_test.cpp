#include "blockmap/directory.h"

#include <dirent.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "base/crc32c.h"
#include "tests/unit/catch.h"
#include "tests/unit/test_volume.h"

using namespace daxfs;
using namespace daxfs::test;

namespace {

struct Fixture {
  explicit Fixture(ByteCount size = ByteCount(32 << 20))
      : medium(make_pool(size)),
        volume(open_volume(*medium)),
        root(open_inode(*volume, kRootInode)) {
    free_at_start = free_blocks();
  }

  void insert(std::string_view name, std::uint64_t inode, std::uint8_t type = DT_REG) {
    Transaction tx;
    REQUIRE(root.directory->prepare_insert(tx, root.record, name.size()));
    root.directory->insert(tx, name, InodeNumber(inode), type);
    commit(tx);
  }
  void remove(std::string_view name) { unlink(*volume, root, name, nullptr); }
  void replace(std::string_view name, std::uint64_t inode) {
    Transaction tx;
    root.directory->replace(tx, name, InodeNumber(inode), DT_LNK);
    commit(tx);
  }
  void commit(Transaction& tx) {
    volume->inodes().stage(tx, root.number, root.record);
    REQUIRE(volume->journal().commit(tx));
  }
  // Builds everything that lives in DRAM anew.
  void reload() { root = open_inode(*volume, kRootInode); }
  std::uint64_t free_blocks() const { return volume->allocator().free_blocks().value; }

  std::vector<std::string> list() const {
    std::vector<std::string> names;
    for (auto e = root.directory->next(0); e; e = root.directory->next(e->cookie)) {
      names.emplace_back(e->name);
    }
    return names;
  }
  // Where the entry lies on the medium.
  PoolOffset place(std::string_view name) const {
    const char* text = root.directory->find(name)->name.data();
    const auto distance = reinterpret_cast<const std::byte*>(text) - medium->at(PoolOffset(0));
    return PoolOffset(static_cast<std::uint64_t>(distance) - sizeof(pmem::DirEntryHeader));
  }
  bool loads() {
    return Directory::load(*medium, volume->allocator(), kRootInode, *root.map).has_value();
  }

  std::unique_ptr<FenceMedium> medium;
  std::unique_ptr<Volume> volume;
  OpenInode root;
  std::uint64_t free_at_start = 0;
};

struct Target {
  std::uint64_t inode;
  std::uint8_t type;
};
using Model = std::map<std::string, Target>;

void compare(const Fixture& f, const Model& model) {
  REQUIRE(f.root.directory->size() == model.size());
  REQUIRE(f.root.directory->empty() == model.empty());
  std::size_t seen = 0;
  std::uint64_t before = 2;
  for (auto e = f.root.directory->next(0); e; e = f.root.directory->next(e->cookie)) {
    REQUIRE(e->cookie > before);
    before = e->cookie;
    const auto it = model.find(std::string(e->name));
    REQUIRE(it != model.end());
    REQUIRE(e->inode.value == it->second.inode);
    REQUIRE(e->type == it->second.type);
    ++seen;
  }
  REQUIRE(seen == model.size());
  REQUIRE(f.root.record.blocks == f.root.map->mapped().value);
  const auto last = f.root.map->last();
  REQUIRE(f.root.record.size == (last ? offset_of(last->end()).value : 0));
}

}  // namespace

TEST_CASE_METHOD(Fixture, "an empty directory has no entries and no blocks") {
  CHECK(root.directory->empty());
  CHECK_FALSE(root.directory->find("a"));
  for (const std::uint64_t cookie : {0ull, 1ull, 2ull, 3ull, 1ull << 40, ~0ull}) {
    CHECK_FALSE(root.directory->next(cookie));
  }
  CHECK(root.record.size == 0);
}

TEST_CASE_METHOD(Fixture, "entries are found, replaced and removed") {
  insert("a", 10);
  insert("b", 11, DT_DIR);
  const auto a = root.directory->find("a");
  REQUIRE(a);
  CHECK(a->inode.value == 10);
  CHECK(a->type == DT_REG);
  CHECK(a->name == "a");
  CHECK(root.directory->find("b")->type == DT_DIR);
  CHECK_FALSE(root.directory->find("ab"));
  CHECK_FALSE(root.directory->find(""));
  CHECK(root.record.size == kBlockSize);
  CHECK(root.record.blocks == 1);

  replace("a", 99);
  CHECK(root.directory->find("a")->inode.value == 99);
  CHECK(root.directory->find("a")->type == DT_LNK);
  CHECK(root.directory->find("a")->cookie == a->cookie);
  reload();
  CHECK(root.directory->find("a")->inode.value == 99);

  remove("a");
  CHECK_FALSE(root.directory->find("a"));
  CHECK(root.record.blocks == 1);
  remove("b");
  CHECK(root.directory->empty());
  CHECK(root.record.blocks == 0);
  CHECK(root.record.size == 0);
  CHECK(free_blocks() == free_at_start);
  reload();
  CHECK(root.directory->empty());
}

TEST_CASE_METHOD(Fixture, "names of every length, and of every byte") {
  Model model;
  for (std::size_t length = 1; length <= pmem::kMaxName; ++length) {
    const std::string name(length, static_cast<char>('a' + length % 26));
    insert(name, length + 1);
    model[name] = {length + 1, DT_REG};
  }
  for (int c = 1; c < 256; ++c) {
    if (c == '/') continue;
    const std::string name{'_', static_cast<char>(c)};
    if (model.contains(name)) continue;
    insert(name, 7);
    model[name] = {7, DT_REG};
  }
  compare(*this, model);
  reload();
  compare(*this, model);
  for (const auto& [name, target] : model) remove(name);
  CHECK(free_blocks() == free_at_start);
}

TEST_CASE_METHOD(Fixture, "random changes agree with a map, in DRAM and on the medium") {
  std::mt19937 random(GENERATE(1u, 2u, 3u));
  Model model;
  const auto any = [&] { return std::next(model.begin(), random() % model.size())->first; };
  for (int step = 0; step < 6000; ++step) {
    // Grows for a while, then shrinks to nothing, so that blocks come and go.
    const bool shrinking = step / 1000 % 2 == 1;
    const auto dice = random() % 10;
    if (model.empty() || dice < (shrinking ? 2 : 7)) {
      const std::size_t longest = random() % 4 == 0 ? 255 : 20;
      std::string name(1 + random() % longest, 'a');
      for (char& c : name) c = static_cast<char>('a' + random() % 26);
      if (model.contains(name)) continue;
      const std::uint64_t inode = 1 + random() % 1000;
      insert(name, inode);
      model[name] = {inode, DT_REG};
    } else if (dice < 9) {
      const std::string name = any();
      remove(name);
      model.erase(name);
      REQUIRE_FALSE(root.directory->find(name));
    } else {
      const std::string name = any();
      replace(name, 5000);
      model[name] = {5000, DT_LNK};
    }
    if (step % 200 == 0) {
      compare(*this, model);
      reload();
      compare(*this, model);
      for (const auto& [name, target] : model) REQUIRE(root.directory->find(name));
    }
  }
  while (!model.empty()) {
    remove(model.begin()->first);
    model.erase(model.begin());
  }
  compare(*this, model);
  CHECK(free_blocks() == free_at_start);
}

TEST_CASE_METHOD(Fixture,
                 "thousands of entries are found after a reload, in as few blocks as they need") {
  constexpr int kCount = 20000;
  for (int i = 0; i < kCount; ++i) {
    insert("file-" + std::to_string(i), static_cast<std::uint64_t>(i) + 2);
  }
  reload();
  CHECK(root.directory->size() == kCount);
  CHECK(list().size() == kCount);
  for (int i = 0; i < kCount; ++i) {
    const auto entry = root.directory->find("file-" + std::to_string(i));
    REQUIRE(entry);
    REQUIRE(entry->inode.value == static_cast<std::uint64_t>(i) + 2);
  }
  // 64 short names a block, and no block is left half used by appending.
  CHECK(root.record.blocks == (kCount + 63) / 64);
}

TEST_CASE_METHOD(Fixture,
                 "a reader sees every lasting entry exactly once while others come and go") {
  std::mt19937 random(7);
  std::set<std::string> lasting;
  std::set<std::string> fleeting;
  for (int i = 0; i < 3000; ++i) {
    const std::string name = std::to_string(i) + std::string(random() % 100, 'x');
    insert(name, 5);
    (i % 3 == 0 ? lasting : fleeting).insert(name);
  }
  std::multiset<std::string> seen;
  std::uint64_t cookie = 0;
  int extra = 0;
  while (const auto entry = root.directory->next(cookie)) {
    const std::string name(entry->name);
    cookie = entry->cookie;
    seen.insert(name);
    // Often the entry that the cookie stands for goes away, and with it sometimes its whole block.
    if (fleeting.contains(name) && random() % 2 == 0) {
      remove(name);
      fleeting.erase(name);
    }
    for (int i = 0; i < 2 && !fleeting.empty(); ++i) {
      remove(*fleeting.begin());
      fleeting.erase(fleeting.begin());
    }
    if (random() % 4 == 0) insert("extra" + std::to_string(extra++), 6);
    if (random() % 500 == 0) reload();
    REQUIRE(seen.size() < 10000);
  }
  for (const std::string& name : lasting) REQUIRE(seen.count(name) == 1);
  for (const std::string& name : std::set(seen.begin(), seen.end())) REQUIRE(seen.count(name) == 1);
}

TEST_CASE_METHOD(Fixture, "emptied blocks in the middle and at the end leave the directory") {
  std::vector<std::vector<std::string>> blocks(4);
  for (std::size_t i = 0; i < 4 * 64; ++i) {
    blocks[i / 64].push_back("name" + std::to_string(i));
    insert(blocks[i / 64].back(), 9);
  }
  REQUIRE(root.record.blocks == 4);
  for (const std::string& name : blocks[1]) remove(name);
  CHECK(root.record.blocks == 3);
  CHECK(root.record.size == 4 * kBlockSize);
  CHECK(root.map->size() == 2);
  reload();
  CHECK(root.directory->size() == 3 * 64);
  CHECK(list().front() == blocks[0].front());

  // The hole is used again before the directory gets longer.
  insert("again", 3);
  CHECK(root.record.blocks == 4);
  CHECK(root.record.size == 4 * kBlockSize);
  remove("again");

  // A hole below the end is no part of the tail's size.
  for (const std::string& name : blocks[2]) remove(name);
  for (const std::string& name : blocks[3]) remove(name);
  CHECK(root.record.blocks == 1);
  CHECK(root.record.size == kBlockSize);
  for (int i = 0; i < 64; ++i) insert("new" + std::to_string(i), 3);
  CHECK(root.record.size == 2 * kBlockSize);
  reload();
  CHECK(root.directory->size() == 128);
}

TEST_CASE_METHOD(Fixture, "a full pool refuses an entry and changes nothing") {
  for (int i = 0; i < 64; ++i) insert("name" + std::to_string(i), 9);
  std::vector<PoolRange> taken;
  REQUIRE(volume->allocator().allocate(BlockCount(free_blocks()), PoolBlock(0), taken));
  const pmem::InodeRecord before = root.record;
  Transaction tx;
  CHECK(root.directory->prepare_insert(tx, root.record, 3).error().code == ENOSPC);
  CHECK(std::memcmp(&before, &root.record, sizeof before) == 0);
  CHECK(tx.empty());
  CHECK(root.map->size() == 1);
  // Removing one makes room for one.
  remove("name7");
  insert("other", 9);
  CHECK(root.directory->prepare_insert(tx, root.record, 3).error().code == ENOSPC);
}

TEST_CASE_METHOD(Fixture, "a rename in one transaction, in either order") {
  const bool remove_first = GENERATE(false, true);
  const std::string from = "from";
  const std::string to = GENERATE(std::string("to"), std::string(255, 't'));
  insert(from, 77);
  Transaction tx;
  std::vector<PoolRange> released;
  REQUIRE(root.directory->prepare_insert(tx, root.record, to.size()));
  if (remove_first) root.directory->remove(tx, root.record, from, released);
  root.directory->insert(tx, to, InodeNumber(77), DT_REG);
  if (!remove_first) root.directory->remove(tx, root.record, from, released);
  commit(tx);
  free_ranges(*volume, released);
  for (int i = 0; i < 2; ++i) {
    CHECK(list() == std::vector{to});
    CHECK(root.directory->find(to)->inode.value == 77);
    CHECK_FALSE(root.directory->find(from));
    reload();
  }
  remove(to);
  CHECK(free_blocks() == free_at_start);
}

TEST_CASE_METHOD(Fixture, "damaged entries are refused") {
  insert("first", 10);
  insert(std::string(200, 'l'), 11);
  REQUIRE(loads());
  for (const std::string& name : {std::string("first"), std::string(200, 'l')}) {
    const PoolOffset at = place(name);
    for (std::uint64_t bit = 0; bit < (16 + name.size()) * 8; ++bit) {
      flip_bit(*medium, at + ByteCount(bit / 8), bit % 8);
      REQUIRE_FALSE(loads());
      flip_bit(*medium, at + ByteCount(bit / 8), bit % 8);
    }
  }
  REQUIRE(loads());
}

TEST_CASE_METHOD(Fixture, "hostile entries with good checksums are refused") {
  insert("abc", 10);
  const PoolOffset at = place("abc");
  const auto with = [&](pmem::DirEntryHeader header, std::string_view name, ByteCount shift) {
    header.crc = 0;
    const std::uint64_t directory = kRootInode.value;
    std::uint32_t crc = crc32c(std::as_bytes(std::span(&directory, 1)));
    crc = crc32c(std::as_bytes(std::span(&header, 1)), crc);
    header.crc = sealed_crc(std::as_bytes(std::span(name)), crc);
    medium->store(at + shift, std::as_bytes(std::span(&header, 1)));
    medium->store(at + shift + ByteCount(sizeof header), std::as_bytes(std::span(name)));
    return loads();
  };
  const auto good = medium->load<pmem::DirEntryHeader>(at);
  const ByteCount here(0);
  const ByteCount behind(pmem::kGranuleBytes);
  REQUIRE(with(good, "abc", here));
  CHECK(with(good, "abd", behind));        // a second one
  CHECK_FALSE(with(good, "abc", behind));  // the same name twice
  CHECK(with(good, "abe", behind));
  CHECK_FALSE(with(good, "a/c", here));
  CHECK_FALSE(with(good, std::string_view("a\0c", 3), here));
  auto header = good;
  header.name_length = 2;
  CHECK_FALSE(with(header, "..", here));
  header.name_length = 1;
  CHECK_FALSE(with(header, ".", here));
  header.name_length = 0;
  CHECK_FALSE(with(header, "", here));
  header = good;
  header.inode = 0;
  CHECK_FALSE(with(header, "abc", here));
  header = good;
  header.type = 3;
  CHECK_FALSE(with(header, "abc", here));
  header = good;
  header.granules = 2;
  CHECK_FALSE(with(header, "abc", here));
  REQUIRE(with(good, "abc", here));
  header = good;
  header.granules = 5;
  header.name_length = 255;
  const std::string longest(255, 'z');
  const ByteCount last_place(59 * pmem::kGranuleBytes);
  CHECK(with(header, longest, last_place));
  medium->zero(at + last_place, ByteCount(5 * pmem::kGranuleBytes));
  CHECK_FALSE(with(header, longest, last_place + behind));  // over the end of the block
}

TEST_CASE_METHOD(Fixture, "a directory with unwritten or far away blocks is refused") {
  std::vector<PoolRange> taken;
  REQUIRE(volume->allocator().allocate(BlockCount(1), PoolBlock(0), taken));
  medium->zero(offset_of(taken.front().start), bytes(BlockCount(1)));
  Transaction tx;
  SECTION("unwritten") {
    root.map->insert(tx, {FileBlock(0), taken.front().start, BlockCount(1), true});
    CHECK_FALSE(loads());
  }
  SECTION("too far") {
    root.map->insert(tx, {FileBlock(1ull << 32), taken.front().start, BlockCount(1), false});
    CHECK_FALSE(loads());
  }
  SECTION("far, but possible") {
    root.map->insert(tx, {FileBlock(0xfffffff0), taken.front().start, BlockCount(1), false});
    root.record.blocks = 1;
    root.record.size = bytes(BlockCount(0xfffffff1)).value;
    commit(tx);
    REQUIRE(loads());
    reload();
    insert("a", 4);
    CHECK(root.directory->find("a")->cookie > 0xfffffff0ull * 64);
    CHECK(list() == std::vector<std::string>{"a"});
    CHECK_FALSE(root.directory->next(root.directory->find("a")->cookie));
  }
}
