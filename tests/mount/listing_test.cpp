// readdir: complete, each entry once, and stable while names come and go.
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <map>
#include <memory>
#include <set>

#include "tests/mount/file_helpers.h"
#include "tests/mount/mount_fixture.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

struct CloseDirectory {
  void operator()(DIR* directory) const { closedir(directory); }
};
using Directory = std::unique_ptr<DIR, CloseDirectory>;

Directory open_directory(const std::string& path) {
  Directory directory(opendir(path.c_str()));
  REQUIRE(directory);
  return directory;
}

std::string name_of(int i) {
  return "entry-" + std::to_string(i) + std::string(static_cast<std::size_t>(i % 90), '.');
}

void make_entries(const Mount& mount, int count) {
  for (int i = 0; i < count; ++i) {
    const int fd = open(mount.path(name_of(i)).c_str(), O_CREAT | O_EXCL | O_WRONLY, 0644);
    REQUIRE(fd >= 0);
    close(fd);
  }
}

std::multiset<std::string> names(DIR* directory) {
  std::multiset<std::string> found;
  while (const dirent* entry = readdir(directory)) found.insert(entry->d_name);
  return found;
}

}  // namespace

TEST_CASE("5000 entries are listed once each while they are deleted") {
  constexpr int kCount = 5000;
  Mount mount;
  const std::uint64_t before = mount.free();
  make_entries(mount, kCount);
  std::set<std::string> seen;
  {
    const Directory directory = open_directory(mount.path());
    while (const dirent* entry = readdir(directory.get())) {
      const std::string name = entry->d_name;
      if (name == "." || name == "..") continue;
      CHECK(entry->d_type == DT_REG);
      REQUIRE(seen.insert(name).second);
      REQUIRE(unlink(mount.path(name).c_str()) == 0);
    }
  }
  CHECK(seen.size() == kCount);
  CHECK(names(open_directory(mount.path()).get()) == std::multiset<std::string>{".", ".."});
  // More inodes than were set aside take blocks for good; what they leave is no file's.
  mount.unmount();
  const std::uint64_t sound = mount.check_pool();
  CHECK(sound <= before);
  mount.mount();
  CHECK(mount.free() == sound);
}

TEST_CASE("places in a directory stay what they are") {
  constexpr int kCount = 600;
  Mount mount;
  make_entries(mount, kCount);
  std::map<long, std::string> next_after;  // telldir() before the entry
  const Directory directory = open_directory(mount.path());
  for (;;) {
    const long place = telldir(directory.get());
    const dirent* entry = readdir(directory.get());
    if (entry == nullptr) break;
    next_after[place] = entry->d_name;
  }
  REQUIRE(next_after.size() == kCount + 2);

  // Every third name goes, and others come into their places.
  for (int i = 0; i < kCount; i += 3) REQUIRE(unlink(mount.path(name_of(i)).c_str()) == 0);
  for (int i = 0; i < kCount; i += 3) write_file(mount.path("later-" + std::to_string(i)), "");
  for (const auto& [place, name] : next_after) {
    if (access(mount.path(name).c_str(), F_OK) != 0) continue;
    const Directory again = open_directory(mount.path());
    seekdir(again.get(), place);
    const dirent* entry = readdir(again.get());
    // What came later may lie anywhere.
    while (entry != nullptr && std::string(entry->d_name).starts_with("later-")) {
      entry = readdir(again.get());
    }
    REQUIRE(entry != nullptr);
    REQUIRE(entry->d_name == name);
  }

  rewinddir(directory.get());
  std::multiset<std::string> expected{".", ".."};
  for (int i = 0; i < kCount; ++i) {
    expected.insert(i % 3 == 0 ? "later-" + std::to_string(i) : name_of(i));
  }
  CHECK(names(directory.get()) == expected);
}

TEST_CASE("listing tells types and inode numbers") {
  Mount mount;
  REQUIRE(mkdir(mount.path("dir").c_str(), 0755) == 0);
  REQUIRE(symlink("x", mount.path("link").c_str()) == 0);
  REQUIRE(mkfifo(mount.path("fifo").c_str(), 0600) == 0);
  write_file(mount.path("file"), "");
  const std::map<std::string, int> types{{".", DT_DIR},    {"..", DT_DIR},    {"dir", DT_DIR},
                                         {"link", DT_LNK}, {"fifo", DT_FIFO}, {"file", DT_REG}};
  mount.remount();
  std::size_t count = 0;
  const Directory directory = open_directory(mount.path());
  while (const dirent* entry = readdir(directory.get())) {
    ++count;
    INFO(entry->d_name);
    REQUIRE(types.contains(entry->d_name));
    CHECK(entry->d_type == types.at(entry->d_name));
    if (std::string(entry->d_name) != "..") {
      CHECK(entry->d_ino == status_of(mount.path(entry->d_name)).st_ino);
    }
  }
  CHECK(count == types.size());
}
