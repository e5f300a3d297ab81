#include "tests/crash/workloads.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <random>
#include <string>

namespace daxfs::testing {
namespace {

std::string long_name(int i) { return fmt::format("/d/{}{}", 10 + i, std::string(250, 'n')); }

// Eleven names of five granules fill most of a block: what follows takes a second one, and gives it
// back.
std::string directory_story() {
  std::string text;
  for (int i = 0; i < 14; ++i) text += fmt::format("create {};", long_name(i));
  for (int i = 11; i < 14; ++i) text += fmt::format("unlink {};", long_name(i));
  return text + fmt::format("unlink {}; create /d/short; rename {} /n", long_name(0), long_name(1));
}

class Random {
 public:
  explicit Random(std::uint64_t seed) : random_(seed) {}

  Operation operation() {
    static constexpr std::array kVerbs = {
        "create", "mkdir",  "symlink",  "link",      "unlink",   "unlink",   "rmdir",
        "rename", "rename", "write",    "write",     "write",    "write",    "write",
        "punch",  "punch",  "truncate", "truncate",  "exchange", "allocate", "reserve",
        "zero",   "chmod",  "chown",    "utimes",    "setxattr", "setxattr", "removexattr",
        "open",   "close",  "pin",      "unpin",     "whiteout", "unnamed",  "name",
        "acl",    "flags",  "chmod",    "defaultacl"};
    Operation out{.verb = kVerbs[below(kVerbs.size())], .path = path(), .other = {}};
    if (out.verb == "close" || out.verb == "unpin") out.path.clear();
    const bool two = out.verb == "link" || out.verb == "rename" || out.verb == "exchange" ||
                     out.verb == "whiteout";
    out.other = two ? path() : "";
    const bool attribute = out.verb == "setxattr" || out.verb == "removexattr";
    if (out.verb == "write" || out.verb == "punch" || out.verb == "allocate" ||
        out.verb == "reserve" || out.verb == "zero" || out.verb == "pin") {
      out.offset = place();
      out.length = 1 + place() / 2;
    } else if (out.verb == "truncate" || out.verb == "unnamed") {
      out.length = place();
    } else if (attribute) {
      (out.verb == "setxattr" ? out.offset : out.length) = below(3);
      if (out.verb == "setxattr") out.length = below(2) == 0 ? below(200) : below(9000);
    } else if (out.verb == "chmod" || out.verb == "acl" || out.verb == "defaultacl") {
      out.length = below(0700);
    } else if (out.verb == "flags") {
      out.length = below(3) == 0 ? below(64) : 0;
    } else if (out.verb == "chown" || out.verb == "utimes") {
      out.length = 1 + below(1000);
    }
    return out;
  }

 private:
  std::uint64_t below(std::uint64_t n) { return random_() % n; }
  std::string path() {
    static constexpr std::array kPaths = {"/a", "/b", "/f", "/h",   "/n",   "/d/c", "/d/n",
                                          "/s", "/d", "/g", "/d/e", "/g/n", "/a",   "/f"};
    return kPaths[below(kPaths.size())];
  }
  // Block borders, their neighbourhood, and anywhere.
  std::uint64_t place() {
    const std::uint64_t block = below(12) * kBlockSize;
    switch (below(3)) {
      case 0:
        return block;
      case 1:
        return block + below(16);
      default:
        return below(50'000);
    }
  }

  std::mt19937_64 random_;
};

}  // namespace

std::vector<Workload> single_operations() {
  std::vector<Workload> out;
  for (const Operation& operation : vocabulary()) out.push_back({.sequence = {operation}});
  return out;
}

std::vector<Workload> pairs_of_operations() {
  std::vector<Workload> out;
  for (const Operation& one : vocabulary()) {
    for (const Operation& two : vocabulary()) {
      out.push_back({.sequence = {one, two}, .first = 1});
    }
  }
  // Not std::shuffle: its outcome is the library's choice, and a sample should be repeatable.
  std::mt19937_64 random(1);
  for (std::size_t i = out.size(); i > 1; --i) std::swap(out[i - 1], out[random() % i]);
  return out;
}

std::vector<Workload> stories() {
  const std::array<std::string, 15> texts = {
      // Limbo: the holder's blocks are not reused while it holds them, and all is there afterwards.
      "pin /a 0 12288; punch /a 0 8192; create /n; write /n 0 30000; unpin; "
      "write /n 30000 20000",
      "pin /h 0 20480; truncate /h 0; write /b 9000 40000; unlink /h; unpin; write /b 60000 20000",
      "pin /b 0 9000; rename /a /b; write /d/c 100 30000; unpin; truncate /d/c 200000",
      "pin /f 0 28672; write /f 4096 4096; punch /f 0 16384; exchange /f /a; unpin; zero /a 0 9000",
      // Orphans.
      "open /h; unlink /h; write /b 9000 9000; close; write /b 20000 30000",
      "open /a; rename /b /a; create /b; write /b 0 9000; close; write /b 9000 20000",
      // Freed blocks that come back as something else: attributes, extents, directories.
      "setxattr /a 2 9000; setxattr /a 2 10; write /b 9000 30000; removexattr /a 2; "
      "write /f 4096 4096; write /f 12288 4096; punch /f 0 40960; mkdir /m; create /m/x; "
      "unlink /m/x; rmdir /m; write /a 0 50000",
      // Lists and modes in step; inherited, changed, given up with their file.
      "acl /a 416; chmod /a 448; setxattr /a 1 5000; acl /a 511; defaultacl /d 509; create /d/n; "
      "chmod /d/n 256; mkdir /d/m; create /d/m/x; unlink /d/n; write /b 9000 9000; rename /d/m/x "
      "/a",
      "flags /a 1; flags /d 2; write /a 0 100; flags /a 2; write /a 12388 5000; create /d/n; "
      "unlink /d/c; flags /d 44; mkdir /d/m; create /d/m/x; flags /a 0; truncate /a 0; rmdir /d/m",
      directory_story(),
      // A detach of more extents than a transaction holds, and one that needs a new extent block.
      "create /n; scatter /n 330; punch /n 0 4096; truncate /n 8192; write /b 9000 60000; "
      "truncate /n 0",
      "create /n; scatter /n 330; open /n; unlink /n; close; write /b 9000 60000",
      // Files without a name: gone after a crash, wholly there once they have one.
      "unnamed / 30000; write /b 9000 9000; name /n; close; write /n 100 9000; unlink /n; "
      "unnamed /d 9000; unnamed / 5000; name /d/n; close; close; write /b 20000 30000",
      // Whiteouts: over files, directories and each other, in a directory that is full of them.
      "whiteout /a /n; whiteout /n /a; unlink /n; whiteout /d/c /b; whiteout /d /g; unlink /d; "
      "open /h; whiteout /b /h; close; rmdir /g/e; write /h 9000 20000",
      // Both with inherited lists, which end with them.
      "defaultacl /d 509; unnamed /d 9000; unnamed /d 100; close; name /d/n; whiteout /d/n /b; "
      "whiteout /d/c /d/n; close; unlink /d/c; rename /b /d/n; write /a 12388 9000"};
  std::vector<Workload> out;
  for (const std::string& text : texts) out.push_back({.sequence = parse_sequence(text)});
  // The preparations of the last two are 330 writes, and no news.
  out[10].first = out[11].first = 2;
  return out;
}

Workload random_workload(std::uint64_t seed, std::size_t length) {
  Random random(seed);
  Workload out;
  while (out.sequence.size() < length) out.sequence.push_back(random.operation());
  return out;
}

}  // namespace daxfs::testing
