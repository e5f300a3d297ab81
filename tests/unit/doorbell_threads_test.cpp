// Many threads copy under the slots of doorbells while others take the blocks away, processes die
// or are stopped in the middle of copies, and the daemon dies: no block is touched that is another
// owner's. Worth most under ThreadSanitizer, to which the bytes of the blocks are ordinary memory.
// DAXFS_DOORBELL_DETACHES makes it longer, DAXFS_DOORBELL_SEED another one.
#include <cstdlib>
#include <string>

#include "tests/unit/catch.h"
#include "tests/unit/doorbell_world.h"
#include "tests/unit/skip.h"

using namespace daxfs::test;

namespace {

#if defined(__SANITIZE_THREAD__)
constexpr bool kThreadSanitizer = true;
#else
constexpr bool kThreadSanitizer = false;
#endif

std::uint64_t setting(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

// What the mistake has led to; empty: nothing, within a minute.
std::string found(const Mistakes& mistakes) {
  // It would report the race and end the program, which is as it should be.
  if (kThreadSanitizer && std::getenv("DAXFS_DOORBELL_MISTAKES") == nullptr)
    skip_test("planted mistakes are races; DAXFS_DOORBELL_MISTAKES=1 has them reported");
  DoorbellWorld world(mistakes, 1);
  world.run(3, UINT64_MAX, 60);
  CAPTURE(world.seen().copies, world.seen().detaches, world.seen().deaths, world.seen().mounts);
  return world.complaint();
}

}  // namespace

TEST_CASE("doorbell: no copy touches a block that has become another owner's") {
  // As many as a busy machine makes of them in the time.
  const std::uint64_t detaches = setting("DAXFS_DOORBELL_DETACHES", 2000);
  const double seconds = static_cast<double>(setting("DAXFS_DOORBELL_SECONDS", 4));
  const std::uint64_t seed = setting("DAXFS_DOORBELL_SEED", 1);
  for (const unsigned clients : {1u, 3u}) {
    DoorbellWorld world({}, seed);
    world.run(clients, detaches, seconds);
    const DoorbellWorld::Seen& seen = world.seen();
    CAPTURE(clients, seen.copies, seen.closed, seen.slow, seen.detaches, seen.waits, seen.refused,
            seen.deferred, seen.deaths, seen.stops, seen.mounts);
    const std::string complaint = world.complaint();
    CAPTURE(complaint);
    REQUIRE(complaint.empty());
    CHECK(seen.copies > 0);
    CHECK(seen.detaches > 0);
    if (clients == 1 || seen.detaches < 2000) continue;
    // It was worth the trouble.
    CHECK(seen.copies > 10'000);
    CHECK(seen.closed > 100);
    CHECK(seen.waits > 100);
    CHECK(seen.deaths > 0);
    CHECK(seen.refused + seen.deferred > 0);
    CHECK(seen.mounts > 0);
  }
}

TEST_CASE("doorbell: planted mistakes of the protocol are found") {
  Mistakes mistakes;
  SECTION("a client that does not look at the epoch") { mistakes.no_recheck = true; }
  SECTION("a client that looks at the epoch before it counts") {
    mistakes.check_before_the_count = true;
  }
  SECTION("a client that gives back before the copy has ended") { mistakes.give_back_early = true; }
  SECTION("a slot that is shown after its first copy") { mistakes.slot_is_shown_late = true; }
  SECTION("a slot of a stopped process that is reclaimed") { mistakes.stopped_is_dead = true; }
  SECTION("a slot of a dead process that is never reclaimed") {
    mistakes.judged_by_the_number = true;
  }
  SECTION("a doorbell that the next daemon does not know") { mistakes.not_recorded = true; }
  SECTION("limbo of a stopped copy that the next daemon does not know") {
    mistakes.limbo_is_not_recorded = true;
  }
  CHECK_FALSE(found(mistakes).empty());
}
