// Switching policies on a live mount, and the policy of one file.
#include <fcntl.h>
#include <poll.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>

#include "tests/mount/gate_helpers.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::size_t kBlocks = 8;
constexpr uid_t kNobody = 65534;
constexpr const char* kXattr = "user.daxfs.pin_policy";

struct Switched : Mount {
  explicit Switched(const std::string& options = "pin_policy=wait") : Mount({.options = options}) {
    write_file(file, pattern(kBlocks * kBlock, 1));
    fd = open_file(file, O_RDWR);
  }
  void pin(std::uint32_t flags = 0) {
    REQUIRE(daxfs_pin(fd.get(), 0, 2 * kBlock, flags, &id) == 0);
  }
  void unpin() { REQUIRE(daxfs_unpin(fd.get(), id) == 0); }
  std::unique_ptr<Attempt> punching() {
    auto attempt = std::make_unique<Attempt>([this] { return punch_blocks(file, 0, kBlocks); });
    REQUIRE(waiting_becomes(*this, 1));
    return attempt;
  }
  Json policy() const { return live_status(*this)["policy"]; }
  int set_own(const std::string& value, const std::string& of) const {
    return error_of(setxattr(of.c_str(), kXattr, value.data(), value.size(), 0));
  }
  std::string own() const {
    char value[64];
    const ssize_t size = getxattr(file.c_str(), kXattr, value, sizeof value);
    return size < 0 ? "" : std::string(value, static_cast<std::size_t>(size));
  }
  const std::string file = path("f");
  daxfs::UniqueFd fd;
  std::uint64_t id = 0;
};

struct Unsafe : Switched {
  Unsafe() : Switched("pin_policy=wait,unsafe_demo") {}
};

}  // namespace

TEST_CASE_METHOD(Switched, "every knob can be switched live, and says what is in force") {
  struct Knob {
    const char* text;
    const char* key;
    Json value;
  };
  const std::uint64_t total = live_status(*this)["total"];
  const std::array<Knob, 19> knobs{{{"defer", "pin_policy", "defer"},
                                    {"pin_policy=break", "pin_policy", "break"},
                                    {"wait", "pin_policy", "wait"},
                                    {"refuse", "pin_policy", "refuse"},
                                    {"on_timeout=defer", "on_timeout", "defer"},
                                    {"on_timeout=refuse", "on_timeout", "refuse"},
                                    {"wait_timeout=2500ms", "wait_timeout", 2.5},
                                    {"wait_timeout=7", "wait_timeout", 7},
                                    {"wait_timeout=none", "wait_timeout", nullptr},
                                    {"break_timeout=2m", "break_timeout", 120},
                                    {"short_timeout=30", "short_timeout", 0.03},
                                    {"longterm=lease", "longterm", "lease"},
                                    {"longterm=forbid", "longterm", "forbid"},
                                    {"longterm=allow", "longterm", "allow"},
                                    {"pin_limit=3M", "pin_limit", 3 << 20},
                                    {"user_limit=7", "user_limit", 7},
                                    {"user_limit=none", "user_limit", nullptr},
                                    {"limbo_limit=1M", "limbo_limit", 1 << 20},
                                    {"limbo_limit=50%", "limbo_limit", total / 2}}};
  for (const Knob& knob : knobs) {
    INFO(knob.text);
    const Json before = policy();
    CHECK(switch_policy(*this, knob.text) == 0);
    Json expected = before;
    expected[knob.key] = knob.value;
    CHECK(policy() == expected);
  }
  CHECK(switch_policy(*this, "defer, wait_timeout=5s\nlongterm=lease") == 0);
  CHECK(policy()["pin_policy"] == "defer");
  CHECK(policy()["wait_timeout"] == 5);
  CHECK(policy()["longterm"] == "lease");
}

TEST_CASE_METHOD(Switched, "what is no policy is refused with a reason, and changes nothing") {
  const Json before = policy();
  for (const char* text :
       {"", "  ,", "delay", "pin_policy=", "pin_policy=Defer", "nonsense=1", "wait_timeout=-1",
        "wait_timeout=0", "wait_timeout=9999999d", "break_timeout=none", "short_timeout=soon",
        "limbo_limit=101%", "pin_limit=x", "defer,nonsense=1", "ignore", "pin_policy=ignore"}) {
    INFO(text);
    std::string why;
    CHECK(switch_policy(*this, text, &why) == EINVAL);
    CHECK(why.size() > 10);
    CHECK(policy() == before);
  }
}

TEST_CASE_METHOD(Switched, "other users switch nothing") {
  const Json before = policy();
  CHECK(Attempt([this] { return switch_policy(*this, "defer"); }, kNobody).finish() == EPERM);
  CHECK(policy() == before);
  // Not even for a file of their own.
  REQUIRE(chown(file.c_str(), kNobody, kNobody) == 0);
  CHECK(Attempt([this] { return set_own("defer", file); }, kNobody).finish() == EPERM);
  REQUIRE(set_own("defer", file) == 0);
  CHECK(Attempt([this] { return set_own("refuse", file); }, kNobody).finish() == EPERM);
  CHECK(Attempt([this] { return error_of(removexattr(file.c_str(), kXattr)); }, kNobody).finish() ==
        EPERM);
  CHECK(own() == "defer");
}

TEST_CASE_METHOD(Switched, "what waits is judged anew at once") {
  pin();
  const std::uint64_t free_before = live_status(*this)["free"];
  const Snapshot before(file);
  SECTION("wait, then refuse") {
    const auto waiter = punching();
    REQUIRE(switch_policy(*this, "refuse") == 0);
    CHECK(waiter->finish() == ETXTBSY);
    CHECK(Snapshot(file) == before);
  }
  SECTION("wait, then defer") {
    const auto waiter = punching();
    REQUIRE(switch_policy(*this, "defer") == 0);
    CHECK(waiter->finish() == 0);
    CHECK(space_settles(*this, free_before + 6 * kBlock, 2 * kBlock));
  }
  SECTION("wait, then break: the holder is told, and gives way") {
    std::uint64_t lease = 0;
    REQUIRE(daxfs_lease(fd.get(), 0, kBlock, 0, &lease) == 0);
    const auto waiter = punching();
    pollfd news{fd.get(), POLLPRI, 0};
    CHECK(poll(&news, 1, 0) == 0);
    REQUIRE(switch_policy(*this, "break,break_timeout=10m") == 0);
    CHECK(poll(&news, 1, 10'000) == 1);
    daxfs_event event{};
    REQUIRE(daxfs_next_event(fd.get(), &event) == 0);
    CHECK(event.type == DAXFS_EVENT_BREAK);
    CHECK(event.lease_id == lease);
    CHECK(waiter->running());
    unpin();
    CHECK(waiter->running());
    REQUIRE(daxfs_unlease(fd.get(), lease) == 0);
    CHECK(waiter->finish() == 0);
  }
  SECTION("break, then wait: the lease is in nobody's way any more") {
    std::uint64_t lease = 0;
    REQUIRE(daxfs_lease(fd.get(), 0, kBlock, 0, &lease) == 0);
    REQUIRE(switch_policy(*this, "break,break_timeout=10m") == 0);
    const auto waiter = punching();
    CHECK(live_list(*this, DAXFS_QUERY_LEASES).at(0)["breaking"] == true);
    REQUIRE(switch_policy(*this, "wait") == 0);
    CHECK(eventually(
        [&] { return live_list(*this, DAXFS_QUERY_LEASES).at(0)["breaking"] == false; }));
    CHECK(waiter->running());
    unpin();
    CHECK(waiter->finish() == 0);
  }
  SECTION("no timeout, then a short one") {
    const auto waiter = punching();
    REQUIRE(switch_policy(*this, "wait_timeout=1ms") == 0);
    CHECK(waiter->finish() == ETXTBSY);
    CHECK(Snapshot(file) == before);
  }
  SECTION("no timeout, then a short one, and on_timeout=defer") {
    const auto waiter = punching();
    REQUIRE(switch_policy(*this, "wait_timeout=1ms,on_timeout=defer") == 0);
    CHECK(waiter->finish() == 0);
    CHECK(space_settles(*this, free_before + 6 * kBlock, 2 * kBlock));
  }
  SECTION("a short timeout, then a longer one") {
    REQUIRE(switch_policy(*this, "wait_timeout=1500ms") == 0);
    const auto begin = Clock::now();
    const auto waiter = punching();
    REQUIRE(switch_policy(*this, "wait_timeout=10m") == 0);
    if (Clock::now() - begin > std::chrono::milliseconds(1400)) {
      skip_here("too busy a machine: the short timeout may have passed before the longer one came");
    }
    CHECK_FALSE(eventually([&] { return !waiter->running(); }, Seconds(2)));
    unpin();
    CHECK(waiter->finish() == 0);
  }
  SECTION("a pin behind the fence, then longterm=forbid") {
    const auto waiter = punching();
    Attempt pinning([this] { return pin_and_keep(file, 0, kBlock); });
    REQUIRE(waiting_becomes(*this, 2));
    REQUIRE(switch_policy(*this, "longterm=forbid") == 0);
    CHECK(pinning.finish() == EOPNOTSUPP);
    CHECK(waiter->running());
    unpin();
    CHECK(waiter->finish() == 0);
  }
}

TEST_CASE_METHOD(Switched, "short_timeout, switched, counts for who waits") {
  REQUIRE(switch_policy(*this, "refuse,short_timeout=10m") == 0);
  pin(DAXFS_PIN_SHORT);
  const auto waiter = punching();
  REQUIRE(switch_policy(*this, "short_timeout=1ms") == 0);
  CHECK(waiter->finish() == ETXTBSY);
}

TEST_CASE_METHOD(Switched, "a file's own policy: what it may be") {
  CHECK(set_own("delay", file) == EINVAL);
  CHECK(set_own("", file) == EINVAL);
  CHECK(set_own("defer\n", file) == EINVAL);
  CHECK(set_own("ignore", file) == EINVAL);  // needs unsafe_demo
  CHECK(set_own("defer", path()) == EINVAL);
  CHECK(own() == "");
  for (const char* word : {"refuse", "defer", "wait", "break"}) {
    CHECK(set_own(word, file) == 0);
    CHECK(own() == word);
  }
  CHECK(removexattr(file.c_str(), kXattr) == 0);
  CHECK(error_of(removexattr(file.c_str(), kXattr)) == ENODATA);
}

TEST_CASE_METHOD(Unsafe, "a file's own policy: ignore, where that is allowed") {
  REQUIRE(set_own("ignore", file) == 0);
  pin();
  const std::uint64_t free_before = live_status(*this)["free"];
  CHECK(Attempt([this] { return punch_blocks(file, 0, kBlocks); }).finish() == 0);
  CHECK(space_settles(*this, free_before + kBlocks * kBlock, 0));
  unpin();
  CHECK(space_settles(*this, free_before + kBlocks * kBlock, 0));
  fd = {};
  // A mount that does not allow it takes no notice.
  write_file(file, pattern(kBlocks * kBlock, 1));
  remount("pin_policy=refuse");
  CHECK(own() == "ignore");
  fd = open_file(file, O_RDWR);
  pin();
  CHECK(Attempt([this] { return punch_blocks(file, 0, kBlocks); }).finish() == ETXTBSY);
}

TEST_CASE_METHOD(Switched, "a file's own policy comes before the mount's, and stays") {
  REQUIRE(set_own("refuse", file) == 0);
  pin();
  CHECK(Attempt([this] { return punch_blocks(file, 0, kBlocks); }).finish() == ETXTBSY);
  fd = {};
  remount("pin_policy=defer");
  CHECK(own() == "refuse");
  fd = open_file(file, O_RDWR);
  pin();
  CHECK(Attempt([this] { return punch_blocks(file, 0, kBlocks); }).finish() == ETXTBSY);
  CHECK(removexattr(file.c_str(), kXattr) == 0);
  CHECK(Attempt([this] { return punch_blocks(file, 0, kBlocks); }).finish() == 0);
  CHECK(live_status(*this)["limbo"] == 2 * kBlock);
}

TEST_CASE_METHOD(Switched, "a file's own policy is set once the kernel lets it through") {
  // The kernel holds the inode's lock while a punch waits, and setxattr wants it: it is the mount's
  // policy that can be switched then (docs/decisions.md).
  pin();
  const auto waiter = punching();
  Attempt setting([this] { return set_own("defer", file); });
  REQUIRE(switch_policy(*this, "refuse") == 0);
  const int error = waiter->finish();
  CHECK((error == ETXTBSY || error == 0));  // 0: on a kernel that lets it through earlier
  CHECK(setting.finish() == 0);
  CHECK(Attempt([this] { return punch_blocks(file, 0, kBlocks); }).finish() == 0);
  CHECK(live_status(*this)["limbo"] == 2 * kBlock);
}
