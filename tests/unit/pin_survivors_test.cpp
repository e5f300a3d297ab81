// Pins whose owners outlive the daemon: what a mount keeps for them.
#include <map>
#include <random>
#include <set>

#include "blockmap/volume/check.h"
#include "blockmap/volume/detach.h"
#include "tests/unit/catch.h"
#include "tests/unit/pin_record_helpers.h"

using namespace daxfs;
using namespace daxfs::test;

namespace {

constexpr ByteCount kSize(8 << 20);

struct Fixture {
  std::unique_ptr<FenceMedium> medium = make_pool(kSize);
  std::unique_ptr<Volume> volume = open_volume(*medium);
  OpenInode root = open_inode(*volume, kRootInode);
  OpenInode file = create(*volume, root, "file", S_IFREG | 0644);
  // The root keeps its block when the file's name goes.
  OpenInode other = create(*volume, root, "other", S_IFREG | 0644);
  std::uint64_t all_free = 0;  // without blocks of the file
  std::vector<PoolRange> blocks;

  Fixture() {
    all_free = free_blocks(*volume);
    map_blocks(*volume, file, {0, 1, 2, 10, 20, 30});
    blocks = file.map->physical(to_end(FileBlock(0)));
  }
  PinSlot pin(std::vector<PoolRange> ranges, pid_t process = 42) {
    const auto slot = volume->pin_records().add(pin_of(file.number.value, process), ranges);
    REQUIRE(slot);
    return *slot;
  }
  // The daemon dies; a new one mounts.
  void crash(const OwnerAlive& alive = everybody) {
    volume.reset();
    volume = open_with(*medium, alive);
  }
  // As `pin_policy=defer` does with pinned blocks: the file loses them, the allocator does not get
  // them.
  std::vector<PoolRange> detach(FileRange range) {
    std::vector<PoolRange> removed;
    REQUIRE(prepare_detach(*volume, file.number, file.record, *file.map, range));
    REQUIRE(detach_extents(*volume, file.number, file.record, *file.map, range, removed));
    return removed;
  }
  void require_sound() {
    const CheckReport report = check_volume(*medium, "test.pool");
    for (const std::string& error : report.errors) UNSCOPED_INFO(error);
    REQUIRE(report.ok());
  }
};

}  // namespace

TEST_CASE_METHOD(Fixture, "pinned blocks of a file stay the file's") {
  const PinSlot slot = pin(blocks);
  const std::uint64_t free = free_blocks(*volume);
  crash();
  REQUIRE(volume->survivors().size() == 1);
  CHECK(volume->survivors().front().slot == slot);
  CHECK(volume->survivors().front().blocks == blocks);
  CHECK(volume->survivors().front().unowned.empty());
  CHECK(volume->survivors_limbo().empty());
  CHECK(free_blocks(*volume) == free);
  require_sound();
}

TEST_CASE_METHOD(Fixture, "blocks that left their file stay out of the free space") {
  pin(blocks);
  const auto removed = detach({FileBlock(1), BlockCount(10)});
  REQUIRE(blocks_in(removed) == 3);
  const std::uint64_t free = free_blocks(*volume);
  for (int round = 0; round < 3; ++round) {
    crash();
    REQUIRE(volume->survivors().size() == 1);
    CHECK(blocks_in(volume->survivors().front().unowned) == 3);
    CHECK(volume->survivors().front().unowned == volume->survivors_limbo());
    CHECK(free_blocks(*volume) == free);
    CHECK(none_is_free(*volume, removed));
    // Neither does a good unmount forget them.
    if (round == 1) volume->close_clean();
    // What is free is free for all: nothing of limbo is handed out.
    std::vector<PoolRange> everything;
    REQUIRE(
        volume->allocator().allocate(volume->allocator().free_blocks(), PoolBlock(0), everything));
    CHECK(std::ranges::none_of(everything, [&](PoolRange run) {
      return std::ranges::any_of(removed, [&](PoolRange gone) {
        return run.start < gone.end() && gone.start < run.end();
      });
    }));
  }
  SECTION("until the owner is dead") {
    crash(nobody);
    CHECK(volume->survivors_limbo().empty());
    CHECK(free_blocks(*volume) == free + 3);
    crash();
    CHECK(volume->survivors().empty());
  }
  SECTION("until they are given up") {
    crash();
    volume->pin_records().remove(volume->survivors().front().slot);
    for (const PoolRange& range : volume->survivors_limbo()) {
      REQUIRE(volume->allocator().free(range));
    }
    CHECK(free_blocks(*volume) == free + 3);
    crash();
    CHECK(volume->survivors().empty());
    CHECK(free_blocks(*volume) == free + 3);
  }
  require_sound();
}

TEST_CASE_METHOD(Fixture, "a file that is gone leaves its pinned blocks, and those alone") {
  pin({blocks.front()});
  const std::uint64_t pinned = blocks.front().count.value;
  SECTION("an orphan") {
    unlink(*volume, root, "file", &file);
    CHECK(file.record.links == 0);
  }
  SECTION("an interrupted truncation") {
    file.record.detach_end = pmem::kDetachToEnd;
    commit_record(*volume, file);
  }
  for (int round = 0; round < 2; ++round) {
    crash();
    CHECK(volume->report().orphans_freed + volume->report().detaches_finished ==
          (round == 0 ? 1 : 0));
    REQUIRE(volume->survivors().size() == 1);
    CHECK(volume->survivors().front().unowned == std::vector{blocks.front()});
    CHECK(free_blocks(*volume) == all_free - pinned);
    CHECK(none_is_free(*volume, {blocks.front()}));
    require_sound();
  }
  crash(nobody);
  CHECK(free_blocks(*volume) == all_free);
}

TEST_CASE_METHOD(Fixture, "a crash while a mount frees an orphan loses no survivor") {
  pin({blocks.front()});
  unlink(*volume, root, "file", &file);
  volume.reset();
  std::vector<std::unique_ptr<FenceMedium>> crashes;
  medium->on_fence = [&] { crashes.push_back(copy_of(*medium)); };
  volume = open_with(*medium, everybody);
  medium->on_fence = nullptr;
  REQUIRE(crashes.size() > 3);
  for (const auto& image : crashes) {
    const auto again = open_with(*image, everybody);
    CHECK(again->survivors_limbo() == std::vector{blocks.front()});
    CHECK(free_blocks(*again) == all_free - blocks.front().count.value);
  }
}

TEST_CASE_METHOD(Fixture, "several pins of a block keep it, each by itself") {
  const PoolRange run{blocks.front().start, BlockCount(1)};
  pin({run}, 1);
  pin({blocks.front()}, 2);
  pin({blocks.back()}, 3);
  detach(to_end(FileBlock(0)));
  crash([](const PinOwner& owner) { return owner.process != 3; });
  REQUIRE(volume->survivors().size() == 2);
  CHECK(volume->survivors()[0].unowned == std::vector{run});
  CHECK(volume->survivors()[1].unowned == std::vector{blocks.front()});
  CHECK(volume->survivors_limbo() == std::vector{blocks.front()});
  crash([](const PinOwner& owner) { return owner.process == 1; });
  CHECK(volume->survivors_limbo() == std::vector{run});
  CHECK(free_blocks(*volume) == all_free - 1);
}

TEST_CASE_METHOD(Fixture, "a pin that is locked survives its process") {
  pin({blocks.front()}, 2);
  pin({blocks.back()}, 3);
  detach(to_end(FileBlock(0)));
  volume.reset();
  unsigned asked = 0;
  const PinLocked locked = [&](std::uint64_t pin_id) {
    ++asked;
    return pin_id == file.number.value;
  };
  auto opened = Volume::open(
      *medium, "test.pool", false, 1, [](const PinOwner& owner) { return owner.process == 2; },
      locked);
  REQUIRE(opened);
  CHECK(asked == 1);
  CHECK((*opened)->survivors().size() == 2);
  opened->reset();
  crash(nobody);
  CHECK(volume->survivors().empty());
}

TEST_CASE_METHOD(Fixture, "what is recorded of a holder comes back") {
  PinRecord record = pin_of(7);
  record.owner.process = 0;
  record.owner.start_time = 0;
  record.owner.pid_namespace = 4026532000;
  REQUIRE(volume->pin_records().add(record, std::vector{blocks.front()}));
  crash();
  REQUIRE(volume->survivors().size() == 1);
  CHECK(volume->survivors()[0].pin == record);
}

TEST_CASE_METHOD(Fixture, "a check counts what living processes keep") {
  const auto self = identify_process(::getpid(), ::getuid());
  REQUIRE(self);
  PinRecord mine = pin_of(1);
  mine.owner = *self;
  REQUIRE(volume->pin_records().add(mine, blocks));
  detach({FileBlock(0), BlockCount(3)});
  const CheckReport report = check_volume(*medium, "test.pool");
  CHECK(report.ok());
  CHECK(report.pins == 1);
  CHECK(report.kept_blocks == 3);
  CHECK(report.free_blocks == free_blocks(*volume));
  CHECK(report.metadata_blocks + report.data_blocks + report.kept_blocks + report.free_blocks ==
        volume->superblock().total_blocks);

  // After a reboot there is nobody to keep anything for.
  const PinSlot slot{slot_of(PoolBlock(volume->superblock().pin_region_start), 1)};
  auto head = medium->load<pmem::PinHead>(offset_of(slot));
  head.boot[3] ^= 1;
  put_pin_record(*medium, slot, head);
  CHECK(check_volume(*medium, "test.pool").kept_blocks == 0);
}

TEST_CASE("an owner is asked for once, however many pins it has") {
  const auto medium = make_pool(kSize);
  {
    const auto volume = open_volume(*medium);
    for (int i = 0; i < 100; ++i) {
      REQUIRE(volume->pin_records().add(pin_of(1, 1 + i % 3), runs_of(*volume, 1)));
    }
  }
  std::map<pid_t, int> asked;
  const auto volume = open_with(*medium, [&](const PinOwner& owner) {
    CHECK(owner == owner_of(owner.process));
    ++asked[owner.process];
    return true;
  });
  CHECK(asked == std::map<pid_t, int>{{1, 1}, {2, 1}, {3, 1}});
  CHECK(volume->survivors().size() == 100);
}

// Random histories of pins beside a simple reference: which pins there are, who lives, which blocks
// are in use.
TEST_CASE("random histories of pins, deaths and mounts") {
  const std::uint64_t seed = GENERATE(1u, 2u, 3u, 4u, 5u, 6u);
  INFO("seed " << seed);
  std::mt19937_64 random(seed);
  const auto medium = make_pool(ByteCount(pmem::kMinPoolBytes));
  struct Pin {
    PinRecord record;
    std::vector<PoolRange> blocks;
  };
  std::map<PinSlot, Pin> pins;
  std::set<pid_t> living;
  std::uint64_t next_id = 1;
  const auto alive = [&](const PinOwner& owner) { return living.contains(owner.process); };
  auto volume = open_with(*medium, alive);
  const std::uint64_t all = free_blocks(*volume);

  const auto count_blocks = [&] {
    std::set<std::uint64_t> blocks;
    for (const auto& [slot, pin] : pins) {
      for (const PoolRange& range : pin.blocks) {
        for (std::uint64_t i = 0; i < range.count.value; ++i) blocks.insert(range.start.value + i);
      }
    }
    return blocks.size();
  };
  const auto end = [&](std::map<PinSlot, Pin>::iterator pin) {
    volume->pin_records().remove(pin->first);
    for (const PoolRange& range : pin->second.blocks) REQUIRE(volume->allocator().free(range));
    return pins.erase(pin);
  };
  for (int step = 0; step < 3000; ++step) {
    const auto what = random() % 1000;
    const bool growing = step / 300 % 2 == 0;
    if (what < (growing ? 600u : 300u)) {
      const auto process = static_cast<pid_t>(1 + random() % 5);
      std::vector<PoolRange> blocks;
      const std::size_t wanted = random() % 4 == 0 ? random() % 20 : 1;
      for (std::size_t i = 0; i < wanted; ++i) {
        std::vector<PoolRange> one;
        if (!volume->allocator().allocate(BlockCount(1), PoolBlock(random() % 1024), one)) break;
        blocks.push_back(one.front());
      }
      Pin pin{pin_of(next_id++, process), blocks};
      const auto slot = volume->pin_records().add(pin.record, blocks);
      if (slot) {
        living.insert(process);
        REQUIRE(pins.emplace(*slot, pin).second);
      } else {
        REQUIRE(slot.error().code == ENOSPC);
        free_ranges(*volume, blocks);
      }
    } else if (what < 980) {
      if (pins.empty()) continue;
      auto pin = pins.begin();
      std::advance(pin, static_cast<std::ptrdiff_t>(random() % pins.size()));
      end(pin);
    } else {
      // Some die with the daemon, some while it is away, some live on.
      if (random() % 3 == 0) volume->close_clean();
      volume.reset();
      for (pid_t process = 1; process <= 5; ++process) {
        if (random() % 3 == 0) living.erase(process);
      }
      std::erase_if(
          pins, [&](const auto& pin) { return !living.contains(pin.second.record.owner.process); });
      volume = open_with(*medium, alive);
      REQUIRE(volume->survivors().size() == pins.size());
      for (const SurvivingPin& survivor : volume->survivors()) {
        const auto pin = pins.find(survivor.slot);
        REQUIRE(pin != pins.end());
        REQUIRE(survivor.pin == pin->second.record);
        REQUIRE(survivor.blocks == pin->second.blocks);
        REQUIRE(blocks_in(survivor.unowned) == blocks_in(survivor.blocks));
      }
      REQUIRE(none_is_free(*volume, volume->survivors_limbo()));
    }
    std::size_t slots = 0;
    for (const auto& [slot, pin] : pins) slots += pin_slots_for(pin.blocks.size());
    REQUIRE(volume->pin_records().slots_used() == slots);
    REQUIRE(free_blocks(*volume) + volume->pin_records().spill_blocks().value + count_blocks() ==
            all);
  }
  while (!pins.empty()) end(pins.begin());
  CHECK(volume->pin_records().spill_blocks().value == 0);
  CHECK(free_blocks(*volume) == all);
  CHECK(check_volume(*medium, "test.pool").ok());
}
