// Damage to pin records: what can be believed is kept, what cannot is dropped and said so.
#include <unistd.h>

#include "base/block_ranges.h"
#include "base/process_identity.h"
#include "tests/unit/fsck_fixture.h"
#include "tests/unit/pin_record_helpers.h"

using namespace daxfs;
using namespace daxfs::test;
using fsck::Code;
using fsck::Severity;
using pmem::PinContinuation;
using pmem::PinHead;

namespace {

struct FsckPins : FsckFixture {
  struct Pin {
    PinSlot slot;
    std::vector<PoolRange> blocks;
  };

  // Blocks that no file has: a pin keeps them in limbo.
  std::vector<PoolRange> take(std::size_t runs) {
    std::vector<PoolRange> taken;
    for (std::size_t i = 0; i < runs; ++i) {
      REQUIRE(volume->allocator().allocate(BlockCount(1), PoolBlock(0), taken));
    }
    for (const PoolRange& run : taken) {
      for (PoolBlock at = run.start; at < run.end(); at += BlockCount(1)) {
        medium->write(offset_of(at), pattern(at));
      }
    }
    return taken;
  }
  static std::vector<std::byte> pattern(PoolBlock at) {
    return std::vector<std::byte>(kBlockSize, std::byte(at.value * 7 + 1));
  }
  Pin add(std::vector<PoolRange> blocks, const PinOwner& owner) {
    PinRecord record = pin_of(file.number.value);
    record.owner = owner;
    const auto slot = volume->pin_records().add(record, blocks);
    REQUIRE(slot);
    return {*slot, std::move(blocks)};
  }
  Pin living(std::vector<PoolRange> blocks) {
    return add(std::move(blocks), *identify_process(::getpid(), ::getuid()));
  }
  Pin dead(std::vector<PoolRange> blocks) { return add(std::move(blocks), owner_of(42)); }

  // So many pins of one block each; from the 32nd on they lie in the data area.
  std::vector<Pin> many(std::size_t count) {
    std::vector<Pin> pins;
    for (std::size_t i = 0; i < count; ++i) pins.push_back(living(take(1)));
    return pins;
  }

  template <class Record, class Change>
  void forge_pin(PinSlot slot, const Change& change) {
    auto record = medium->load<Record>(offset_of(slot));
    change(record);
    put_pin_record(*medium, slot, record);
  }
  PinSlot header_of(PinSlot slot) const { return slot_of(block_of(slot), 0); }
  PinSlot region() const { return slot_of(PoolBlock(volume->superblock().pin_region_start), 0); }
  void leave_without_unmounting() {
    forge<pmem::PoolState>(offset_of(kStateBlock), sizeof(pmem::PoolState),
                           [](auto& s) { s.flags = 0; });
  }

  void require_kept(const std::vector<Pin>& pins) {
    const auto now = open_volume(*medium);
    for (const Pin& pin : pins) {
      INFO("pin record at byte " << offset_of(pin.slot).value);
      const auto found = std::ranges::find(now->survivors(), pin.slot, &SurvivingPin::slot);
      REQUIRE(found != now->survivors().end());
      REQUIRE(found->blocks == pin.blocks);
      REQUIRE(none_is_free(*now, pin.blocks));
    }
    now->close_clean();
  }
  void require_dropped(const Pin& pin) {
    const auto now = open_volume(*medium);
    CHECK(std::ranges::find(now->survivors(), pin.slot, &SurvivingPin::slot) ==
          now->survivors().end());
    now->close_clean();
  }
};

}  // namespace

TEST_CASE_METHOD(FsckPins, "fsck: sound pin records are no finding") {
  auto pins = many(40);
  pins.push_back(living(take(9)));
  dead(take(2));
  const auto before = copy_of(*medium);
  const fsck::Report report = run();
  CHECK(report.findings.empty());
  CHECK(report.pins == pins.size());
  CHECK(report.kept_blocks == 49);
  CHECK(std::memcmp(before->at(PoolOffset(0)), medium->at(PoolOffset(0)), medium->size().value) ==
        0);
  require_kept(pins);
}

TEST_CASE_METHOD(FsckPins, "fsck: one flipped bit costs no pin, wherever it is") {
  const Pin pin = living(take(9));
  const auto pins = many(40);
  const PinSlot more{medium->load<PinHead>(offset_of(pin.slot)).next};
  const auto before = copy_of(*medium);
  const struct {
    PinSlot slot;
    Code code;
  } places[] = {{pin.slot, Code::pin_record},
                {more, Code::pin_record},
                {region(), Code::pin_blocks},
                {header_of(pins.back().slot), Code::pin_blocks}};
  for (const auto& [slot, code] : places) {
    for (std::uint64_t bit = 0; bit < 8 * pmem::kPinSlotBytes; bit += 13) {
      flip_bit(*medium, offset_of(slot) + ByteCount(bit / 8), bit % 8);
      const fsck::Report report = run(Severity::repairable);
      INFO("bit " << bit << " at byte " << offset_of(slot).value);
      REQUIRE(has(report, code, Severity::repairable));
      REQUIRE(report.left == 0);
      REQUIRE(std::memcmp(before->at(offset_of(slot)), medium->at(offset_of(slot)),
                          pmem::kPinSlotBytes) == 0);
    }
  }
  require_kept(pins);
  require_kept({pin});
}

TEST_CASE_METHOD(FsckPins, "fsck: a pin record that is destroyed") {
  const Pin good = living(take(2));
  const Pin pin = living(take(9));
  const PinSlot more{medium->load<PinHead>(offset_of(pin.slot)).next};
  SECTION("its first record") {
    zero(offset_of(pin.slot) + ByteCount(8), 64);
    require_repaired(Code::pin_record, Severity::loss);
  }
  SECTION("a further one") {
    zero(offset_of(more) + ByteCount(8), 64);
    require_repaired(Code::pin_record, Severity::loss);
  }
  SECTION("a further one that is gone") {
    zero(offset_of(more), pmem::kPinSlotBytes);
    require_repaired(Code::pin_record, Severity::loss);
  }
  SECTION("as a crash leaves one that nobody was told of") {
    leave_without_unmounting();
    SECTION("its first record") { zero(offset_of(pin.slot) + ByteCount(8), 64); }
    SECTION("a further one") { zero(offset_of(more), pmem::kPinSlotBytes); }
    const fsck::Report report = require_repaired(Code::pin_record, Severity::harmless);
    CHECK_FALSE(report.damaged());
  }
  require_dropped(pin);
  require_kept({good});
}

TEST_CASE_METHOD(FsckPins, "fsck: well-sealed nonsense in a pin record") {
  const Pin good = living(take(9));
  const bool lives = GENERATE(true, false);
  const Severity severity = lives ? Severity::loss : Severity::repairable;
  const Pin pin = lives ? living(take(12)) : dead(take(12));
  const PinSlot more{medium->load<PinHead>(offset_of(pin.slot)).next};
  const std::uint64_t end = volume->data_area().end().value;
  SECTION("blocks in the journal") {
    forge_pin<PinHead>(pin.slot, [](auto& r) { r.first.block = 5; });
  }
  SECTION("blocks behind the pool") {
    forge_pin<PinHead>(pin.slot, [&](auto& r) { r.first = {end - 1, 2}; });
  }
  SECTION("so many blocks that their end wraps around") {
    forge_pin<PinContinuation>(more, [](auto& r) { r.runs[2].count = ~0ull; });
  }
  SECTION("no blocks") {
    forge_pin<PinContinuation>(more, [](auto& r) { r.runs[0].count = 0; });
  }
  SECTION("more runs than it has") {
    forge_pin<PinHead>(pin.slot, [](auto& r) { r.runs = ~0u; });
  }
  SECTION("fewer runs than it has") {
    forge_pin<PinHead>(pin.slot, [](auto& r) { r.runs = 3; });
  }
  SECTION("a loop") {
    forge_pin<PinHead>(pin.slot, [](auto& r) { r.runs = 1000; });
    forge_pin<PinContinuation>(more, [&](auto& r) { r.next = more.position; });
  }
  SECTION("goes on in the journal") {
    forge_pin<PinHead>(pin.slot, [](auto& r) { r.next = 70; });
  }
  SECTION("no inode") {
    forge_pin<PinHead>(pin.slot, [](auto& r) { r.inode = 0; });
  }
  SECTION("an impossible range") {
    forge_pin<PinHead>(pin.slot, [](auto& r) { r.offset = ~0ull; });
  }
  SECTION("unknown flags") {
    forge_pin<PinHead>(pin.slot, [](auto& r) { r.flags = 6; });
  }
  SECTION("what another pin goes on with") {
    // The owner that comes first keeps it.
    const auto first = medium->load<PinHead>(offset_of(good.slot));
    forge_pin<PinHead>(pin.slot, [&](auto& r) {
      r.sequence = first.sequence;
      r.next = first.next;
      r.runs = first.runs;
    });
  }
  require_repaired(Code::pin_record, severity);
  require_dropped(pin);
  require_kept({good});
}

TEST_CASE_METHOD(FsckPins, "fsck: a pin record of no process") {
  const Pin pin = living(take(2));
  forge_pin<PinHead>(pin.slot, [](auto& r) { r.process = 0; });
  require_repaired(Code::pin_record, Severity::repairable);
  require_dropped(pin);
}

TEST_CASE_METHOD(FsckPins, "fsck: the blocks of pin records") {
  // Three blocks in the data area: the last pins are in the newest, which the chain begins with.
  auto pins = many(31 + 31 + 31 + 5);
  const PinSlot newest = header_of(pins.back().slot);
  const PinSlot middle = header_of(pins[31 + 31 + 5].slot);
  const PinSlot oldest = header_of(pins[31 + 5].slot);
  REQUIRE(newest != middle);
  REQUIRE(middle != oldest);
  const auto lose = [&](PinSlot block) {
    std::erase_if(pins, [&](const Pin& pin) { return header_of(pin.slot) == block; });
  };
  SECTION("the region's header is destroyed: the records show what there is") {
    zero(offset_of(region()), pmem::kPinSlotBytes);
    require_repaired(Code::pin_blocks, Severity::repairable);
  }
  SECTION("the region has an impossible size") {
    const std::uint64_t ready = GENERATE(0ull, 2ull, ~0ull);
    forge_pin<pmem::PinRegionHeader>(region(), [&](auto& h) { h.ready_blocks = ready; });
    require_repaired(Code::pin_blocks, Severity::repairable);
  }
  SECTION("a header is destroyed: its records show that it is one") {
    const PinSlot hit = GENERATE_COPY(newest, middle, oldest);
    zero(offset_of(hit), pmem::kPinSlotBytes);
    require_repaired(Code::pin_blocks, Severity::repairable);
  }
  SECTION("a block is lost: its pins are, those behind it are found") {
    const PinSlot hit = GENERATE_COPY(newest, middle, oldest);
    zero(offset_of(hit), kBlockSize);
    require_repaired(Code::pin_blocks, Severity::loss);
    lose(hit);
  }
  SECTION("the chain is a loop") {
    forge_pin<pmem::PinSpillHeader>(middle, [&](auto& h) { h.next = block_of(newest).value; });
    require_repaired(Code::pin_blocks, Severity::loss);
  }
  SECTION("the chain leads to a file's block, out of the data area, into an inode") {
    const std::uint64_t next =
        GENERATE_COPY(first_block(witness).value, ~0ull, block_of(slot(file)).value);
    SECTION("from the region") {
      forge_pin<pmem::PinRegionHeader>(region(), [&](auto& h) { h.spill = next; });
    }
    SECTION("from a block") {
      forge_pin<pmem::PinSpillHeader>(newest, [&](auto& h) { h.next = next; });
    }
    require_repaired(Code::pin_blocks, Severity::loss);
  }
  SECTION("a file claims a block of records: it gets a hole") {
    forge_extent(file, 1, [&](auto& r) { r.pool_block = block_of(middle).value; });
    SECTION("also where nothing else leads to it") {
      zero(offset_of(header_of(pins.front().slot)), pmem::kPinSlotBytes);
    }
    require_repaired(Code::shared_blocks, Severity::loss);
    check_content(file, {0, 4, 6, 8});
  }
  require_kept(pins);
}

TEST_CASE_METHOD(FsckPins, "fsck: what a pin keeps is not used for repairs") {
  // Everything but a few blocks is kept for a holder.
  std::vector<PoolRange> all;
  while (volume->allocator().free_blocks().value > 8) {
    REQUIRE(volume->allocator().allocate(BlockCount(1), PoolBlock(0), all));
  }
  all = to_set(std::move(all));
  for (const PoolRange& run : all) {
    for (PoolBlock at = run.start; at < run.end(); at += BlockCount(1)) {
      medium->write(offset_of(at), pattern(at));
    }
  }
  const Pin pin = living(all);
  // Needs a copy, for which there is no room but what is kept; a lost file needs lost+found.
  forge_extent(witness, 1, [&](auto& r) { r.pool_block = first_block(file).value; });
  unlink(*volume, sub, "deep", nullptr);
  const fsck::Report report = run();
  CHECK(has(report, Code::shared_blocks, Severity::loss));
  CHECK(report.left == 0);
  CHECK(run().findings.empty());
  CHECK(find({"lost+found", lost_name(deep), "file"}) == file.number);
  require_kept({pin});
  CHECK_FALSE(open_inode(*open_volume(*medium), witness.number)
                  .map->run_at(FileBlock(5), BlockCount(1))
                  .pool);
  for (const PoolRange& run : all) {
    for (PoolBlock at = run.start; at < run.end(); at += BlockCount(1)) {
      REQUIRE(std::memcmp(medium->at(at), pattern(at).data(), kBlockSize) == 0);
    }
  }
}

TEST_CASE_METHOD(FsckPins, "fsck: a directory does not get what is pinned") {
  const Pin pin = living(take(1));
  const PoolBlock block = pin.blocks.front().start;
  forge_extent(deep, 0, [&](auto& r) { r.pool_block = block.value; });
  require_repaired(Code::shared_blocks, Severity::loss);
  CHECK(find({"lost+found", lost_name(file)}) == file.number);
  CHECK(std::memcmp(medium->at(block), pattern(block).data(), kBlockSize) == 0);
  require_kept({pin});
}

TEST_CASE_METHOD(FsckPins, "fsck: a repair of pin records can be killed at any fence") {
  auto pins = many(31 + 31 + 31 + 5);
  const Pin broken = living(take(3));
  forge_pin<PinHead>(broken.slot, [](auto& r) { r.inode = 0; });
  zero(offset_of(region()), pmem::kPinSlotBytes);
  zero(offset_of(header_of(pins[70].slot)), pmem::kPinSlotBytes);

  std::vector<std::unique_ptr<FenceMedium>> left;
  medium->on_fence = [&] { left.push_back(copy_of(*medium)); };
  REQUIRE(run().left == 0);
  medium->on_fence = nullptr;
  REQUIRE(left.size() > 5);
  for (auto& image : left) {
    medium = std::move(image);
    REQUIRE(run().left == 0);
    REQUIRE(run().findings.empty());
    require_kept(pins);
    require_dropped(broken);
  }
}
