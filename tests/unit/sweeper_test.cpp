#include "src/sweeper.h"

#include <atomic>
#include <chrono>
#include <thread>

#include "tests/unit/catch.h"

using namespace daxfs;

namespace {

bool soon(const std::function<bool()>& condition) {
  for (int i = 0; i < 20'000 && !condition(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return condition();
}

}  // namespace

TEST_CASE("sweeper: looks until nothing is left, and then sleeps") {
  std::atomic<int> looks = 0;
  std::atomic<int> left = 0;
  std::atomic<bool> over = false;
  Sweeper sweeper([&] {
    ++looks;
    if (left.load() == 0) over = true;
    return left.load() == 0;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  CHECK(looks == 0);
  left = 1;
  sweeper.begin();
  CHECK(soon([&] { return looks >= 3; }));
  left = 0;
  // One look finds nothing, and none comes behind it.
  CHECK(soon([&] { return over.load(); }));
  const int last = looks;
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  CHECK(looks == last);
  // What comes later is found soon again, also if the pauses had become long.
  sweeper.begin();
  CHECK(soon([&] { return looks > last; }));
}

TEST_CASE("sweeper: ever more seldom, so that what stays costs little") {
  std::atomic<int> looks = 0;
  Sweeper sweeper([&] {
    ++looks;
    return false;
  });
  const auto begin = std::chrono::steady_clock::now();
  sweeper.begin();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  CHECK(soon([&] { return looks >= 1; }));
  const int seen = looks;
  const auto took = std::chrono::steady_clock::now() - begin;
  CHECK(seen <= 10 + took / std::chrono::seconds(1));
  sweeper.stop();
  const int last = looks;
  sweeper.begin();
  sweeper.stop();
  CHECK(looks == last);
}

TEST_CASE("sweeper: what comes while it looks is looked at, too") {
  std::atomic<int> looks = 0;
  Sweeper* self = nullptr;
  Sweeper sweeper([&] {
    if (++looks == 1) self->begin();
    return true;
  });
  self = &sweeper;
  sweeper.begin();
  CHECK(soon([&] { return looks == 2; }));
}
