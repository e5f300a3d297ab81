// Crashes at every moment of short stories of whole-filesystem operations.
//
// DAXFS_CRASH_WORDS: random subsets of single words at each moment, besides the systematic ones;
// DAXFS_CRASH_STORIES: how many random stories.
#include <linux/fs.h>

#include <array>
#include <cstdlib>
#include <random>
#include <string>

#include "tests/model/crash_story.h"
#include "tests/unit/catch.h"

using daxfs::kBlockSize;
using daxfs::testing::CrashStory;
using daxfs::testing::PathCalls;
using daxfs::testing::RecordingMedium;

namespace {

constexpr auto kInPlace = CrashStory::InFlight::in_place;

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* const set = std::getenv(name);
  return set == nullptr ? otherwise : std::strtoull(set, nullptr, 10);
}

std::string text(char c, std::size_t length) { return std::string(length, c); }

daxfs::AttributeChange mode(mode_t bits) {
  daxfs::AttributeChange change;
  change.mode = bits;
  return change;
}

daxfs::AttributeChange owner(uid_t uid, gid_t gid) {
  daxfs::AttributeChange change;
  change.uid = uid;
  change.gid = gid;
  return change;
}

void explore(CrashStory& story, std::size_t stride = 1, std::uint64_t seed = 1) {
  RecordingMedium::Options options;
  options.subset_limit = 3;
  options.random_words = from_environment("DAXFS_CRASH_WORDS", 2);
  options.seed = seed;
  options.stride = stride;
  std::size_t states = 0;
  const auto wrong = story.explore(options, states);
  INFO("random words seed " << seed);
  if (wrong) FAIL(*wrong);
  CHECK(states > 10);
}

}  // namespace

TEST_CASE("crash: create, write, append", "[crash]") {
  CrashStory story;
  story.operation("create", [](PathCalls& fs) { fs.create("/a"); });
  story.operation("write", [](PathCalls& fs) { fs.write("/a", 0, text('1', 3000)); });
  story.operation("append", [](PathCalls& fs) { fs.write("/a", 3000, text('2', 3000)); });
  story.operation("append over a gap",
                  [](PathCalls& fs) { fs.write("/a", 30000, text('3', 100)); });
  story.operation("fill a hole", [](PathCalls& fs) { fs.write("/a", 9000, text('4', 6000)); });
  story.operation("make executable", [](PathCalls& fs) { fs.change("/a", mode(0755)); });
  story.operation("give away", [](PathCalls& fs) { fs.change("/a", owner(7, 8)); });
  explore(story);
}

TEST_CASE("crash: overwrite", "[crash]") {
  CrashStory story;
  story.prepare([](PathCalls& fs) {
    fs.create("/a");
    fs.write("/a", 0, text('1', 10000));
  });
  story.operation(
      "in place", [](PathCalls& fs) { fs.write("/a", 100, text('2', 8000)); }, kInPlace);
  story.operation(
      "over the end", [](PathCalls& fs) { fs.write("/a", 9000, text('3', 9000)); }, kInPlace);
  explore(story);
}

TEST_CASE("crash: rename", "[crash]") {
  CrashStory story;
  story.prepare([](PathCalls& fs) {
    fs.create("/a");
    fs.write("/a", 0, text('1', 5000));
    fs.create("/b");
    fs.write("/b", 0, text('2', 9000));
    fs.mkdir("/d");
    fs.mkdir("/e");
    fs.mkdir("/d/sub");
    fs.create("/d/sub/c");
  });
  story.operation("over a file", [](PathCalls& fs) { fs.rename("/a", "/b"); });
  story.operation("into a directory", [](PathCalls& fs) { fs.rename("/b", "/d/x"); });
  story.operation("a directory", [](PathCalls& fs) { fs.rename("/d/sub", "/e/sub"); });
  story.operation("exchange", [](PathCalls& fs) { fs.rename("/e/sub", "/d/x", RENAME_EXCHANGE); });
  story.operation("to a longer name",
                  [](PathCalls& fs) { fs.rename("/e/sub", "/e/" + text('n', 255)); });
  story.operation("over a directory", [](PathCalls& fs) { fs.rename("/d/x/c", "/c"); });
  explore(story);
}

TEST_CASE("crash: unlink and link", "[crash]") {
  CrashStory story;
  story.prepare([](PathCalls& fs) {
    fs.create("/a");
    fs.write("/a", 0, text('1', 20000));
    fs.create("/b");
    fs.write("/b", 0, text('2', 100));
    fs.set_xattr("/b", "user.x", text('x', 5000));
  });
  story.operation("link", [](PathCalls& fs) { fs.link("/a", "/c"); });
  story.operation("unlink one of two", [](PathCalls& fs) { fs.unlink("/a"); });
  story.operation("unlink the last", [](PathCalls& fs) { fs.unlink("/c"); });
  story.operation("new file in its place", [](PathCalls& fs) { fs.create("/d"); });
  story.operation("in its blocks", [](PathCalls& fs) { fs.write("/d", 0, text('3', 9000)); });
  story.operation("unlink with attributes", [](PathCalls& fs) { fs.unlink("/b"); });
  story.operation("symlink", [](PathCalls& fs) { fs.symlink("somewhere/else", "/s"); });
  story.operation("fifo", [](PathCalls& fs) { fs.create("/f", S_IFIFO | 0600); });
  explore(story);
}

TEST_CASE("crash: unlinked but open", "[crash]") {
  CrashStory story;
  std::unique_ptr<daxfs::OpenFile> file;
  story.prepare([&](PathCalls& fs) {
    fs.create("/a");
    fs.write("/a", 0, text('1', 20000));
    fs.create("/b");
    file = fs.open("/a");
  });
  story.operation("unlink", [](PathCalls& fs) { fs.unlink("/a"); });
  story.operation("write elsewhere", [](PathCalls& fs) { fs.write("/b", 0, text('2', 9000)); });
  story.operation("close", [&](PathCalls& fs) { fs.close(std::move(file)); });
  story.operation("use its blocks", [](PathCalls& fs) { fs.write("/b", 9000, text('3', 30000)); });
  explore(story);
}

TEST_CASE("crash: truncate", "[crash]") {
  CrashStory story;
  story.prepare([](PathCalls& fs) {
    fs.create("/a");
    fs.write("/a", 0, text('1', 40000));
    fs.create("/b");
  });
  story.operation("shorten", [](PathCalls& fs) { fs.truncate("/a", 20000); });
  story.operation("within a block", [](PathCalls& fs) { fs.truncate("/a", 17000); });
  story.operation("lengthen", [](PathCalls& fs) { fs.truncate("/a", 50000); });
  story.operation("use its blocks", [](PathCalls& fs) { fs.write("/b", 0, text('2', 20000)); });
  story.operation("to nothing", [](PathCalls& fs) { fs.truncate("/a", 0); });
  explore(story);
}

TEST_CASE("crash: punch, allocate, zero", "[crash]") {
  CrashStory story;
  story.prepare([](PathCalls& fs) {
    fs.create("/a");
    fs.write("/a", 0, text('1', 60000));
    fs.create("/b");
  });
  story.operation("punch in the middle",
                  [](PathCalls& fs) { fs.punch("/a", 2 * kBlockSize, 3 * kBlockSize); });
  story.operation(
      "punch unaligned", [](PathCalls& fs) { fs.punch("/a", 30000, 12000); }, kInPlace);
  story.operation("allocate past the end",
                  [](PathCalls& fs) { fs.allocate("/a", 50000, 40000, true); });
  story.operation("allocate and grow", [](PathCalls& fs) { fs.allocate("/b", 0, 30000, false); });
  story.operation("write to preallocated",
                  [](PathCalls& fs) { fs.write("/b", 5000, text('2', 5000)); });
  story.operation(
      "zero", [](PathCalls& fs) { fs.zero_range("/b", 6000, 9000); }, kInPlace);
  story.operation("pin holes", [](PathCalls& fs) { fs.pin("/a", 2 * kBlockSize, 2 * kBlockSize); });
  explore(story);
}

TEST_CASE("crash: directories", "[crash]") {
  CrashStory story;
  story.operation("mkdir", [](PathCalls& fs) { fs.mkdir("/d"); });
  story.operation("mkdir below", [](PathCalls& fs) { fs.mkdir("/d/e"); });
  story.operation("rmdir below", [](PathCalls& fs) { fs.rmdir("/d/e"); });
  story.operation("rmdir", [](PathCalls& fs) { fs.rmdir("/d"); });
  explore(story);
}

TEST_CASE("crash: a directory grows and shrinks by blocks", "[crash]") {
  CrashStory story;
  const auto name = [](int i) { return "/" + std::to_string(10 + i) + text('n', 250); };
  story.prepare([&](PathCalls& fs) {
    for (int i = 0; i < 11; ++i) fs.create(name(i));
  });
  for (int i = 11; i < 14; ++i) {
    story.operation("create " + std::to_string(i), [&, i](PathCalls& fs) { fs.create(name(i)); });
  }
  for (int i = 11; i < 14; ++i) {
    story.operation("unlink " + std::to_string(i), [&, i](PathCalls& fs) { fs.unlink(name(i)); });
  }
  explore(story);
}

TEST_CASE("crash: extended attributes", "[crash]") {
  CrashStory story;
  story.prepare([](PathCalls& fs) { fs.create("/a"); });
  story.operation("set", [](PathCalls& fs) { fs.set_xattr("/a", "user.x", "1"); });
  story.operation("set another",
                  [](PathCalls& fs) { fs.set_xattr("/a", "user.y", text('y', 5000)); });
  story.operation("replace", [](PathCalls& fs) { fs.set_xattr("/a", "user.x", "22"); });
  story.operation("remove", [](PathCalls& fs) { fs.remove_xattr("/a", "user.y"); });
  story.operation("remove the last", [](PathCalls& fs) { fs.remove_xattr("/a", "user.x"); });
  explore(story);
}

TEST_CASE("crash: a truncation of more extents than one transaction holds", "[crash]") {
  CrashStory story;
  story.prepare([](PathCalls& fs) {
    fs.create("/a");
    for (std::uint64_t i = 0; i < 300; ++i) fs.write("/a", 2 * i * kBlockSize, "x");
    fs.create("/b");
  });
  story.operation("punch one", [](PathCalls& fs) { fs.punch("/a", 0, kBlockSize); });
  story.operation("truncate", [](PathCalls& fs) { fs.truncate("/a", kBlockSize); });
  story.operation("use its blocks", [](PathCalls& fs) { fs.write("/b", 0, text('2', 50000)); });
  explore(story, 53);
}

TEST_CASE("crash: random stories", "[crash]") {
  const std::uint64_t stories = from_environment("DAXFS_CRASH_STORIES", 12);
  for (std::uint64_t seed = 1; seed <= stories; ++seed) {
    std::mt19937_64 random(seed);
    const auto below = [&](std::uint64_t n) { return random() % n; };
    CrashStory story;
    story.prepare([&](PathCalls& fs) {
      for (const char* path : {"/a", "/b", "/c"}) {
        fs.create(path);
        fs.write(path, 0, text(path[1], 3 * kBlockSize + below(30000)));
      }
    });
    for (int i = 0; i < 6; ++i) {
      const std::string path(1, '/');
      const std::string file = path + static_cast<char>('a' + below(3));
      const std::string other = path + static_cast<char>('a' + below(3));
      const std::uint64_t offset = below(40000);
      const std::uint64_t length = 1 + below(20000);
      const std::uint64_t size = below(60000);
      switch (below(8)) {
        case 0:
        case 1:
          story.operation(
              "write", [&](PathCalls& fs) { fs.write(file, offset, text('w', length)); }, kInPlace);
          break;
        case 2:
          story.operation("truncate", [&](PathCalls& fs) { fs.truncate(file, size); });
          break;
        case 3:
          story.operation(
              "punch", [&](PathCalls& fs) { fs.punch(file, offset, length); }, kInPlace);
          break;
        case 4:
          story.operation("allocate",
                          [&](PathCalls& fs) { fs.allocate(file, offset, length, false); });
          break;
        case 5:
          story.operation("attribute",
                          [&](PathCalls& fs) { fs.set_xattr(file, "user.x", text('x', length)); });
          break;
        case 6:
          story.operation("exchange",
                          [&](PathCalls& fs) { fs.rename(file, other, RENAME_EXCHANGE); });
          break;
        default:
          story.operation("replace", [&](PathCalls& fs) { fs.rename(file, other); });
          if (file != other) {
            story.operation("create again", [&](PathCalls& fs) { fs.create(file); });
          }
          break;
      }
    }
    INFO("story seed " << seed);
    explore(story, 3, seed);
  }
}
