// Forged pools: what they cost is bounded by their size, and nothing ends in a crash.
#include <unistd.h>

#include <algorithm>

#include "base/process_identity.h"
#include "blockmap/fsck/inspect_inode.h"
#include "tests/unit/fsck_fixture.h"
#include "tests/unit/pin_record_helpers.h"

using namespace daxfs;
using namespace daxfs::test;
using fsck::Code;
using fsck::Severity;
using pmem::PinContinuation;
using pmem::PinHead;

namespace {

struct ForgedPins : FsckFixture {
  // Some runs for records that nobody believes.
  std::vector<PoolRange> runs(std::size_t count) { return runs_of(*volume, count, 100); }
  PinSlot add(std::vector<PoolRange> blocks) {
    PinRecord record = pin_of(file.number.value);
    record.owner = *identify_process(::getpid(), ::getuid());
    const auto slot = volume->pin_records().add(record, blocks);
    REQUIRE(slot);
    return *slot;
  }
  std::vector<PinSlot> continuations_of(PinSlot slot) const {
    std::vector<PinSlot> parts;
    for (std::uint64_t next = medium->load<PinHead>(offset_of(slot)).next; next != 0;) {
      parts.push_back({next});
      next = medium->load<PinContinuation>(offset_of(parts.back())).next;
    }
    return parts;
  }

  // The last continuation of the pin goes on.
  void lead_behind_the_end(PinSlot slot) {
    const PinSlot last = continuations_of(slot).back();
    auto forged = medium->load<PinContinuation>(offset_of(last));
    forged.next = last.position;
    put_pin_record(*medium, last, forged);
  }

  // What a mount says against the records, in the order of the slots.
  std::vector<std::string> complaints_of_a_mount() const {
    PinRecordScan scan(*medium, volume->superblock());
    REQUIRE(scan.read_headers());
    scan.for_each([](RecordedPin&&, std::span<const PinSlot>) {});
    CHECK(scan.torn() == 0);
    return scan.senseless();
  }
};

std::vector<std::string> findings_of_pins(const fsck::Report& report) {
  std::vector<std::string> texts;
  for (const fsck::Finding& f : report.findings) {
    if (f.code != Code::pin_record) continue;
    texts.push_back(f.object + " " + f.text.substr(0, f.text.find("; dropped")));
  }
  return texts;
}

}  // namespace

TEST_CASE_METHOD(ForgedPins, "fsck: forged pins that go on in one chain do not walk it each") {
  constexpr std::size_t kHeads = 400;
  const PinSlot good = add(runs(9));
  const PinSlot victim = add(runs(1 + 50 * PinContinuation::kRuns));
  std::vector<PinSlot> heads{victim};
  while (heads.size() < kHeads) heads.push_back(add(runs(1)));
  const auto head = medium->load<PinHead>(offset_of(victim));
  for (const PinSlot slot : heads) {
    auto forged = medium->load<PinHead>(offset_of(slot));
    forged.sequence = head.sequence;
    forged.next = head.next;
    forged.runs = head.runs;
    put_pin_record(*medium, slot, forged);
  }
  // Each of them is wrong, but only at the far end of the chain.
  lead_behind_the_end(victim);

  const auto expected = complaints_of_a_mount();
  REQUIRE(expected.size() == kHeads);
  const auto found = findings_of_pins(run());
  CHECK(std::ranges::equal(found, expected));
  // One came to the end of the chain. All others were stopped where they met what that one had
  // taken, at the first step: so the work is bounded by the number of slots.
  const auto count = [&](const char* text) {
    return std::ranges::count_if(found, [&](const auto& f) { return f.ends_with(text); });
  };
  CHECK(count("goes on behind its end") == 1);
  CHECK(count("goes on where another one does") == kHeads - 1);

  const auto now = open_volume(*medium);
  REQUIRE(now->survivors().size() == 1);
  CHECK(now->survivors().front().slot == good);
}

TEST_CASE_METHOD(ForgedPins, "fsck: who comes first has a continuation, as for a mount") {
  // The first one is wrong; what it takes with it is the second one's.
  const PinSlot first = add(runs(9));
  const PinSlot second = add(runs(9));
  auto forged = medium->load<PinHead>(offset_of(first));
  const auto other = medium->load<PinHead>(offset_of(second));
  forged.sequence = other.sequence;
  forged.next = other.next;
  put_pin_record(*medium, first, forged);
  lead_behind_the_end(second);

  const auto expected = complaints_of_a_mount();
  REQUIRE(expected.size() == 2);
  CHECK(std::ranges::equal(findings_of_pins(run()), expected));
  CHECK(run().findings.empty());
}

TEST_CASE_METHOD(FsckFixture, "fsck: a header that is corrected and then cut off is changed once") {
  std::vector<std::uint64_t> blocks;
  for (std::uint64_t b = 10; b < 1050; b += 2) blocks.push_back(b);
  fill(file, blocks);
  const auto chain = file.map->chain();  // the oldest first
  REQUIRE(chain.size() == 5);
  // Corrected; written anew; sound; corrected and cut off; gone.
  flip_bit(*medium, offset_of(chain[4]) + ByteCount(17), 0);
  zero(offset_of(chain[3]) + ByteCount(4), 12);
  flip_bit(*medium, offset_of(chain[1]) + ByteCount(25), 3);
  zero(offset_of(chain[0]), kBlockSize);

  const fsck::InodePlan plan =
      fsck::inspect_inode(*medium, volume->data_area(), file.number, slot(file));
  std::vector<PoolBlock> changed;
  for (const auto& fix : plan.headers) changed.push_back(fix.block);
  CHECK(changed == std::vector<PoolBlock>{chain[4], chain[3], chain[1]});

  require_repaired(Code::extent_chain, Severity::loss);
  const auto cut = medium->load<pmem::ExtentBlock>(offset_of(chain[1]));
  CHECK(cut.next == 0);
  CHECK(is_sealed(cut, offsetof(pmem::ExtentBlock, slots)));
}

TEST_CASE_METHOD(FsckFixture, "fsck: journal lanes that are too small are refused with a reason") {
  const auto forge_lanes = [&](PoolBlock copy, std::uint32_t lane_bytes) {
    forge<pmem::Superblock>(offset_of(copy), sizeof(pmem::Superblock),
                            [&](auto& s) { s.lane_bytes = lane_bytes; });
  };
  const auto says_why = [](const std::string& text) {
    INFO(text);
    CHECK(text.find("journal lanes that are too small") != std::string::npos);
  };
  const PoolBlock copy_b = superblock_b(*medium);
  SECTION("in one copy: the other one counts") {
    forge_lanes(kSuperblockA, 4096);
    says_why(complaint(*medium));
    require_repaired(Code::superblock, Severity::repairable);
  }
  SECTION("in both: deduced from the rest") {
    forge_lanes(kSuperblockA, 4096);
    forge_lanes(copy_b, 8192 - 64);
    says_why(complaint(*medium));
    require_repaired(Code::superblock, Severity::loss);
  }
  SECTION("in both, and nothing to deduce them from") {
    forge_lanes(kSuperblockA, 4096);
    forge_lanes(copy_b, 4096);
    zero(slot(root), pmem::kInodeBytes);
    says_why(complaint(*medium));
    const auto refused = fsck::check_and_repair(*medium, "test.pool", {});
    REQUIRE_FALSE(refused);
    says_why(refused.error().text);
  }
  SECTION("but not the smallest that there may be") {
    forge_lanes(kSuperblockA, 8192);
    forge_lanes(copy_b, 8192);
    CHECK(complaint(*medium).empty());
    CHECK(run().findings.empty());
  }
}
