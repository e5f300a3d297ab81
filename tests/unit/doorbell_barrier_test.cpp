// The one race that matters most, alone: a client that comes in while the daemon closes, both at
// the same moment, again and again. Never may the client be inside and the daemon see nobody.
//
// Without one of the barriers that does happen: each CPU keeps its own store to itself for a
// moment.
#include <array>
#include <atomic>
#include <chrono>
#include <memory>
#include <random>
#include <thread>

#include "client/doorbell.h"
#include "src/doorbells.h"
#include "tests/unit/catch.h"
#include "tests/unit/skip.h"

using namespace daxfs;
using daxfs::doorbell::Page;
using daxfs::doorbell::Slot;

namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr auto kSeqCst = std::memory_order_seq_cst;
constexpr std::uint64_t kMost = 300'000;

// Waits for a moment of which nobody knows how long it is.
void hesitate(std::minstd_rand& random, unsigned most) {
  for (std::atomic<unsigned long> i = random() % most; i.load(kRelaxed) != 0;)
    i.store(i.load(kRelaxed) - 1, kRelaxed);
}

void wait_for(const std::atomic<std::uint64_t>& word, std::uint64_t value) {
  for (unsigned i = 1; word.load(std::memory_order_acquire) != value; ++i) {
    if (i % 4096 == 0) std::this_thread::yield();
  }
}

// Lines that both write in turn: what the daemon stores to them waits in its store buffer, and what
// it stores next waits behind it.
struct alignas(64) Line {
  std::atomic<std::uint64_t> word = 0;
};
using Lines = std::array<Line, 16>;

void store_to_all(Lines& lines) {
  for (Line& line : lines) line.word.store(1, kRelaxed);
}

// How often they met.
struct Meetings {
  std::uint64_t all = 0;
  std::uint64_t client_was_inside = 0;
  std::uint64_t daemon_saw_nobody = 0;
  std::uint64_t both = 0;  // which must not be
};

// `come_in(page, slot, epoch)` and `close()`, which says whether it saw nobody, at once; at most so
// often, for 2 s, and until both went ahead.
template <class ComeIn, class Close>
Meetings meet(std::uint64_t most, Doorbells& doorbells, Page& page, ComeIn come_in, Close close) {
  Slot* const slot = doorbell::claim(page, *doorbells.attach(page, {}));
  REQUIRE(slot != nullptr);
  std::atomic<std::uint64_t> begun = 0, ended = 0;
  std::uint64_t epoch = 0;
  bool inside = false;
  constexpr std::uint64_t kEnd = UINT64_MAX;
  std::thread client([&] {
    std::minstd_rand random(1);
    for (std::uint64_t round = 1;; ++round) {
      for (unsigned i = 1; begun.load(std::memory_order_acquire) < round; ++i) {
        if (i % 4096 == 0) std::this_thread::yield();
      }
      if (begun.load(std::memory_order_acquire) == kEnd) return;
      hesitate(random, 64);
      inside = come_in(page, *slot, epoch);
      ended.store(round, std::memory_order_release);
    }
  });
  Meetings meetings;
  std::minstd_rand random(2);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(2);
  for (std::uint64_t round = 1; round <= most && meetings.both == 0; ++round) {
    if (round % 64 == 0 && std::chrono::steady_clock::now() > end) break;
    epoch = *doorbells.epoch();
    begun.store(round, std::memory_order_release);
    hesitate(random, 512);  // it takes a while until the client has heard of it
    const bool quiet = close();
    wait_for(ended, round);
    ++meetings.all;
    meetings.client_was_inside += inside ? 1 : 0;
    meetings.daemon_saw_nobody += quiet ? 1 : 0;
    meetings.both += inside && quiet ? 1 : 0;
    if (inside) doorbell::give_back(*slot);
    doorbells.open();
  }
  begun.store(kEnd, std::memory_order_release);
  client.join();
  return meetings;
}

Meetings meet_without_a_barrier(std::uint64_t most, bool at_the_client, bool at_the_daemon) {
  const auto page = std::make_unique<Page>();
  Doorbells doorbells;
  doorbells.add(*page);
  Lines lines;
  const auto come_in = [&](Page& at, Slot& slot, std::uint64_t epoch) {
    store_to_all(lines);
    if (!at_the_client) return doorbell::take(at, slot, epoch);
    slot.count.store(1, kRelaxed);
    if (at.epoch.load(kRelaxed) == epoch) return true;
    slot.count.store(0, kRelaxed);
    return false;
  };
  const auto close = [&] {
    const std::uint64_t closed = *doorbells.epoch() + 1;
    store_to_all(lines);
    page->epoch.store(closed, at_the_daemon ? kRelaxed : kSeqCst);
    const bool quiet = page->slots[0].count.load(at_the_daemon ? kRelaxed : kSeqCst) == 0;
    doorbells.close();
    return quiet;
  };
  return meet(most, doorbells, *page, come_in, close);
}

}  // namespace

TEST_CASE("doorbell: a client comes in or the daemon sees it, however close they are") {
  const auto page = std::make_unique<Page>();
  Doorbells doorbells;
  doorbells.add(*page);
  // One that is a barrier by itself, and one for which the daemon has the kernel make it.
  const bool alone = GENERATE(false, true);
  if (alone && !doorbell::ask_for_barriers()) daxfs::test::skip_test("no membarrier(2) here");
  CHECK((page->flags.load(kRelaxed) == doorbell::kMakesBarriers || !alone));
  const auto come_in = [&](Page& at, Slot& slot, std::uint64_t epoch) {
    return doorbell::take(at, slot, epoch,
                          alone ? doorbell::Counting::alone : doorbell::Counting::shared);
  };
  const auto close = [&] {
    doorbells.close();
    return doorbells.quiet();
  };
  const Meetings meetings = meet(kMost, doorbells, *page, come_in, close);
  CAPTURE(meetings.all, meetings.client_was_inside, meetings.daemon_saw_nobody);
  CHECK(meetings.both == 0);
  CHECK(meetings.all > 0);
  const Meetings by_hand = meet_without_a_barrier(kMost, false, false);
  CHECK(by_hand.both == 0);
}

TEST_CASE("doorbell: without a barrier, both go ahead") {
  bool at_the_client = false, at_the_daemon = false;
  SECTION("the client's") { at_the_client = true; }
  SECTION("the daemon's") { at_the_daemon = true; }
  const Meetings meetings = meet_without_a_barrier(UINT64_MAX, at_the_client, at_the_daemon);
  CAPTURE(meetings.all, meetings.client_was_inside, meetings.daemon_saw_nobody);
  if (meetings.both == 0) daxfs::test::skip_test("these CPUs did not show it: busy, or only one");
  CHECK(meetings.both == 1);
}
