// Storage that fails in the middle of an operation while others are on their way.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <utility>
#include <vector>

#include "client/daxfs.h"
#include "tests/model/mounted.h"
#include "tests/unit/catch.h"

using namespace daxfs;
using namespace daxfs::testing;

namespace {

class FailingMedium : public HeapMedium {
 public:
  using HeapMedium::HeapMedium;
  void write(PoolOffset to, std::span<const std::byte> data) override {
    if (auto hook = std::exchange(before_write, {})) hook();
    if (std::exchange(lose_next, false)) {
      failed_ = true;
      return;
    }
    HeapMedium::write(to, data);
  }
  bool failed() const override { return failed_; }
  std::string failure() const override { return failed_ ? "a write was lost (a test)" : ""; }

  std::function<void()> before_write;  // once
  bool lose_next = false;

 private:
  bool failed_ = false;
};

}  // namespace

TEST_CASE("blocks of a truncate that was lost are not written to by others") {
  FailingMedium medium(ByteCount(4 << 20));
  format_medium(medium);
  const std::string of_a(8 * kBlockSize, 'a');
  const std::string of_b(8 * kBlockSize, 'b');
  InodeNumber a;
  {
    Mounted mounted(medium, mount_options(PinPolicy::refuse));
    Filesystem& fs = *mounted.fs;
    const auto made = [&](const std::string& name) {
      return *number_of(fs, fs.names().make_node(kRootInode, name, S_IFREG | 0644, 0, {}));
    };
    a = made("a");
    auto file_a = *fs.files().open(a, O_RDWR);
    auto file_b = *fs.files().open(made("b"), O_RDWR);
    auto filler = *fs.files().open(made("filler"), O_RDWR);
    REQUIRE(write(fs, *file_a, 0, of_a));
    REQUIRE(write(fs, *file_b, 0, of_b.substr(0, kBlockSize)));
    REQUIRE(truncate(fs, file_b->inode->number, of_b.size()));
    const std::uint64_t free = mounted.volume->allocator().free_blocks().value;
    REQUIRE(fs.space().allocate(*filler, FileOffset(0), ByteCount(free * kBlockSize), false));

    // The write has begun, and is about to look for space, when the truncate is lost on its way to
    // the journal.
    medium.before_write = [&] {
      medium.lose_next = true;
      static_cast<void>(truncate(fs, a, 0));
    };
    const auto written = write(fs, *file_b, 0, of_b);
    REQUIRE(medium.failed());
    // It found no space for the rest, and its beginning is acknowledged no more.
    CHECK(written == Result<std::size_t>(fail(EIO)));
    CHECK(mounted.volume->allocator().free_blocks() == BlockCount(0));
    CHECK_FALSE(fs.health().durable());
    fs.files().release(std::move(file_a));
    fs.files().release(std::move(file_b));
    fs.files().release(std::move(filler));
    fs.unmount();
  }
  HeapMedium later(medium.size());
  later.write(PoolOffset(0), std::span(medium.at(PoolOffset(0)), medium.size().value));
  Mounted again(later, mount_options(PinPolicy::refuse));
  auto file = *again.fs->files().open(a, O_RDONLY);
  CHECK((read(*again.fs, *file, 0, of_a.size()) == of_a));
  again.fs->files().release(std::move(file));
  again.fs->unmount();
}

namespace {

// A small tree on storage that is about to fail.
struct Tree {
  FailingMedium medium{ByteCount(4 << 20)};
  std::optional<Mounted> mounted;
  InodeNumber file{}, directory{};
  OpenFileRef open;

  Tree() {
    format_medium(medium);
    mounted.emplace(medium, mount_options(PinPolicy::defer));
    Filesystem& fs = *mounted->fs;
    file = *number_of(fs, fs.names().make_node(kRootInode, "file", S_IFREG | 0644, 0, kRoot));
    directory = *number_of(fs, fs.names().make_directory(kRootInode, "directory", 0755, kRoot));
    REQUIRE(fs.names().make_node(kRootInode, "other", S_IFREG | 0644, 0, kRoot));
    REQUIRE(fs.xattrs().set(file, "user.name", "value", 0, kRoot));
    open = *fs.files().open(file, O_RDWR);
    REQUIRE(write(fs, *open, 0, std::string(3 * kBlockSize, 'x')));
    REQUIRE(fs.space().allocate(*open, FileOffset(4 * kBlockSize), ByteCount(kBlockSize), false,
                                kRoot));
  }
  ~Tree() {
    mounted->fs->files().release(std::move(open));
    mounted->fs->unmount();
  }
};

template <class T>
int code_of(const Result<T>& result) {
  return result ? 0 : result.error().code;
}

struct Change {
  const char* name;
  std::function<int(Filesystem&, Tree&)> run;  // its errno
};

// Of names and attributes.
std::vector<Change> changes_of_names() {
  const auto attribute = [](auto set) {
    return [set](Filesystem& fs, Tree& tree) {
      AttributeChange change;
      set(change);
      return code_of(set_attributes(fs, tree.file, change));
    };
  };
  return {
      {"create",
       [](auto& fs, Tree&) {
         return code_of(fs.names().make_node(kRootInode, "new", S_IFREG | 0644, 0, kRoot));
       }},
      {"mkdir",
       [](auto& fs, Tree&) {
         return code_of(fs.names().make_directory(kRootInode, "new", 0755, kRoot));
       }},
      {"symlink",
       [](auto& fs, Tree&) {
         return code_of(fs.names().make_symlink(kRootInode, "new", "there", kRoot));
       }},
      {"link",
       [](auto& fs, Tree& tree) { return code_of(fs.names().link(tree.file, kRootInode, "new")); }},
      {"unlink", [](auto& fs, Tree&) { return code_of(fs.names().unlink(kRootInode, "other")); }},
      {"unlink an open file",
       [](auto& fs, Tree&) { return code_of(fs.names().unlink(kRootInode, "file")); }},
      {"rmdir",
       [](auto& fs, Tree&) {
         return code_of(fs.names().remove_directory(kRootInode, "directory"));
       }},
      {"rename",
       [](auto& fs, Tree& tree) {
         return code_of(rename(fs, kRootInode, "file", tree.directory, "new", 0));
       }},
      {"rename over a file",
       [](auto& fs, Tree&) {
         return code_of(rename(fs, kRootInode, "other", kRootInode, "file", 0));
       }},
      {"chmod", attribute([](AttributeChange& change) { change.mode = 0600; })},
      {"truncate to less", attribute([](AttributeChange& change) { change.size = 1; })},
      {"truncate to more", attribute([](AttributeChange& change) { change.size = 1 << 20; })},
      {"setxattr",
       [](auto& fs, Tree& tree) {
         return code_of(fs.xattrs().set(tree.file, "user.new", "value", 0, kRoot));
       }},
      {"removexattr", [](auto& fs, Tree& tree) {
         return code_of(fs.xattrs().remove(tree.file, "user.name", kRoot));
       }}};
}

std::vector<Change> changes_of_contents() {
  constexpr ByteCount kBlock{kBlockSize};
  const auto pinned = [](std::uint64_t block, std::uint32_t flags) {
    return [=](Filesystem& fs, Tree& tree) {
      return code_of(pin(fs, *tree.open, {FileOffset(block * kBlockSize), kBlock, flags}));
    };
  };
  const auto written = [](std::uint64_t offset, std::size_t length) {
    return [=](Filesystem& fs, Tree& tree) {
      return code_of(write(fs, *tree.open, offset, std::string(length, 'y')));
    };
  };
  return {
      {"write in place", written(kBlockSize, kBlockSize)},
      {"write behind the end", written(8 * kBlockSize, 100)},
      {"write in place and behind", written(0, 10 * kBlockSize)},
      {"write to preallocated blocks", written(4 * kBlockSize, 100)},
      {"append",
       [](auto& fs, Tree& tree) {
         return code_of(write(fs, *tree.open,
                              {.offset = FileOffset(5 * kBlockSize),
                               .data = std::as_bytes(std::span("y", 1)),
                               .at_end = true}));
       }},
      {"page written back",
       [](auto& fs, Tree& tree) {
         return code_of(write(fs, *tree.open,
                              {.offset = FileOffset(0),
                               .data = std::as_bytes(std::span("y", 1)),
                               .by_page_cache = true}));
       }},
      {"allocate",
       [=](auto& fs, Tree& tree) {
         return code_of(fs.space().allocate(*tree.open, FileOffset(1 << 20), kBlock, true, kRoot));
       }},
      {"zero",
       [=](auto& fs, Tree& tree) {
         return code_of(fs.space().zero_range(*tree.open, FileOffset(0), kBlock, true, kRoot));
       }},
      {"punch",
       [](auto& fs, Tree& tree) { return code_of(punch(fs, *tree.open, 0, 2 * kBlockSize)); }},
      {"punch of less than a block",
       [](auto& fs, Tree& tree) { return code_of(punch(fs, *tree.open, 1, 2)); }},
      {"long-term pin, of a process",
       [=](auto& fs, Tree& tree) {
         const Caller caller{.uid = 0, .gid = 0, .thread = ::getpid()};
         return code_of(wait_for<Result<PinId>>([&](auto done) {
           fs.pins().pin(*tree.open, {FileOffset(0), kBlock}, caller, nullptr, std::move(done));
         }));
       }},
      {"pin that allocates", pinned(9, DAXFS_PIN_SHORT | DAXFS_PIN_ALLOCATE)},
      {"pin of preallocated blocks", pinned(4, DAXFS_PIN_SHORT)}};
}

std::vector<Change> changes() {
  std::vector<Change> all = changes_of_names();
  const std::vector<Change> more = changes_of_contents();
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

}  // namespace

TEST_CASE("what was lost on its way to the storage is acknowledged by no operation") {
  for (const Change& change : changes()) {
    INFO(change.name);
    Tree tree;
    Filesystem& fs = *tree.mounted->fs;
    REQUIRE(fs.health().durable());
    tree.medium.lose_next = true;
    CHECK(change.run(fs, tree) == EIO);
    CHECK(tree.medium.failed());
    CHECK(fs.health().durable() == Status(fail(EIO)));
  }
}

TEST_CASE("once the storage has failed, no operation that changes something succeeds") {
  Tree tree;
  Filesystem& fs = *tree.mounted->fs;
  tree.medium.lose_next = true;
  CHECK(code_of(fs.names().make_node(kRootInode, "first", S_IFREG | 0644, 0, kRoot)) == EIO);
  for (const Change& change : changes()) {
    INFO(change.name);
    CHECK(change.run(fs, tree) == EIO);
  }
  CHECK(code_of(pin(fs, *tree.open, {FileOffset(0), ByteCount(kBlockSize), DAXFS_PIN_SHORT})) ==
        EIO);
  CHECK(code_of(read(fs, *tree.open, 0, kBlockSize)) == 0);
}
