#include "blockmap/pin_records.h"

#include <map>
#include <random>
#include <thread>

#include "blockmap/volume/check.h"
#include "tests/unit/catch.h"
#include "tests/unit/pin_record_helpers.h"

using namespace daxfs;
using namespace daxfs::test;

namespace {

constexpr ByteCount kSmall{pmem::kMinPoolBytes};  // a region of one block: 31 slots
constexpr std::uint64_t kSlots = pmem::kPinSlotsPerBlock - 1;

std::vector<PinSlot> add_pins(Volume& volume, std::uint64_t count) {
  std::vector<PinSlot> slots;
  for (std::uint64_t i = 0; i < count; ++i) {
    const auto slot = volume.pin_records().add(pin_of(i), runs_of(volume, 1, 3 * i));
    REQUIRE(slot);
    slots.push_back(*slot);
  }
  return slots;
}

// What was given back belongs to others now.
void overwrite_free_blocks(Volume& volume) {
  const std::vector<std::byte> garbage(kBlockSize, std::byte{0xa5});
  for (const PoolRange& run : volume.allocator().snapshot()) {
    for (PoolBlock block = run.start; block < run.end(); block += BlockCount(1)) {
      volume.medium().write(offset_of(block), garbage);
    }
  }
}

void require_sound(Medium& medium) {
  const CheckReport report = check_volume(medium, "test.pool");
  for (const std::string& error : report.errors) UNSCOPED_INFO(error);
  REQUIRE(report.ok());
}

}  // namespace

TEST_CASE("pins of any number of runs are found as they were, until they are removed") {
  const auto medium = make_pool(ByteCount(8 << 20));
  const std::size_t runs[] = {0, 1, 2, 6, 7, 8, 13, 14, 100};
  std::map<PinSlot, std::pair<PinRecord, std::vector<PoolRange>>> added;
  {
    const auto volume = open_volume(*medium);
    std::size_t slots = 0;
    for (const std::size_t count : runs) {
      const auto blocks = runs_of(*volume, count, count);
      const auto slot = volume->pin_records().add(pin_of(count), blocks);
      REQUIRE(slot);
      added[*slot] = {pin_of(count), blocks};
      slots += pin_slots_for(count);
    }
    CHECK(volume->pin_records().slots_used() == slots);
  }
  const auto require_found = [&](Volume& volume) {
    REQUIRE(volume.survivors().size() == added.size());
    for (const SurvivingPin& survivor : volume.survivors()) {
      REQUIRE(added.contains(survivor.slot));
      CHECK(survivor.pin == added[survivor.slot].first);
      CHECK(survivor.blocks == added[survivor.slot].second);
    }
  };
  require_found(*open_with(*medium, everybody, true));
  while (!added.empty()) {
    const auto volume = open_with(*medium, everybody);
    require_found(*volume);
    std::size_t slots = 0;
    for (const auto& [slot, pin] : added) slots += pin_slots_for(pin.second.size());
    CHECK(volume->pin_records().slots_used() == slots);
    volume->pin_records().remove(added.begin()->first);
    slots -= pin_slots_for(added.begin()->second.second.size());
    CHECK(volume->pin_records().slots_used() == slots);
    added.erase(added.begin());
    if (added.size() % 2 == 0) volume->close_clean();
  }
  CHECK(open_with(*medium, everybody)->survivors().empty());
}

TEST_CASE("records of the dead are taken off the medium, but not by a read-only mount") {
  const auto medium = make_pool(kSmall);
  add_pins(*open_volume(*medium), 200);
  {
    const auto before = copy_of(*medium);
    const auto volume = open_with(*medium, nobody, true);
    CHECK(volume->pin_records().found().of_the_dead == 200);
    CHECK(volume->survivors().empty());
    CHECK(std::memcmp(before->at(PoolBlock(0)), medium->at(PoolBlock(0)), kSmall.value) == 0);
    CHECK(volume->pin_records().add(pin_of(1), {}).error().code == EROFS);
  }
  const auto odd = [](const PinOwner& owner) { return owner.process % 2 == 1; };
  {
    const auto volume = open_with(*medium, nobody);
    CHECK(volume->pin_records().found().of_the_dead == 200);
    CHECK(free_blocks(*volume) == volume->data_blocks().value);
    for (pid_t i = 1; i <= 100; ++i) {
      REQUIRE(volume->pin_records().add(pin_of(9, i), runs_of(*volume, 9)));
    }
  }
  for (int round = 0; round < 2; ++round) {
    const auto volume = open_with(*medium, odd);
    CHECK(volume->pin_records().found().of_the_dead == (round == 0 ? 50 : 0));
    CHECK(volume->pin_records().found().torn == 0);
    CHECK(volume->survivors().size() == 50);
    CHECK(volume->pin_records().slots_used() == 50 * pin_slots_for(9));
  }
}

TEST_CASE("a full region goes on in the data area, which is given back to the block") {
  const auto medium = make_pool(kSmall);
  const auto volume = open_volume(*medium);
  PinRecords& records = volume->pin_records();
  const std::uint64_t before = free_blocks(*volume);
  std::vector<PinSlot> slots = add_pins(*volume, kSlots);
  CHECK(free_blocks(*volume) == before);
  for (const PinSlot slot : add_pins(*volume, 5 * kSlots + 1)) slots.push_back(slot);
  CHECK(records.spill_blocks().value == 6);
  CHECK(free_blocks(*volume) == before - 6);
  std::mt19937_64 random(GENERATE(1u, 2u, 3u));
  std::shuffle(slots.begin(), slots.end(), random);
  SECTION("one by one") {
    std::size_t left = slots.size();
    for (const PinSlot slot : slots) {
      records.remove(slot);
      CHECK(free_blocks(*volume) + records.spill_blocks().value == before);
      overwrite_free_blocks(*volume);
      CHECK(open_with(*medium, everybody, true)->survivors().size() == --left);
    }
  }
  SECTION("at once") {
    records.remove_many(slots);
    overwrite_free_blocks(*volume);
  }
  SECTION("in two mounts") {
    records.remove_many(std::span(slots).first(100));
    const auto again = open_with(*medium, everybody);
    CHECK(free_blocks(*again) + again->pin_records().spill_blocks().value +
              blocks_in(again->survivors_limbo()) ==
          before);
    again->pin_records().remove_many(std::span(slots).subspan(100));
    CHECK(again->pin_records().spill_blocks().value == 0);
    CHECK(free_blocks(*again) + blocks_in(again->survivors_limbo()) == before);
    CHECK(free_blocks(*open_with(*medium, everybody)) == before);
    return;
  }
  CHECK(records.slots_used() == 0);
  CHECK(records.spill_blocks().value == 0);
  CHECK(free_blocks(*volume) == before);
  CHECK(open_with(*medium, everybody, true)->survivors().empty());
  require_sound(*medium);
}

TEST_CASE("a region grows in steps, and shrinks at the next mount") {
  const auto medium = make_pool(ByteCount(512 << 20));  // 32 blocks
  const auto header = [&] {
    const auto super = medium->load<pmem::Superblock>(PoolOffset(0));
    return medium->load<pmem::PinRegionHeader>(offset_of(PoolBlock(super.pin_region_start)));
  };
  // What lies there before must not show.
  const auto super = medium->load<pmem::Superblock>(PoolOffset(0));
  const std::vector<std::byte> garbage(31 * kBlockSize, std::byte{0xa5});
  medium->write(offset_of(PoolBlock(super.pin_region_start + 1)), garbage);
  {
    const auto volume = open_volume(*medium);
    add_pins(*volume, 31 * kSlots);
    CHECK(volume->pin_records().spill_blocks().value == 0);
    CHECK(header().ready_blocks == 32);
    CHECK(free_blocks(*volume) == volume->data_blocks().value);
  }
  CHECK(open_with(*medium, everybody)->survivors().size() == 31 * kSlots);
  open_with(*medium, nobody);
  CHECK(header().ready_blocks == 1);
  CHECK(open_with(*medium, everybody)->survivors().empty());

  // The dead do not rise with the blocks that they lay in.
  add_pins(*open_volume(*medium), kSlots + 1);
  CHECK(header().ready_blocks == 17);
  CHECK(open_with(*medium, everybody)->survivors().size() == kSlots + 1);
}

TEST_CASE("records of users who are not trusted take a share of the pool, and leave the rest") {
  const auto medium = make_pool(ByteCount(8 << 20));
  const auto volume = open_volume(*medium);
  PinRecords& records = volume->pin_records();
  const auto run = runs_of(*volume, 1);
  const std::uint64_t share = (8 << 20) / kBlockSize / PinRecords::kShare;
  Result<PinSlot> slot;
  while ((slot = records.add(pin_of(1), run, PinRoom::share))) {
  }
  CHECK(slot.error().code == ENOMEM);
  CHECK(records.spill_blocks() == BlockCount(share));
  // A record of several slots, too, is there whole or not at all.
  const std::uint64_t used = records.slots_used();
  CHECK(records.add(pin_of(1), runs_of(*volume, 200), PinRoom::share).error().code == ENOMEM);
  CHECK(records.slots_used() == used);
  CHECK(records.add(pin_of(1), run));
  CHECK(records.spill_blocks() == BlockCount(share + 1));
}

TEST_CASE("a full pool refuses what does not fit, and changes nothing") {
  const auto medium = make_pool(kSmall);
  const auto volume = open_volume(*medium);
  PinRecords& records = volume->pin_records();
  std::vector<PoolRange> hog;
  const BlockCount all = volume->allocator().free_blocks();
  REQUIRE(volume->allocator().allocate(all - BlockCount(2), PoolBlock(0), hog));

  const auto blocks = runs_of(*volume, 6 * 3 * kSlots);
  CHECK(records.add(pin_of(1), blocks).error().code == ENOSPC);
  CHECK(records.slots_used() == 0);
  CHECK(free_blocks(*volume) == 2);
  CHECK(records.add(pin_of(1), std::span(blocks).first(10)));
  CHECK(records.add(pin_of(1), blocks).error().code == ENOSPC);
  CHECK(records.slots_used() == pin_slots_for(10));
  CHECK(free_blocks(*volume) == 2);
  CHECK(open_with(*medium, everybody, true)->survivors().size() == 1);
  add_pins(*volume, 3 * kSlots - pin_slots_for(10));
  CHECK(records.add(pin_of(1), {}).error().code == ENOSPC);
  CHECK(open_with(*medium, everybody, true)->survivors().size() == 3 * kSlots - 2);
}

TEST_CASE("add and remove cost one fence each, also at the border of a block") {
  const auto medium = make_pool(kSmall);
  const auto volume = open_volume(*medium);
  PinRecords& records = volume->pin_records();
  add_pins(*volume, 4 * kSlots);
  std::size_t fences = 0;
  const auto cycle = [&](std::size_t runs) {
    fences = 0;
    const auto slot = records.add(pin_of(1), runs_of(*volume, runs));
    REQUIRE(slot);
    records.remove(*slot);
    return fences;
  };
  medium->on_fence = [&] { ++fences; };
  CHECK(cycle(1) > 2);  // a new block
  CHECK(cycle(1) == 2);
  CHECK(cycle(100) == 2);
  const auto slots = add_pins(*volume, 10);
  fences = 0;
  records.remove_many(slots);
  CHECK(fences == 1);
  records.remove_many({});
  CHECK(fences == 1);
}

TEST_CASE("a set of records that is not whole counts as absent") {
  const auto medium = make_pool(kSmall);
  PinSlot kept;
  PinSlot broken;
  {
    const auto volume = open_volume(*medium);
    kept = *volume->pin_records().add(pin_of(1), runs_of(*volume, 9));
    broken = *volume->pin_records().add(pin_of(2), runs_of(*volume, 13));
  }
  std::vector<PinSlot> set{broken};
  while (set.size() < 3) {
    set.push_back({medium->load<pmem::PinHead>(offset_of(set.back())).next});
  }
  for (const PinSlot slot : set) {
    for (std::uint64_t word = 0; word < pmem::kPinSlotBytes; word += 8) {
      const PoolOffset place = offset_of(slot) + ByteCount(word);
      const auto image = copy_of(*medium);
      const auto old = image->load<std::uint64_t>(place);
      image->store_u64(place, old ^ (old != 0 && word % 16 == 0 ? old : 1ull << word % 64));
      INFO("slot " << slot.position << " word " << word);
      for (int round = 0; round < 2; ++round) {
        const auto volume = open_with(*image, everybody);
        REQUIRE(volume->survivors().size() == 1);
        CHECK(volume->survivors().front().slot == kept);
        CHECK(volume->pin_records().slots_used() == 3);
        if (round == 1) CHECK(volume->pin_records().found().torn == 0);
      }
    }
  }
}

TEST_CASE("what the mount took for no pin cannot come back") {
  const auto medium = make_pool(kSmall);
  const auto volume = open_volume(*medium);
  PinRecords& records = volume->pin_records();
  // The continuation of a removed pin is still there; a head of a later pin must not find it.
  const auto blocks = runs_of(*volume, 5);
  const PinSlot old = *records.add(pin_of(1), blocks);
  const auto old_head = medium->load<pmem::PinHead>(offset_of(old));
  records.remove(old);
  const PinSlot slot = *records.add(pin_of(2), blocks);
  const auto head = medium->load<pmem::PinHead>(offset_of(slot));
  CHECK(slot == old);
  CHECK(head.next == old_head.next);
  CHECK(head.sequence != old_head.sequence);
  const auto more = medium->load<pmem::PinContinuation>(offset_of(PinSlot{head.next}));
  auto stale = more;
  stale.sequence = old_head.sequence;
  put_pin_record(*medium, {head.next}, stale);
  CHECK(open_with(*medium, everybody, true)->survivors().empty());
  put_pin_record(*medium, {head.next}, more);
  CHECK(open_with(*medium, everybody, true)->survivors().size() == 1);

  // Nor does a later mount begin its sequence anew.
  records.remove(slot);
  const auto again = open_with(*medium, everybody);
  const PinSlot later = *again->pin_records().add(pin_of(3), blocks);
  CHECK(medium->load<pmem::PinHead>(offset_of(later)).sequence != head.sequence);
}

TEST_CASE("a record is one only where it was written") {
  const auto medium = make_pool(kSmall);
  const auto volume = open_volume(*medium);
  const PinSlot slot = *volume->pin_records().add(pin_of(1), runs_of(*volume, 1));
  const auto head = medium->load<pmem::PinHead>(offset_of(slot));
  medium->store(offset_of(PinSlot{slot.position + 3}), std::as_bytes(std::span(&head, 1)));
  const auto again = open_with(*medium, everybody);
  CHECK(again->survivors().size() == 1);
  CHECK(again->pin_records().found().torn == 1);
}

TEST_CASE("records that no crash explains are dropped by a mount and reported by a check") {
  const auto medium = make_pool(kSmall);
  PinSlot slot;
  {
    const auto volume = open_volume(*medium);
    slot = *volume->pin_records().add(pin_of(1), runs_of(*volume, 13));
    volume->close_clean();
  }
  require_sound(*medium);
  const auto good = medium->load<pmem::PinHead>(offset_of(slot));
  const PinSlot second{good.next};
  const auto more = medium->load<pmem::PinContinuation>(offset_of(second));
  const auto expect = [&](const std::string& part) {
    const CheckReport report = check_volume(*medium, "test.pool");
    REQUIRE(report.errors.size() == 1);
    CHECK(report.errors.front().find(part) != std::string::npos);
    const auto volume = open_with(*medium, everybody);
    CHECK(volume->survivors().empty());
    CHECK(free_blocks(*volume) == volume->data_blocks().value);
    volume->close_clean();
    require_sound(*medium);
  };
  const auto with = [&](auto member, auto value, const std::string& part) {
    auto head = good;
    head.*member = value;
    put_pin_record(*medium, slot, head);
    expect(part);
  };
  const std::uint64_t last = medium->blocks().value - 1;
  using H = pmem::PinHead;
  SECTION("process 0") { with(&H::process, 0u, "names no process"); }
  SECTION("process -1") { with(&H::process, ~0u, "names no process"); }
  SECTION("inode") { with(&H::inode, std::uint64_t{0}, "names no inode"); }
  SECTION("offset") { with(&H::offset, ~0ull, "impossible range"); }
  SECTION("flags") { with(&H::flags, std::uint16_t{6}, "unknown flags"); }
  SECTION("a run before") {
    with(&H::first, pmem::PinnedRun{5, 1}, "names blocks outside the data area");
  }
  SECTION("a run behind") {
    with(&H::first, pmem::PinnedRun{last, 1}, "names blocks outside the data area");
  }
  SECTION("a run across") {
    with(&H::first, pmem::PinnedRun{last - 1, ~0ull}, "names blocks outside the data area");
  }
  SECTION("an empty run") {
    with(&H::first, pmem::PinnedRun{last - 1, 0}, "names blocks outside the data area");
  }
  SECTION("more runs than records") { with(&H::runs, 1000u, "goes on outside the pin records"); }
  SECTION("another number of runs") { with(&H::runs, 10u, "another number of runs"); }
  SECTION("fewer runs than records") { with(&H::runs, 1u, "goes on behind its end"); }
  SECTION("next") { with(&H::next, std::uint64_t{1} << 60, "goes on outside the pin records"); }
  SECTION("next is a header") {
    with(&H::next, slot_of(block_of(slot), 0).position, "goes on outside the pin records");
  }
  SECTION("a loop") {
    auto head = good;
    head.runs = 1u << 30;
    put_pin_record(*medium, slot, head);
    auto loop = more;
    loop.next = second.position;
    put_pin_record(*medium, second, loop);
    expect("goes on where another one does");
  }
  SECTION("a run of a continuation") {
    auto bad = more;
    bad.runs[3].block = 1ull << 52;
    put_pin_record(*medium, second, bad);
    expect("names blocks outside the data area");
  }
  SECTION("damage after a good unmount") {
    flip_bit(*medium, offset_of(slot) + ByteCount(60), 3);
    expect("1 are damaged");
  }
}

TEST_CASE("damaged headers of pin records are refused by name") {
  const auto medium = make_pool(kSmall);
  PoolBlock spilled;
  PoolBlock region;
  {
    const auto volume = open_volume(*medium);
    region = PoolBlock(volume->superblock().pin_region_start);
    spilled = block_of(add_pins(*volume, 3 * kSlots).back());
  }
  const auto refused = [&](const std::string& part) {
    const auto volume = Volume::open(*medium, "test.pool", false, 1, everybody);
    REQUIRE_FALSE(volume);
    CHECK(volume.error().text.find("test.pool: pin records, block ") == 0);
    CHECK(volume.error().text.find(part) != std::string::npos);
    CHECK(volume.error().code == EUCLEAN);
  };
  auto header = medium->load<pmem::PinRegionHeader>(offset_of(region));
  auto spill = medium->load<pmem::PinSpillHeader>(offset_of(spilled));
  SECTION("the region's") {
    flip_bit(*medium, offset_of(region) + ByteCount(100), 1);
    refused("the region's checksum does not match");
  }
  SECTION("more than the region has") {
    header.ready_blocks = 2;
    put_pin_record(*medium, slot_of(region, 0), header);
    refused("more of it is initialised than there is");
  }
  SECTION("a chain out of the data area") {
    header.spill = 3;
    put_pin_record(*medium, slot_of(region, 0), header);
    refused("outside the data area");
  }
  SECTION("a chained block") {
    flip_bit(*medium, offset_of(spilled) + ByteCount(100), 1);
    refused("checksum does not match");
  }
  SECTION("a loop") {
    spill.next = spilled.value;
    put_pin_record(*medium, slot_of(spilled, 0), spill);
    refused("the chain is a loop");
  }
}

TEST_CASE("a block of pin records that somebody else owns is refused, and both are named") {
  const auto medium = make_pool(kSmall);
  const auto volume = open_volume(*medium);
  OpenInode root = open_inode(*volume, kRootInode);
  OpenInode file = create(*volume, root, "file", S_IFREG | 0644);
  const PoolBlock spilled = block_of(add_pins(*volume, kSlots + 1).back());
  Transaction tx;
  REQUIRE(file.map->reserve(file.record, 1));
  file.map->insert(tx, {FileBlock(0), spilled, BlockCount(1), false});
  REQUIRE(volume->journal().commit(tx));
  const auto again = Volume::open(*medium, "test.pool", true, 1, everybody);
  REQUIRE_FALSE(again);
  CHECK(again.error().text.find("by the pin records and by inode " +
                                std::to_string(file.number.value)) != std::string::npos);
}

TEST_CASE("threads add and remove at the same time") {
  const auto medium = make_pool(kSmall);
  std::vector<std::vector<PinSlot>> left(4);
  std::uint64_t all = 0;
  {
    const auto volume = open_volume(*medium);
    all = free_blocks(*volume);
    std::vector<std::jthread> threads;
    for (std::size_t t = 0; t < left.size(); ++t) {
      threads.emplace_back([&volume, &mine = left[t], t] {
        std::mt19937_64 random(t);
        for (std::uint64_t i = 0; i < 2000; ++i) {
          if (random() % 100 < (i < 1000 ? 60 : 45) || mine.empty()) {
            const std::vector<PoolRange> runs(random() % 10,
                                              {volume->data_area().start, BlockCount(1 + t)});
            const auto slot = volume->pin_records().add(pin_of(i, static_cast<pid_t>(t + 1)), runs);
            if (slot) mine.push_back(*slot);
          } else {
            std::swap(mine[random() % mine.size()], mine.back());
            volume->pin_records().remove(mine.back());
            mine.pop_back();
          }
        }
      });
    }
  }
  std::map<PinSlot, pid_t> expected;
  for (std::size_t t = 0; t < left.size(); ++t) {
    for (const PinSlot slot : left[t]) {
      REQUIRE(expected.emplace(slot, static_cast<pid_t>(t + 1)).second);
    }
  }
  const auto volume = open_with(*medium, everybody);
  REQUIRE(volume->survivors().size() == expected.size());
  std::vector<PinSlot> slots;
  for (const SurvivingPin& survivor : volume->survivors()) {
    CHECK(expected.at(survivor.slot) == survivor.pin.owner.process);
    slots.push_back(survivor.slot);
  }
  volume->pin_records().remove_many(slots);
  CHECK(free_blocks(*volume) + blocks_in(volume->survivors_limbo()) == all);
}
