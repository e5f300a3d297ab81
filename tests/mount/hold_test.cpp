// daxfs-hold as a good holder: it gives way to breaks, works through a device, and outlives the
// daemon.
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <string>
#include <vector>

#include "tests/mount/gate_helpers.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

constexpr std::size_t kBlocks = 16;
constexpr std::uint64_t kLength = kBlocks * kBlock;

struct Holding : Mount {
  explicit Holding(const std::string& options = "pin_policy=break,break_timeout=60s")
      : Mount({.size = "8M+", .options = options}) {
    write_file(file, pattern(kLength, 1));
  }
  bool pins_and_leases(std::uint64_t pins, std::uint64_t leases) {
    return eventually([&] {
      const Json now = status();
      return now["pins"]["long"] == pins && now["leases"] == leases;
    });
  }
  // One file takes all that is free, so also what was just freed.
  void fill_pool() {
    const daxfs::UniqueFd fd = open_file(path("filler"), O_WRONLY | O_CREAT | O_DIRECT);
    const std::string data = pattern(1 << 16, 99);
    off_t at = 0;
    for (const std::size_t size : {data.size(), kBlock}) {
      for (ssize_t done = 0; (done = pwrite(fd.get(), data.data(), size, at)) > 0;) at += done;
      CHECK(errno == ENOSPC);
    }
  }
  int cut() { return error_of(truncate(file.c_str(), 0)); }
  const std::string file = path("f");
};

struct Impatient : Holding {
  Impatient() : Holding("pin_policy=break,break_timeout=1s") {}
};
struct Revoking : Holding {
  Revoking() : Holding("pin_policy=break,break_timeout=1s,on_timeout=defer") {}
};
struct Deferring : Holding {
  Deferring() : Holding("pin_policy=defer") {}
};
struct Ignoring : Holding {
  Ignoring() : Holding("pin_policy=ignore,unsafe_demo") {}
};
struct OnlyLeased : Holding {
  OnlyLeased() : Holding("pin_policy=break,break_timeout=60s,longterm=lease") {}
};

void check_clean(const Finished& ended) {
  INFO(ended.out << ended.err);
  CHECK_FALSE(ended.timed_out);
  CHECK(ended.code == 0);
  CHECK(ended.err == "");
  CHECK(contains(ended.out, "foreign=0"));
}

}  // namespace

TEST_CASE_METHOD(Holding, "a holder with a lease gives way, says to whom, and ends") {
  const char* const engine = GENERATE("mmap", "io_uring");
  HoldProcess holder(file, 0, kLength, {"--lease", "--verify", "--engine", engine});
  CHECK(pins_and_leases(1, 1));
  const auto begin = std::chrono::steady_clock::now();
  CHECK(cut() == 0);
  CHECK(std::chrono::steady_clock::now() - begin < Seconds(30));
  const Finished ended = holder.process().finish();
  check_clean(ended);
  CHECK(contains(ended.out, "break lease="));
  CHECK(contains(ended.out, "reason=truncate pid=" + std::to_string(getpid())));
  CHECK(contains(ended.out, "gives way"));
  CHECK(contains(ended.out, "nothing left to hold"));
  CHECK(pins_and_leases(0, 0));
}

TEST_CASE_METHOD(OnlyLeased, "of several pins, those that are asked for go, whole") {
  HoldProcess holder(file, 0, 2 * kBlock,
                     {"--count", "8", "--exclusive", "--verify", "--engine", "io_uring"});
  CHECK(pins_and_leases(8, 1));
  CHECK(punch(file, 0, kBlock) == ETXTBSY);
  check_clean(holder.stop());
  CHECK(pins_and_leases(0, 0));

  HoldProcess sharing(file, 0, 2 * kBlock, {"--count", "8", "--lease", "--verify"});
  CHECK(contains(sharing.process().out(), " pins=8 seconds="));
  CHECK(punch(file, 5 * kBlock, 2 * kBlock) == 0);  // in the third and the fourth
  CHECK(sharing.process().says("gave up offset=16384 length=16384 pins=2 pins_left=6"));
  CHECK(pins_and_leases(6, 2));
  CHECK(punch(file, 0, kBlock) == 0);  // the first of one lease
  CHECK(pins_and_leases(5, 2));
  CHECK(error_of(truncate(file.c_str(), 15 * kBlock)) == 0);  // the last of the other
  CHECK(pins_and_leases(4, 2));
  CHECK(sharing.process().running());
  check_clean(sharing.stop());
  CHECK(pins_and_leases(0, 0));
}

TEST_CASE_METHOD(Impatient, "a holder that ignores breaks keeps all that it has") {
  HoldProcess holder(file, 0, kLength, {"--ignore-breaks", "--lease"});
  CHECK(cut() == ETXTBSY);
  CHECK(holder.process().says("ignored"));
  CHECK(pins_and_leases(1, 1));
  check_clean(holder.stop());
  CHECK(cut() == 0);
}

TEST_CASE_METHOD(Revoking, "a lease that is taken away is said to be, and the pins go on") {
  HoldProcess holder(file, 0, kLength, {"--ignore-breaks", "--lease"});
  CHECK(cut() == 0);
  CHECK(holder.process().says("revoked lease="));
  fill_pool();
  CHECK(pins_and_leases(1, 0));
  CHECK(limbo() == kLength);
  check_clean(holder.stop());
}

TEST_CASE_METHOD(Deferring, "a change that needs no answer is told") {
  HoldProcess holder(file, 0, kLength, {"--lease", "--json"});
  CHECK(cut() == 0);
  CHECK(holder.process().says("\"event\":\"changed\""));
  CHECK(holder.process().says("\"reason\":\"truncate\""));
  CHECK(pins_and_leases(1, 1));
  const Finished ended = holder.stop();
  CHECK(ended.code == 0);
}

TEST_CASE_METHOD(Impatient, "a stopped holder only holds up who asks until the time is up") {
  HoldProcess holder(file, 0, kLength, {"--lease"});
  REQUIRE(holder.process().stop_running());
  CHECK(cut() == ETXTBSY);
  holder.process().signal(SIGCONT);
  // Its news is old: nobody waits any more.
  CHECK(holder.process().says("the request has ended"));
  CHECK(pins_and_leases(1, 1));
  CHECK(cut() == 0);
  check_clean(holder.process().finish());
}

TEST_CASE_METHOD(Holding, "a holder gives way to who still waits, not to who was interrupted") {
  HoldProcess holder(file, 0, kLength, {"--lease"});
  REQUIRE(holder.process().stop_running());
  {
    Attempt interrupted([this] { return shrink(file, 0); });
    REQUIRE(waiting_becomes(*this, 1));
    interrupted.signal(SIGKILL);
    CHECK(interrupted.finish() == -SIGKILL);
    REQUIRE(waiting_becomes(*this, 0));
  }
  SECTION("nobody") {
    holder.process().signal(SIGCONT);
    CHECK(holder.process().says("the request has ended"));
    CHECK(pins_and_leases(1, 1));
    check_clean(holder.stop());
  }
  SECTION("another one") {
    Attempt waits([this] { return shrink(file, 0); });
    REQUIRE(waiting_becomes(*this, 1));
    holder.process().signal(SIGCONT);
    CHECK(holder.process().says("gives way"));
    CHECK(waits.finish() == 0);
    check_clean(holder.process().finish());
  }
}

TEST_CASE_METHOD(Holding, "an exclusive lease refuses others") {
  HoldProcess holder(file, 0, kLength / 2, {"--exclusive"});
  CHECK(cut() == ETXTBSY);
  const Finished second = run({tool("daxfs-hold"), file, "--lease"});
  CHECK(second.code == 1);
  CHECK(contains(second.err, "exclusive lease"));
  HoldProcess unleased(file, kLength / 2, kBlock);
  HoldProcess reader(file, kLength / 2 + kBlock, kBlock, {"--read-only", "--lease"});
  check_clean(reader.stop());
  check_clean(unleased.stop());
  check_clean(holder.stop());
}

TEST_CASE("io_uring in registered buffers never meets the reused space, under any safe policy") {
  const auto& [policy, answer] = GENERATE(table<std::string, int>({
      {"pin_policy=refuse", ETXTBSY},
      {"pin_policy=defer", 0},
      {"pin_policy=wait,wait_timeout=100ms", ETXTBSY},
      {"pin_policy=wait,wait_timeout=100ms,on_timeout=defer", 0},
      {"pin_policy=break,break_timeout=100ms", ETXTBSY},
      {"pin_policy=break,break_timeout=100ms,on_timeout=defer", 0},
  }));
  INFO(policy);
  Holding mount(policy);
  HoldProcess holder(mount.file, 0, kLength, {"--engine", "io_uring", "--interval-ms", "0"});
  for (const std::uint64_t first : {3, 9, 4, 14}) {
    CHECK(punch(mount.file, first * kBlock, 2 * kBlock) == answer);
    mount.fill_pool();
  }
  CHECK(mount.cut() == answer);
  CHECK(mount.limbo() == (answer == 0 ? kLength : 0));
  mount.fill_pool();
  const std::string filled = read_file(mount.path("filler"));
  check_clean(holder.stop());
  CHECK(filled == read_file(mount.path("filler")));
}

TEST_CASE_METHOD(Ignoring, "io_uring without a gate: corruption, seen in memory and in the copy") {
  HoldProcess holder(file, 0, kBlock, {"--engine", "io_uring"});
  CHECK(cut() == 0);
  fill_pool();
  const daxfs::UniqueFd filler = open_file(path("filler"), O_RDWR | O_DIRECT);
  const std::string data = read_file(path("filler"));
  // More than once: what comes between the look at the memory and the copy shows in the copy alone.
  CHECK(eventually([&] {
    const std::string said = holder.process().err();
    if (contains(said, "in the mapping") && contains(said, "in the engine's copy")) return true;
    write_at(filler.get(), 0, data);
    return false;
  }));
  CHECK(holder.stop().code == 3);
}

TEST_CASE_METHOD(Holding, "a holder outlives the daemon, and its pins are taken over") {
  HoldProcess holder(file, 0, 2 * kBlock, {"--count", "3", "--lease", "--verify"});
  kill_daemon();
  CHECK(holder.process().says("daemon gone, still holding"));
  mount("pin_policy=break,break_timeout=60s");
  const Json pins = ctl("pins");
  REQUIRE(pins.size() == 3);
  for (const Json& pin : pins) CHECK(pin["pid"] == holder.process().pid());
  CHECK(holder.process().says("daemon is back: adopted pins=3 of=3 leases=1"));
  CHECK(pins_and_leases(3, 1));

  // Ordinary pins now, and an ordinary lease.
  CHECK(punch(file, 0, kBlock) == 0);
  CHECK(pins_and_leases(2, 1));
  kill_daemon();
  mount();
  CHECK(eventually([&] { return contains(holder.process().out(), "adopted pins=2 of=2"); }));
  CHECK(cut() == ETXTBSY);
  check_clean(holder.stop());
  CHECK(pins_and_leases(0, 0));
  CHECK(cut() == 0);
}

TEST_CASE_METHOD(Holding, "without a daemon, a holder ends when it was asked to") {
  HoldProcess holder(file, 0, kBlock, {"--seconds", "3"});
  HoldProcess brief(file, kBlock, kBlock, {"--short"});
  kill_daemon();
  CHECK(holder.process().says("daemon gone"));
  CHECK(brief.process().says("does not outlive the daemon"));
  check_clean(holder.process().finish());
  check_clean(brief.stop());
  mount();
  CHECK(pins_and_leases(0, 0));
  CHECK(cut() == 0);
}

TEST_CASE_METHOD(Holding, "what daxfs-hold cannot do is said, and changes nothing") {
  struct Bad {
    std::vector<std::string> options;
    int code;
    const char* says;
  };
  const std::vector<Bad> all{
      {{"--count", "2"}, 2, "whole blocks"},
      {{"--count", "2", "--length", "100"}, 2, "whole blocks"},
      {{"--count", "16777216", "--length", "1T"}, 2, "2^63"},
      {{"--count", "99999999999", "--length", "4K"}, 2, "--count"},
      {{"--engine", "dma"}, 2, "io_uring"},
      {{"--engine", "io_uring", "--read-only"}, 2, "--read-only"},
      {{"--count", "1000", "--length", "64K", "--allocate"}, 1, "space"},
      {{"--count", "17", "--length", "4K"}, 1, "--allocate"},
  };
  for (const Bad& bad : all) {
    std::vector<std::string> command{tool("daxfs-hold"), file};
    command.insert(command.end(), bad.options.begin(), bad.options.end());
    const Finished ended = run(command);
    INFO(bad.options.front() << ": " << ended.err);
    CHECK(ended.code == bad.code);
    CHECK(contains(ended.err, bad.says));
    CHECK(ended.out == "");
  }
  REQUIRE(chmod(file.c_str(), 0666) == 0);
  REQUIRE(chmod(pool().c_str(), 0600) == 0);
  const Finished other = run_as(1000, {"daxfs-hold", file, "--lease"});
  INFO(other.err);
  CHECK(other.code == 1);
  CHECK(contains(other.err, "cannot open its pool"));
  CHECK(pins_and_leases(0, 0));
  CHECK(read_file(file) == pattern(kLength, 1));
}
