// The gate's knobs as people write them, at the mount and live.
#include "src/policy_settings.h"

#include <string>

#include "src/options.h"
#include "tests/unit/catch.h"

using namespace daxfs;

namespace {

constexpr ByteCount kPool(1'000'000);

Outcome<GateOptions> change(std::string_view text, bool unsafe_demo = false) {
  return change_policy(GateOptions(), text, unsafe_demo, kPool);
}

}  // namespace

TEST_CASE("policy settings: every knob, each in its unit") {
  const auto options = parse_mount_options(
      "pin_policy=wait,on_timeout=defer,wait_timeout=3,break_timeout=2m,short_timeout=5,longterm="
      "lease,pin_limit=64M,limbo_limit=10%");
  REQUIRE(options);
  const GateOptions gate = resolve(*options, kPool);
  CHECK(gate.pin_policy == PinPolicy::wait);
  CHECK(gate.on_timeout == OnTimeout::defer);
  CHECK(gate.wait_timeout_ms == 3000);
  CHECK(gate.break_timeout_ms == 120'000);
  CHECK(gate.short_timeout_ms == 5);
  CHECK(gate.longterm == LongTerm::lease);
  CHECK(gate.pin_limit == ByteCount(64 << 20));
  CHECK(gate.limbo_limit == ByteCount(100'000));
}

TEST_CASE("policy settings: what is shown can be given back") {
  for (const char* text :
       {"refuse", "pin_policy=break,break_timeout=1ms,pin_limit=1", "limbo_limit=0%",
        "wait wait_timeout=7h short_timeout=0", "longterm=forbid\non_timeout=defer\n"}) {
    const auto once = change(text);
    REQUIRE(once);
    const auto again = change(format_policy(*once));
    REQUIRE(again);
    CHECK(format_policy(*again) == format_policy(*once));
  }
  CHECK(format_policy(GateOptions()).find("wait_timeout=none\n") != std::string::npos);
}

TEST_CASE("policy settings: one that is wrong changes nothing, and is named") {
  for (const char* setting : {"pin_policy=never",
                              "pin_policy=",
                              "on_timeout=wait",
                              "longterm=maybe",
                              "wait_timeout=0",
                              "wait_timeout=-1",
                              "break_timeout=0",
                              "break_timeout=none",
                              "break_timeout=1y",
                              "break_timeout=400d",
                              "wait_timeout=999999999999999999999s",
                              "short_timeout=x",
                              "pin_limit=0",
                              "pin_limit=1X",
                              "user_limit=0",
                              "user_limit=1K",
                              "user_limit=-1",
                              "limbo_limit=101%",
                              "limbo_limit=-5",
                              "colour=blue"}) {
    INFO(setting);
    const auto changed = change(std::string("defer,") + setting);
    REQUIRE_FALSE(changed);
    const std::string name = std::string(setting).substr(0, std::string(setting).find('='));
    CHECK(changed.error().text.find(name) != std::string::npos);
    CHECK(changed.error().code != 0);
  }
  CHECK_FALSE(change(""));
  CHECK_FALSE(change(" ,\n"));
}

TEST_CASE("policy settings: ignore only where it was asked for at the mount") {
  CHECK_FALSE(change("ignore"));
  CHECK(change("ignore", true));
  CHECK_FALSE(parse_mount_options("pin_policy=ignore"));
  CHECK(parse_mount_options("pin_policy=ignore,unsafe_demo"));
}

TEST_CASE("mount options: the modes of the page cache") {
  CHECK(parse_mount_options("")->cache == CacheMode::through);
  CHECK(parse_mount_options("cache=through")->cache == CacheMode::through);
  CHECK(parse_mount_options("cache=writeback")->cache == CacheMode::writeback);
  CHECK(parse_mount_options("cache=none,ro")->cache == CacheMode::none);
  const auto mistyped = parse_mount_options("cache=writeabck");
  REQUIRE_FALSE(mistyped);
  CHECK(mistyped.error().text.find("did you mean 'writeback'?") != std::string::npos);
  CHECK_FALSE(parse_mount_options("cache"));
  CHECK_FALSE(parse_mount_options("cache="));
}

TEST_CASE("policy settings: what is not mentioned stays") {
  GateOptions now;
  now.limbo_limit = ByteCount(777);
  now.wait_timeout_ms = 5;
  const auto changed = change_policy(now, "defer", false, kPool);
  REQUIRE(changed);
  CHECK(changed->limbo_limit == ByteCount(777));
  CHECK(changed->wait_timeout_ms == 5);
}

TEST_CASE("policy settings: times as reports print them can be given back") {
  const struct {
    const char* text;
    std::uint64_t ms;
  } cases[] = {{"45.0", 45'000}, {"0.5", 500},     {"1.25s", 1250}, {"0.0015", 1},
               {"2.5ms", 2},     {"0.5m", 30'000}, {"3", 3000}};
  for (const auto& [text, ms] : cases) {
    INFO(text);
    const auto parsed = parse_duration_ms(text, 1000);
    REQUIRE(parsed);
    CHECK(*parsed == ms);
  }
  for (const char* text : {".5", "5.", "1.s", "1.5.5", "0.5x", "1,5"}) {
    INFO(text);
    CHECK_FALSE(parse_duration_ms(text, 1000));
  }
}

TEST_CASE("policy settings: a percentage of the pool loses no block") {
  for (const std::uint64_t blocks : {15'360ull, 15'361ull, 12'345'678'901ull}) {
    INFO(blocks);
    const ByteCount pool(blocks * 4096);
    CHECK(resolve({.gate = {}, .limbo_limit_percent = 25}, pool).limbo_limit.value ==
          pool.value / 4);
    CHECK(resolve({.gate = {}, .limbo_limit_percent = 100}, pool).limbo_limit == pool);
  }
}
