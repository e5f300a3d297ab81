// Many threads on a few files: no block is ever in two owners' hands or freed under a pin, nothing
// passes a fence or an exclusive lease, nobody waits without a reason or is forgotten. Worth most
// under ThreadSanitizer. DAXFS_GATE_ROUNDS makes it longer, DAXFS_GATE_SEED another one.
#include <cstdlib>
#include <thread>
#include <vector>

#include "tests/unit/catch.h"
#include "tests/unit/gate_world.h"

using namespace daxfs::test;

namespace {

unsigned setting(const char* name, unsigned otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : static_cast<unsigned>(std::strtoul(text, nullptr, 10));
}

}  // namespace

TEST_CASE("gate: threads, files, holders and an allocator around one gate") {
  constexpr unsigned kThreads = 4;
  const unsigned rounds = setting("DAXFS_GATE_ROUNDS", 40);
  const unsigned first_seed = setting("DAXFS_GATE_SEED", 1);
  int parked = 0, detached = 0, pinned = 0, leased = 0, broken = 0, revoked = 0;
  for (unsigned seed = first_seed; seed < first_seed + 4; ++seed) {
    GateWorld world;
    for (unsigned round = 0; round < rounds; ++round) {
      CAPTURE(seed, round);
      std::vector<std::thread> threads;
      for (unsigned i = 0; i < kThreads; ++i) {
        threads.emplace_back([&, i] { world.work((seed * 10'000 + round) * kThreads + i, 200); });
      }
      for (std::thread& thread : threads) thread.join();
      world.check_at_rest();
      world.check_order();
      REQUIRE(world.complaints() == std::vector<std::string>());
    }
    world.finish();
    REQUIRE(world.complaints() == std::vector<std::string>());
    const GateWorld::Seen& of_it = world.seen();
    parked += of_it.parked;
    detached += of_it.detached;
    pinned += of_it.pinned;
    leased += of_it.leased;
    broken += of_it.broken;
    revoked += of_it.revoked;
  }
  CAPTURE(parked, detached, pinned, leased, broken, revoked);
  if (rounds < 40) return;
  // It was worth the trouble. In all worlds together: what comes of a race may be rare in one.
  CHECK(parked > 400);
  CHECK(detached > 400);
  CHECK(pinned > 400);
  CHECK(leased > 400);
  CHECK(broken > 80);
  CHECK(revoked > 0);
}
