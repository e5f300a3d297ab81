// Assertions that stay on: what must not go on ends the process, and says where and why.
#include "base/require.h"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <string>
#include <vector>

#include "blockmap/allocator.h"
#include "blockmap/extent_map.h"
#include "blockmap/medium/heap_medium.h"
#include "lease/fences.h"
#include "lease/limbo.h"
#include "lease/pin_counts.h"
#include "lease/pin_table.h"
#include "tests/unit/catch.h"

using namespace daxfs;

namespace {

PoolRange range_of(std::uint64_t start, std::uint64_t count) {
  return {PoolBlock(start), BlockCount(count)};
}

// What the process says on stderr when it is aborted in `work`; "" if it is not.
std::string last_words(const std::function<void()>& work) {
  int pipe[2];
  REQUIRE(::pipe(pipe) == 0);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    std::signal(SIGABRT, SIG_DFL);  // the test framework's handler would report it
    ::dup2(pipe[1], STDERR_FILENO);
    work();
    ::_exit(0);
  }
  ::close(pipe[1]);
  std::string text;
  char buffer[512];
  for (ssize_t got = 0; (got = ::read(pipe[0], buffer, sizeof buffer)) > 0;) {
    text.append(buffer, static_cast<std::size_t>(got));
  }
  ::close(pipe[0]);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT ? text : "";
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("a broken invariant ends the process, and names the object, the place and the condition",
          "[require]") {
  Limbo limbo;
  limbo.add(range_of(10, 5), {});
  const std::string text = last_words([&] { limbo.add(range_of(14, 2), {}); });
  CHECK(has(text, "daxfs: a bug in "));
  CHECK(has(text, "limbo.cpp:"));
  CHECK(has(text, "blocks [14, 16) go to limbo, and some are there"));
  CHECK(has(text, "required: "));
  CHECK(last_words([&] { limbo.add(range_of(15, 2), {}); }).empty());
}

TEST_CASE("the gate's tables end the process rather than count wrong", "[require]") {
  std::vector<PoolRange> cleared;
  PinCountMap counts;
  counts.add(range_of(10, 5), PinKind::long_term, 1);
  CHECK(has(last_words([&] { counts.remove(range_of(10, 5), PinKind::long_term, 2, cleared); }),
            "another process's"));
  CHECK(has(last_words([&] { counts.remove(range_of(12, 5), PinKind::long_term, 1, cleared); }),
            "nothing is counted at block 15"));
  CHECK(
      last_words([&] { counts.remove(range_of(10, 5), PinKind::long_term, 1, cleared); }).empty());

  Fences fences;
  const Fences::Fence fence{InodeNumber(7), {FileBlock(0), BlockCount(1)}};
  fences.raise(3, fence);
  fences.raise(3, fence);  // its own, found again
  const Fences::Fence other{InodeNumber(7), {FileBlock(0), BlockCount(2)}};
  CHECK(has(last_words([&] { fences.raise(3, other); }), "request 3 has another fence in inode 7"));

  PinTable pins(PinId{0});
  PinInfo pin{};
  pin.id = pins.next_id();
  pin.holder = HolderId{5};
  const std::vector<PoolRange> blocks{range_of(1, 1)};
  pins.add(pin, blocks);
  CHECK(has(last_words([&] { pins.add(pin, blocks); }), "pin 1 of holder 5 is there already"));
  CHECK(has(last_words([&] { pins.remove(HolderId{5}, PinId{2}); }), "holder 5 has no pin 2"));
  CHECK(has(last_words([&] { pins.remove(HolderId{6}, PinId{1}); }), "there is no holder 6"));
  CHECK(has(last_words([&] { pins.forget(HolderId{5}); }), "holder 5 goes with 1 pins"));
  CHECK(last_words([&] { pins.remove(HolderId{5}, PinId{1}); }).empty());
}

TEST_CASE("an extent over another, or without a slot, ends the process", "[require]") {
  HeapMedium medium(ByteCount{64 * kBlockSize});
  Allocator allocator;
  REQUIRE(allocator.free(range_of(8, 50)));
  ExtentMap map(medium, allocator, InodeNumber(3), PoolOffset(0));
  Transaction tx;
  map.insert(tx, {FileBlock(10), PoolBlock(20), BlockCount(4), false});
  CHECK(has(last_words([&] {
              map.insert(tx, {FileBlock(12), PoolBlock(40), BlockCount(4), false});
            }),
            "inode 3: file blocks [12, 16) are mapped, and are no hole"));
  CHECK(has(last_words([&] {
              for (std::uint64_t i = 0; i < 4; ++i) {
                map.insert(tx, {FileBlock(20 + 2 * i), PoolBlock(30), BlockCount(1), false});
              }
            }),
            "inode 3: no slot was reserved for an extent"));
}

TEST_CASE("a write beyond the pool ends the process", "[require]") {
  HeapMedium medium(ByteCount{kBlockSize});
  CHECK(has(last_words([&] { medium.store_u64(PoolOffset(kBlockSize - 4), 1); }),
            "8 bytes at 4092 are written, beyond the pool's 4096"));
  CHECK(last_words([&] { medium.store_u64(PoolOffset(kBlockSize - 8), 1); }).empty());
}
