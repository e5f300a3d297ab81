// Direct access without a mount: doorbells and what keeps them, copies in the way of detaches under
// each policy, the kernel's page cache, and the next mount.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <future>
#include <thread>

#include "blockmap/volume/check.h"
#include "blockmap/volume/former_doorbells.h"
#include "client/doorbell.h"
#include "tests/model/mounted.h"
#include "tests/unit/catch.h"

using namespace daxfs;
using namespace daxfs::testing;

namespace {

constexpr std::uint64_t kBlocks = 8;

Caller myself() { return {.uid = 0, .gid = 0, .thread = ::getpid()}; }

MountOptions direct_options(PinPolicy policy, std::uint64_t short_timeout_ms = 60'000) {
  MountOptions options = mount_options(policy, short_timeout_ms);
  options.direct = true;
  return options;
}

// One file "f", open past the page cache and attached; a client that copies.
struct World {
  explicit World(HeapMedium& medium, const MountOptions& options) : mounted(medium, options) {
    auto made = fs().names().lookup(kRootInode, "f");
    if (!made) made = fs().names().make_node(kRootInode, "f", S_IFREG | 0644, 0, myself());
    inode = *number_of(fs(), made);
    file = *fs().files().open(inode, O_RDWR | O_DIRECT);
  }
  void fill() { REQUIRE(testing::write(fs(), *file, 0, std::string(kBlocks * kBlockSize, 'x'))); }
  void attach() {
    const auto got = fs().direct_access().attach(*file, 0, myself());
    INFO((got ? 0 : got.error().code));
    REQUIRE(got);
    terms = *got;
    page = &doorbell_at(mounted.volume->medium(), block_of(terms.page));
    slot = doorbell::claim(*page, terms.attachment);
    REQUIRE(slot != nullptr);
  }
  std::optional<std::uint64_t> epoch() {
    const auto where = fs().direct_access().where(*file, terms.pin, FileOffset(0),
                                                  ByteCount(INT64_MAX), 500, true);
    REQUIRE(where);
    return where->epoch;
  }
  // The epoch, as soon as the file is open: a detach is answered a little before it opens.
  std::optional<std::uint64_t> opens() {
    for (int i = 0; i < 20'000; ++i) {
      if (const auto now = epoch()) return now;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return std::nullopt;
  }
  Filesystem& fs() { return *mounted.fs; }
  std::uint64_t free() { return mounted.volume->allocator().free_blocks().value; }
  std::uint64_t limbo() { return fs().gate().totals().limbo.value; }
  bool settles(std::uint64_t free_blocks, std::uint64_t limbo_blocks) {
    for (int i = 0; i < 3000 && (free() != free_blocks || limbo() != limbo_blocks); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    INFO("free " << free() << ", limbo " << limbo());
    return free() == free_blocks && limbo() == limbo_blocks;
  }
  // A truncate to nothing, which may wait.
  std::future<Status> truncate_later() {
    const auto promise = std::make_shared<std::promise<Status>>();
    AttributeChange change;
    change.size = 0;
    fs().attributes().set(inode, change, {}, kRoot, nullptr, [promise](const auto& changed) {
      promise->set_value(changed ? Status() : std::unexpected(changed.error()));
    });
    return promise->get_future();
  }

  Mounted mounted;
  InodeNumber inode;
  OpenFileRef file;
  DirectAccess::Terms terms{};
  doorbell::Page* page = nullptr;
  doorbell::Slot* slot = nullptr;
};

struct Medium8 : HeapMedium {
  Medium8() : HeapMedium(ByteCount(8 << 20)) { format_medium(*this); }
};

void check_sound(HeapMedium& medium) {
  const CheckReport report = check_volume(medium, "pool");
  for (const std::string& error : report.errors) FAIL_CHECK(error);
}

bool is_over(std::future<Status>& waiting, std::chrono::milliseconds patience) {
  return waiting.wait_for(patience) == std::future_status::ready;
}
constexpr std::chrono::milliseconds kSoon{50};
constexpr std::chrono::milliseconds kLong{20'000};

}  // namespace

TEST_CASE("direct access: a doorbell is a block in limbo, and free after the last detach") {
  Medium8 medium;
  World world(medium, direct_options(PinPolicy::refuse));
  const std::uint64_t before = world.free();
  world.attach();
  CHECK(world.free() == before - 1);
  CHECK(world.limbo() == 1);
  CHECK(world.mounted.volume->pin_records().slots_used() == 1);
  // Another process of the same open file shares the page, with a right of its own.
  const auto second = world.fs().direct_access().attach(*world.file, 0, myself());
  REQUIRE(second);
  CHECK(second->page == world.terms.page);
  CHECK(second->attachment != world.terms.attachment);
  CHECK(world.free() == before - 1);
  CHECK(world.fs().direct_access().list().size() == 2);
  CHECK(world.fs().direct_access().detach(*world.file, world.terms.pin));
  CHECK(world.fs().direct_access().detach(*world.file, world.terms.pin) == fail(ENOENT));
  CHECK(world.limbo() == 1);
  SECTION("by detach") { CHECK(world.fs().direct_access().detach(*world.file, second->pin)); }
  SECTION("by the last close") { world.fs().direct_access().release(*world.file); }
  CHECK(world.free() == before);
  CHECK(world.limbo() == 0);
  CHECK(world.mounted.volume->pin_records().slots_used() == 0);
  CHECK(world.fs().direct_access().list().empty());
  world.fs().files().release(std::move(world.file));
  world.fs().unmount();
  check_sound(medium);
}

TEST_CASE("direct access: who may not attach") {
  Medium8 medium;
  SECTION("without the option") {
    World world(medium, mount_options(PinPolicy::refuse));
    CHECK(world.fs().direct_access().attach(*world.file, 0, myself()) == fail(EOPNOTSUPP));
  }
  SECTION("through the page cache") {
    World world(medium, direct_options(PinPolicy::refuse));
    const auto cached = world.fs().files().open(world.inode, O_RDWR);
    REQUIRE(cached);
    CHECK(world.fs().direct_access().attach(**cached, 0, myself()) == fail(EINVAL));
    world.fs().files().release(*cached);
  }
  SECTION("to write to a set-user-id file") {
    World world(medium, direct_options(PinPolicy::refuse));
    AttributeChange change;
    change.mode = S_IFREG | 04755;
    REQUIRE(set_attributes(world.fs(), world.inode, change));
    CHECK(world.fs().direct_access().attach(*world.file, 0, myself()) == fail(EOPNOTSUPP));
  }
}

TEST_CASE("direct access: a truncate waits for a copy, and takes back what clients know") {
  Medium8 medium;
  World world(medium, direct_options(GENERATE(PinPolicy::refuse, PinPolicy::defer, PinPolicy::wait,
                                              PinPolicy::breaks, PinPolicy::ignore)));
  world.fill();
  world.attach();
  const std::uint64_t before = world.free();
  const auto epoch = world.epoch();
  REQUIRE(epoch);
  REQUIRE(doorbell::take(*world.page, *world.slot, *epoch));
  auto truncating = world.truncate_later();
  CHECK_FALSE(is_over(truncating, kSoon));
  CHECK_FALSE(doorbell::is_open(world.page->epoch.load(std::memory_order_relaxed)));
  CHECK_FALSE(world.epoch());
  CHECK(world.fs().gate().totals().short_pins == 1);
  doorbell::give_back(*world.slot);
  REQUIRE(is_over(truncating, kLong));
  CHECK(truncating.get());
  CHECK(world.settles(before + kBlocks, 1));
  CHECK(world.fs().gate().totals().short_pins == 0);
  // What was known is void, and asking tells the new state.
  CHECK_FALSE(doorbell::take(*world.page, *world.slot, *epoch));
  const auto now = world.opens();
  REQUIRE(now);
  CHECK(*now > *epoch);
  CHECK(world.page->size.load(std::memory_order_relaxed) == 0);
  CHECK(doorbell::take(*world.page, *world.slot, *now));
  doorbell::give_back(*world.slot);
}

TEST_CASE("direct access: a copy that outlives short_timeout= is a long-term pin") {
  Medium8 medium;
  const auto policy =
      GENERATE(PinPolicy::refuse, PinPolicy::defer, PinPolicy::wait, PinPolicy::ignore);
  World world(medium, direct_options(policy, 30));
  world.fill();
  world.attach();
  const std::uint64_t before = world.free();
  const auto epoch = world.epoch();
  REQUIRE(doorbell::take(*world.page, *world.slot, *epoch));
  auto truncating = world.truncate_later();
  if (policy == PinPolicy::wait) {
    CHECK_FALSE(is_over(truncating, std::chrono::milliseconds(150)));
    doorbell::give_back(*world.slot);
    REQUIRE(is_over(truncating, kLong));
    CHECK(truncating.get());
    CHECK(world.settles(before + kBlocks, 1));
    return;
  }
  REQUIRE(is_over(truncating, kLong));
  if (policy == PinPolicy::refuse) {
    CHECK(truncating.get() == fail(ETXTBSY));
    // Others go on, with a new epoch.
    CHECK(world.opens());
    CHECK(world.free() == before);
    doorbell::give_back(*world.slot);
    CHECK(world.settles(before, 1));
    CHECK(truncate(world.fs(), world.inode, 0));
    CHECK(world.settles(before + kBlocks, 1));
  } else if (policy == PinPolicy::defer) {
    CHECK(truncating.get());
    CHECK(world.settles(before, 1 + kBlocks));
    // Recorded, so that a mount that follows a crash keeps it, too.
    CHECK(world.mounted.volume->pin_records().slots_used() == 2);
    doorbell::give_back(*world.slot);
    CHECK(world.settles(before + kBlocks, 1));
    CHECK(world.mounted.volume->pin_records().slots_used() == 1);
  } else {
    CHECK(truncating.get());
    CHECK(world.free() == before + kBlocks);  // that is the damage
    doorbell::give_back(*world.slot);
    CHECK(world.settles(before + kBlocks, 1));
  }
}

TEST_CASE("direct access: what changes a file is told in its doorbell") {
  Medium8 medium;
  World world(medium, direct_options(PinPolicy::refuse));
  world.attach();
  const auto said = [&] { return world.page->size.load(std::memory_order_relaxed); };
  const auto additions = [&] { return world.page->additions.load(std::memory_order_relaxed); };
  CHECK(said() == 0);
  const std::uint64_t first = additions();
  REQUIRE(testing::write(world.fs(), *world.file, 0, "some bytes"));
  CHECK(said() == 10);
  CHECK(additions() > first);
  REQUIRE(world.fs().space().allocate(*world.file, FileOffset(0), ByteCount(3 * kBlockSize), false,
                                      kRoot));
  CHECK(said() == 3 * kBlockSize);
  REQUIRE(truncate(world.fs(), world.inode, 5));
  CHECK(said() == 5);
  // A time that a client has left there.
  world.page->written.store(12345, std::memory_order_relaxed);
  const auto before = world.fs().attributes().get(world.inode);
  CHECK(before->st_mtim.tv_sec > 0);  // an older one changes nothing
  CHECK(world.page->written.load(std::memory_order_relaxed) == 0);
}

TEST_CASE("direct access: who uses the page cache sends everybody into the kernel, for a while") {
  Medium8 medium;
  World world(medium, direct_options(PinPolicy::refuse));
  world.fill();
  const auto cached = world.fs().files().open(world.inode, O_RDWR);
  REQUIRE(cached);
  CHECK_FALSE((*cached)->direct);
  world.attach();
  CHECK(world.epoch());
  REQUIRE(testing::read(world.fs(), **cached, 0, 10));
  CHECK_FALSE(doorbell::is_open(world.page->epoch.load(std::memory_order_relaxed)));
  CHECK_FALSE(world.epoch());
  // Nobody drops pages here, so the kernel would still have them.
  std::this_thread::sleep_for(std::chrono::milliseconds(150));
  CHECK_FALSE(world.epoch());
  cached.value()->inode->page_cached = false;
  CHECK(world.opens());
  // Who opens it now bypasses the cache.
  const auto later = world.fs().files().open(world.inode, O_RDONLY);
  CHECK((*later)->direct);
  world.fs().files().release(*later);
  world.fs().files().release(*cached);
}

TEST_CASE("direct access: the next mount closes doorbells for good, and keeps what is copied") {
  Medium8 medium;
  PoolOffset page_at;
  std::uint64_t epoch = 0;
  std::uint64_t free_before = 0;
  doorbell::Slot* slot = nullptr;
  const bool copying = GENERATE(false, true);
  {
    World world(medium, direct_options(PinPolicy::refuse));
    world.fill();
    world.attach();
    page_at = world.terms.page;
    epoch = *world.epoch();
    free_before = world.free();
    slot = world.slot;
    if (copying) REQUIRE(doorbell::take(*world.page, *slot, epoch));
    // The daemon dies: nothing is said to anybody.
  }
  doorbell::Page& page = doorbell_at(medium, block_of(page_at));
  REQUIRE(page.epoch.load(std::memory_order_relaxed) == epoch);
  {
    World next(medium, direct_options(PinPolicy::refuse));
    CHECK(page.epoch.load(std::memory_order_relaxed) == doorbell::kClosedForGood);
    CHECK(next.limbo() == 1);
    CHECK(next.free() == free_before);
    CHECK_FALSE(doorbell::take(page, *slot, epoch));
    if (!copying) {
      CHECK(truncate(next.fs(), next.inode, 0));
      CHECK(next.free() == free_before + kBlocks);
      return;
    }
    CHECK(truncate(next.fs(), next.inode, 0) == fail(ETXTBSY));
    CHECK(next.mounted.volume->pin_records().slots_used() == 2);
    doorbell::give_back(*slot);
    for (int i = 0; i < 300 && !truncate(next.fs(), next.inode, 0); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    CHECK(next.settles(free_before + kBlocks, 1));
  }
}

TEST_CASE("direct access: what a detach has left to a copy is kept by the next mount, too") {
  Medium8 medium;
  std::uint64_t free_before = 0;
  {
    World world(medium, direct_options(PinPolicy::defer, 30));
    world.fill();
    world.attach();
    free_before = world.free();
    REQUIRE(doorbell::take(*world.page, *world.slot, *world.epoch()));
    auto truncating = world.truncate_later();
    REQUIRE(is_over(truncating, kLong));
    CHECK(truncating.get());
    CHECK(world.settles(free_before, 1 + kBlocks));
    // The daemon dies, and the client is still in the middle of it.
  }
  World next(medium, direct_options(PinPolicy::defer));
  CHECK(next.limbo() == 1 + kBlocks);
  CHECK(next.free() == free_before);
}
