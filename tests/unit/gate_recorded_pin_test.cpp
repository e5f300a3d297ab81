// Pins whose records come and go: what nobody may do to them meanwhile.
#include "tests/unit/catch.h"
#include "tests/unit/gate_fixture.h"

using namespace daxfs;
using namespace daxfs::test;

namespace {

struct RecordedPin {
  std::vector<std::uint64_t> forgotten;
  std::vector<PoolRange> freed;
  Gate gate{GateOptions{},
            {.free_blocks =
                 [this](std::span<const PoolRange> ranges) {
                   freed.insert(freed.end(), ranges.begin(), ranges.end());
                 },
             .forget_records =
                 [this](std::span<const std::uint64_t> records) {
                   forgotten.insert(forgotten.end(), records.begin(), records.end());
                 }}};
  const HolderId holder = gate.new_holder();
  const PoolRange range = blocks(10, 2);
  const PinId pin = take();

  ~RecordedPin() { gate.stop(); }
  PinId take() {
    const TicketRef ticket = gate.begin([] {});
    const auto taken = gate.pin(ticket, {.holder = holder,
                                         .inode = InodeNumber{1},
                                         .offset = FileOffset(0),
                                         .length = ByteCount(2 * kBlockSize),
                                         .blocks = {&range, 1},
                                         .requester = {1, 0},
                                         .recorded = true});
    gate.end(ticket);
    REQUIRE(granted(taken));
    return **taken;
  }
};

}  // namespace

TEST_CASE_METHOD(RecordedPin, "a pin can be given back once it is recorded, and not before") {
  CHECK(gate.totals().long_pins == 1);
  const auto too_early = gate.unpin(holder, pin);
  CHECK((!too_early && too_early.error().code == ENOENT));
  CHECK_FALSE(gate.find_pin(holder, pin));
  CHECK(gate.totals().long_pins == 1);

  gate.record_pin(holder, pin, 77);
  CHECK(gate.find_pin(holder, pin));
  CHECK(gate.unpin(holder, pin));
  CHECK(forgotten == std::vector<std::uint64_t>{77});
  CHECK(gate.totals().long_pins == 0);
}

TEST_CASE_METHOD(RecordedPin, "a pin that could not be recorded goes, and nothing is forgotten") {
  gate.undo_pin(holder, pin);
  CHECK(forgotten.empty());
  CHECK(gate.totals().long_pins == 0);
  CHECK_FALSE(gate.unpin(holder, pin));
}

TEST_CASE_METHOD(RecordedPin, "a pin that nothing stands for on the medium is given back, too") {
  gate.record_pin(holder, pin, 0);
  CHECK(gate.unpin(holder, pin));
  CHECK(forgotten.empty());
}
