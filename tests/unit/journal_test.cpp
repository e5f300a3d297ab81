#include "blockmap/journal.h"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "base/crc32c.h"
#include "blockmap/medium/heap_medium.h"
#include "tests/crash/recording_medium.h"
#include "tests/unit/catch.h"

using namespace daxfs;
using daxfs::testing::RecordingMedium;

namespace {

// A small pool: data in the first and the last block, the journal between them.
constexpr ByteCount kPool{4 * kBlockSize};
constexpr Journal::Geometry kGeometry{PoolOffset(kBlockSize), 4, 1024};

using Bytes = std::vector<std::byte>;

Bytes contents(const Medium& medium) {
  Bytes out(2 * kBlockSize);
  std::memcpy(out.data(), medium.at(PoolOffset(0)), kBlockSize);
  std::memcpy(out.data() + kBlockSize, medium.at(PoolOffset(3 * kBlockSize)), kBlockSize);
  return out;
}

Bytes random_bytes(std::mt19937_64& random, std::size_t length) {
  Bytes out(length);
  for (std::byte& b : out) b = static_cast<std::byte>(random());
  return out;
}

// Random records, in [begin, end) of the pool; overlaps are welcome.
Transaction random_transaction(std::mt19937_64& random, std::uint64_t begin, std::uint64_t end) {
  Transaction tx;
  const std::size_t records = 1 + random() % 5;
  for (std::size_t i = 0; i < records; ++i) {
    const std::size_t length = 1 + random() % 60;
    const std::uint64_t at = begin + random() % (end - begin - length + 1);
    tx.write(PoolOffset(at), random_bytes(random, length));
  }
  return tx;
}

// A lane as commit() would write it, but with whatever records.
struct Lane {
  Bytes records;
  void add(std::uint64_t offset, std::uint32_t length, std::size_t data) {
    struct {
      std::uint64_t offset;
      std::uint32_t length;
      std::uint32_t reserved;
    } header{offset, length, 0};
    const auto raw = std::as_bytes(std::span(&header, 1));
    records.insert(records.end(), raw.begin(), raw.end());
    records.resize(records.size() + data, std::byte{0x5a});
  }
  void put(Medium& medium, std::uint32_t lane, std::uint64_t sequence = 1) const {
    struct {
      std::uint32_t crc;
      std::uint32_t bytes;
      std::uint64_t sequence;
    } header{0, static_cast<std::uint32_t>(records.size()), sequence};
    header.crc = sealed_crc(records, crc32c(std::as_bytes(std::span(&header, 1))));
    const PoolOffset start = kGeometry.start + ByteCount(lane * kGeometry.lane_bytes);
    medium.write(start, std::as_bytes(std::span(&header, 1)));
    medium.write(start + ByteCount(16), records);
  }
};

std::uint32_t recover(Medium& medium) {
  const auto replayed = Journal::recover(medium, kGeometry);
  REQUIRE(replayed);
  return *replayed;
}

}  // namespace

TEST_CASE("a commit is applied in order and leaves nothing to replay", "[journal]") {
  HeapMedium medium(kPool);
  Journal::format(medium, kGeometry);
  Journal journal(medium, kGeometry);
  Transaction tx;
  CHECK(tx.empty());
  REQUIRE(journal.commit(tx));

  const Bytes a(100, std::byte{1});
  const Bytes b(9, std::byte{2});
  tx.write(PoolOffset(3), a);
  tx.write(PoolOffset(50), b);  // later writes win
  tx.write(PoolOffset(7), {});  // nothing
  CHECK(tx.size() == 16 + 104 + 16 + 16);
  REQUIRE(journal.commit(tx));
  CHECK(*medium.at(PoolOffset(2)) == std::byte{0});
  CHECK(*medium.at(PoolOffset(3)) == std::byte{1});
  CHECK(*medium.at(PoolOffset(50)) == std::byte{2});
  CHECK(*medium.at(PoolOffset(59)) == std::byte{1});
  CHECK(*medium.at(PoolOffset(102)) == std::byte{1});
  CHECK(*medium.at(PoolOffset(103)) == std::byte{0});
  CHECK(Journal::pending(medium, kGeometry).value() == 0);
  CHECK(recover(medium) == 0);
  tx.clear();
  CHECK(tx.empty());
}

TEST_CASE("a transaction of exactly the capacity fits, one byte more aborts", "[journal]") {
  HeapMedium medium(kPool);
  Journal journal(medium, kGeometry);
  REQUIRE(journal.capacity() == 1008);
  const auto commit = [&](std::uint64_t to, std::size_t length) {
    Transaction tx;
    tx.write(PoolOffset(to), Bytes(length, std::byte{7}));
    REQUIRE(journal.commit(tx));
  };
  commit(0, 1008 - 16);
  CHECK(*medium.at(PoolOffset(991)) == std::byte{7});

  const auto aborts = [&](std::uint64_t to, std::size_t length) {
    const pid_t child = ::fork();
    if (child == 0) {
      std::signal(SIGABRT, SIG_DFL);  // the test framework's handler would report it
      if (std::freopen("/dev/null", "w", stderr) == nullptr) ::_exit(3);
      commit(to, length);
      ::_exit(0);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
  };
  CHECK(aborts(0, 1008 - 15));
  CHECK(aborts(kPool.value - 7, 8));            // past the end
  CHECK(aborts(~0ull - 3, 8));                  // past the end, and the sum overflows
  CHECK(aborts(kGeometry.start.value + 8, 8));  // into the journal
  CHECK_FALSE(aborts(kPool.value - 8, 8));
}

TEST_CASE("at every crash a transaction has happened wholly or not at all", "[journal][crash]") {
  const std::uint64_t seed = GENERATE(1u, 2u, 3u);
  std::mt19937_64 random(seed);
  RecordingMedium medium(kPool);
  Journal::format(medium, kGeometry);
  medium.write(PoolOffset(0), random_bytes(random, kBlockSize));
  medium.mark_start();

  std::vector<Bytes> states{contents(medium)};
  std::vector<std::size_t> returned;  // calls made when the n-th commit had returned
  for (int mount = 0; mount < 3; ++mount) {
    // A new journal as after a mount: it begins with the same sequence number and the same lane, in
    // which the last mount's records still lie.
    Journal journal(medium, kGeometry);
    for (int i = 0; i < 4; ++i) {
      const bool low = random() % 2 == 0;
      REQUIRE(journal.commit(
          random_transaction(random, low ? 0 : 3 * kBlockSize, low ? kBlockSize : kPool.value)));
      states.push_back(contents(medium));
      returned.push_back(medium.calls());
    }
  }

  std::size_t replays = 0;
  std::size_t nested = 0;
  const auto check = [&](Medium& image, std::size_t done) {
    std::size_t k = 0;
    while (k < returned.size() && returned[k] <= done) ++k;

    const std::uint32_t expected = Journal::pending(image, kGeometry).value();
    RecordingMedium again(image);
    REQUIRE(recover(image) == expected);
    const Bytes result = contents(image);
    // Acknowledged transactions are there, the one in flight is whole or absent.
    const bool old = result == states[k];
    REQUIRE((old || (k + 1 < states.size() && result == states[k + 1])));
    if (expected > 0 && k + 1 < states.size()) REQUIRE(result == states[k + 1]);
    REQUIRE(recover(image) == 0);
    REQUIRE(contents(image) == result);

    // The recovery itself may crash anywhere: recovering again comes to the same end.
    if (expected > 0 && replays++ % 20 == 0) {
      REQUIRE(recover(again) == expected);
      nested += again.explore({}, seed, [&](Medium& inner, std::size_t) {
        recover(inner);
        REQUIRE(contents(inner) == result);
      });
    }
  };
  CHECK(medium.explore({.torn = 12}, seed, check) > 1000);
  CHECK(replays > 100);
  CHECK(nested > 100);
}

TEST_CASE("a lane that got only part of a commit replays nothing old", "[journal][crash]") {
  // The worst case for a torn lane: one lane, records of the same shape, the same sequence numbers.
  constexpr Journal::Geometry kOne{PoolOffset(kBlockSize), 1, 128};
  RecordingMedium medium(kPool);
  const auto set = [&](std::uint64_t v) {
    Journal journal(medium, kOne);
    Transaction tx;
    tx.write_object(PoolOffset(0), v);
    REQUIRE(journal.commit(tx));
  };
  set(1);
  set(2);
  medium.mark_start();
  set(1);  // puts back what the medium has seen before
  medium.explore({.torn = 200}, 1, [&](Medium& image, std::size_t done) {
    const bool pending = Journal::pending(image, kOne).value() > 0;
    const auto before = image.load<std::uint64_t>(PoolOffset(0));
    REQUIRE(Journal::recover(image, kOne));
    const auto after = image.load<std::uint64_t>(PoolOffset(0));
    REQUIRE(after == (pending ? 1 : before));
    if (done <= 1 && !pending) REQUIRE(after == 2);
    if (done == medium.calls()) REQUIRE(after == 1);
  });
}

TEST_CASE("threads commit side by side, and a crash cuts each one cleanly", "[journal][crash]") {
  constexpr std::size_t kThreads = 3;
  constexpr std::uint64_t kArea = 1024;                               // of each thread
  constexpr Journal::Geometry kTwo{PoolOffset(kBlockSize), 2, 1024};  // fewer lanes than threads
  RecordingMedium medium(kPool);
  Journal journal(medium, kTwo);
  struct Log {
    std::vector<Bytes> states;
    std::vector<std::size_t> returned;
  };
  std::vector<Log> logs(kThreads);
  const auto area = [](const Medium& m, std::size_t t) {
    return Bytes(m.at(PoolOffset(t * kArea)), m.at(PoolOffset((t + 1) * kArea)));
  };
  {
    std::vector<std::jthread> threads;
    for (std::size_t t = 0; t < kThreads; ++t) {
      logs[t].states.push_back(Bytes(kArea));
      threads.emplace_back([&, t] {
        std::mt19937_64 random(t);
        for (int i = 0; i < 8; ++i) {
          static_cast<void>(journal.commit(random_transaction(random, t * kArea, (t + 1) * kArea)));
          logs[t].states.push_back(area(medium, t));
          logs[t].returned.push_back(medium.calls());
        }
      });
    }
  }
  medium.explore({.torn = 12}, 1, [&](Medium& image, std::size_t done) {
    REQUIRE(Journal::recover(image, kTwo));
    for (std::size_t t = 0; t < kThreads; ++t) {
      const Log& log = logs[t];
      std::size_t k = 0;
      while (k < log.returned.size() && log.returned[k] <= done) ++k;
      const Bytes result = area(image, t);
      REQUIRE(
          (result == log.states[k] || (k + 1 < log.states.size() && result == log.states[k + 1])));
    }
  });
}

TEST_CASE("many threads share few lanes", "[journal][threads]") {
  constexpr std::uint64_t kThreads = 6;
  constexpr std::uint64_t kRounds = 2000;
  HeapMedium medium(kPool);
  Journal journal(medium, kGeometry);
  {
    std::vector<std::jthread> threads;
    for (std::uint64_t t = 0; t < kThreads; ++t) {
      threads.emplace_back([&journal, t] {
        for (std::uint64_t i = 1; i <= kRounds; ++i) {
          Transaction tx;
          tx.write_object(PoolOffset(t * 64), i);
          tx.write_object(PoolOffset(3 * kBlockSize + t * 64), i);
          static_cast<void>(journal.commit(tx));
        }
      });
    }
  }
  for (std::uint64_t t = 0; t < kThreads; ++t) {
    CHECK(medium.load<std::uint64_t>(PoolOffset(t * 64)) == kRounds);
    CHECK(medium.load<std::uint64_t>(PoolOffset(3 * kBlockSize + t * 64)) == kRounds);
  }
  CHECK(recover(medium) == 0);
}

TEST_CASE("torn and hostile lanes are refused, and recovery applies none of them",
          "[journal][hostile]") {
  HeapMedium medium(kPool);
  Lane good;
  good.add(8, 4, 8);
  good.put(medium, 0);

  const auto untouched = [&] {
    const Bytes before(medium.at(PoolOffset(0)), medium.at(PoolOffset(0)) + kPool.value);
    const auto pending = Journal::pending(medium, kGeometry);
    const auto recovered = Journal::recover(medium, kGeometry);
    REQUIRE_FALSE(pending);
    REQUIRE_FALSE(recovered);
    CHECK(recovered.error().code == EUCLEAN);
    CHECK(recovered.error().text == pending.error().text);
    CHECK(recovered.error().text.find("journal lane 2") != std::string::npos);
    CHECK(std::memcmp(before.data(), medium.at(PoolOffset(0)), before.size()) == 0);
  };
  Lane bad;
  bad.add(16, 8, 8);

  SECTION("good") {
    CHECK(Journal::pending(medium, kGeometry).value() == 1);
    CHECK(recover(medium) == 1);
    CHECK(medium.load<std::uint64_t>(PoolOffset(8)) == 0x5a5a5a5a);
    CHECK(Journal::pending(medium, kGeometry).value() == 0);
  }
  SECTION("a flipped bit makes it a lane that was never committed") {
    const std::size_t bit = GENERATE(0u, 33u, 36u, 70u, 130u, 200u, 8u * 31);
    auto word = medium.load<std::uint8_t>(kGeometry.start + ByteCount(bit / 8));
    word = static_cast<std::uint8_t>(word ^ 1u << bit % 8);
    medium.write(kGeometry.start + ByteCount(bit / 8), std::as_bytes(std::span(&word, 1)));
    CHECK(recover(medium) == 0);
    CHECK(medium.load<std::uint64_t>(PoolOffset(8)) == 0);
    CHECK(medium.load<std::uint64_t>(kGeometry.start) == 0);  // emptied
  }
  SECTION("lanes of noise") {
    std::mt19937_64 random(5);
    for (int round = 0; round < 200; ++round) {
      medium.write(kGeometry.start, random_bytes(random, 4 * 1024));
      if (round % 2 == 0) {  // a length that is in bounds
        const std::uint32_t length = static_cast<std::uint32_t>(random() % 1009);
        medium.write(kGeometry.start + ByteCount(4), std::as_bytes(std::span(&length, 1)));
      }
      CHECK(recover(medium) == 0);
      CHECK(recover(medium) == 0);
    }
  }
  SECTION("outside the pool") {
    bad.add(kPool.value - 4, 8, 8);
    bad.put(medium, 2);
    untouched();
  }
  SECTION("outside the pool by an overflow") {
    bad.add(~0ull - 3, 8, 8);
    bad.put(medium, 2);
    untouched();
  }
  SECTION("into the journal") {
    bad.add(kGeometry.start.value - 4, 8, 8);
    bad.put(medium, 2);
    untouched();
  }
  SECTION("longer than its lane") {
    bad.add(0, 4000, 8);
    bad.put(medium, 2);
    untouched();
  }
  SECTION("a length that overflows when it is rounded up") {
    bad.add(0, 0xffffffff, 8);
    bad.put(medium, 2);
    untouched();
  }
  SECTION("of no length") {
    bad.add(0, 0, 0);
    bad.put(medium, 2);
    untouched();
  }
  SECTION("a cut-off header") {
    bad.records.resize(bad.records.size() + 8);
    bad.put(medium, 2);
    untouched();
  }
}

TEST_CASE("a journal that does not lie within the pool is a problem, not a crash",
          "[journal][hostile]") {
  HeapMedium medium(kPool);
  const Journal::Geometry geometry =
      GENERATE(Journal::Geometry{PoolOffset(kBlockSize), 16, 1024},
               Journal::Geometry{PoolOffset(kBlockSize), ~0u, ~0u - 63},
               Journal::Geometry{PoolOffset(~0ull - 63), 1, 1024},
               Journal::Geometry{PoolOffset(kPool.value + 4096), 1, 1024},
               Journal::Geometry{PoolOffset(kBlockSize), 0, 1024},
               Journal::Geometry{PoolOffset(kBlockSize), 4, 0},
               Journal::Geometry{PoolOffset(kBlockSize), 4, 8},
               Journal::Geometry{PoolOffset(kBlockSize + 1), 4, 1024});
  const auto recovered = Journal::recover(medium, geometry);
  REQUIRE_FALSE(recovered);
  CHECK(recovered.error().code == EUCLEAN);
  CHECK_FALSE(Journal::pending(medium, geometry));
}

namespace {

// Its n-th fence finds that the storage is gone.
class FailingMedium final : public HeapMedium {
 public:
  explicit FailingMedium(int healthy) : HeapMedium(kPool), healthy_(healthy) {}
  void fence() override {
    if (healthy_-- == 0) failed_ = true;
  }
  bool failed() const override { return failed_; }
  void heal() { failed_ = false; }

 private:
  int healthy_;
  bool failed_ = false;
};

}  // namespace

TEST_CASE("on a medium that fails, a commit changes nothing, or leaves all of it to the next mount",
          "[journal]") {
  for (int healthy = 0; healthy < 3; ++healthy) {
    INFO("fails at fence " << healthy);
    FailingMedium medium(healthy);
    const Bytes before = contents(medium);
    Journal journal(medium, kGeometry);
    std::mt19937_64 random(7);
    const Transaction tx = random_transaction(random, 0, kBlockSize);
    // After the second fence it has happened.
    CHECK(journal.commit(tx) == (healthy < 2 ? Status(fail(EIO)) : Status()));
    CHECK(medium.failed());
    if (healthy == 0) CHECK(contents(medium) == before);
    const Bytes applied = contents(medium);
    // Nothing follows on what may be lost.
    CHECK(journal.commit(random_transaction(random, 3 * kBlockSize, 4 * kBlockSize)) ==
          Status(fail(EIO)));
    CHECK(contents(medium) == applied);

    // The lane still has it; but where the failure came after all was applied, nothing is left to
    // do.
    medium.heal();
    CHECK(recover(medium) == (healthy < 2 ? 1 : 0));
    HeapMedium whole(kPool);
    REQUIRE(Journal(whole, kGeometry).commit(tx));
    CHECK(contents(medium) == contents(whole));
  }
}
