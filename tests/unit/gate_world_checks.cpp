// What must hold when the threads have gone.
#include <algorithm>

#include "tests/unit/gate_fixture.h"
#include "tests/unit/gate_world.h"

namespace daxfs::test {
namespace {

constexpr pid_t kOurs = 9000;

}  // namespace

void GateWorld::complain(const std::string& what) {
  const std::lock_guard lock(complaints_mutex_);
  // One of a kind says enough.
  if (std::find(complaints_.begin(), complaints_.end(), what) == complaints_.end()) {
    complaints_.push_back(what);
  }
}

std::vector<std::string> GateWorld::complaints() {
  const std::lock_guard lock(complaints_mutex_);
  return complaints_;
}

// Returns when every request that was ready, or whose time is up, has been tried again.
void GateWorld::settle() {
  const HolderId holder = gate_.new_holder();
  const std::vector<PoolRange> where{blocks(1'000'000, 1)};
  const TicketRef first = gate_.begin([] {});
  const auto pin = gate_.pin(first, {.holder = holder,
                                     .inode = InodeNumber{UINT64_MAX},
                                     .offset = {},
                                     .length = bytes(BlockCount(1)),
                                     .blocks = where,
                                     .requester = {kOurs, 0},
                                     .kind = PinKind::short_term});
  gate_.end(first);
  const auto settled = test::settle(gate_, {.inode = InodeNumber{UINT64_MAX},
                                            .range = in_file(0, 1),
                                            .blocks = where,
                                            .requester = {kOurs + 1, 0}});
  if (!settled.parked) complain("the sentinel does not park");
  if (!settled.in_time) complain("the gate's thread is stuck");
  if (!granted(pin) || !gate_.unpin(holder, **pin)) complain("the sentinel's pin is not there");
}

// Another process's pin, or under `break` a lease of it that is not the request's own; and for pins
// and leases an older detach that waits.
bool GateWorld::has_reason(const Request& request) {
  if (request.what != What::detach) return !fences_before(request).empty();
  const File& file = files_[request.range.file];
  const std::vector<PoolRange> mine = ranges(file, request.range);
  const bool breaks = file.policy.value_or(gate_.options().pin_policy) == PinPolicy::breaks;
  for (const HolderRef& slot : slots_) {
    for (const auto& [id, pin] : slot->pins) {
      if (pin.process == request.process) continue;
      for (const PoolRange& range : pin.blocks) {
        if (std::find(mine.begin(), mine.end(), range) != mine.end()) return true;
      }
    }
    for (const auto& [id, lease] : slot->leases) {
      if (breaks && slot != request.holder && lease.process != request.process &&
          lease.range.overlaps(request.range)) {
        return true;
      }
    }
  }
  return false;
}

void GateWorld::check_at_rest() {
  settle();
  for (std::size_t slot = 0; slot < kHolders; ++slot) {
    while (gate_.has_news(holder(slot)->id)) read_news(slot, false);
  }
  for (const auto& [number, request] : open_) {
    if (!has_reason(*request)) complain("a request waits, and nobody knows what for");
  }

  std::vector<PinId> pins;
  std::vector<LeaseId> leases;
  std::array<std::uint32_t, kPoolBlocks> expected{};
  for (const HolderRef& slot : slots_) {
    for (const auto& [id, pin] : slot->pins) {
      pins.push_back(id);
      for (const PoolRange& range : pin.blocks) ++expected[range.start.value];
    }
    for (const auto& [id, lease] : slot->leases) leases.push_back(id);
  }
  std::sort(pins.begin(), pins.end());
  std::sort(leases.begin(), leases.end());
  std::vector<PinId> listed;
  for (const PinInfo& pin : gate_.pins_after(PinId{}, 100'000)) listed.push_back(pin.id);
  if (listed != pins) complain("other pins are listed than there are");
  std::vector<LeaseId> leases_listed;
  for (const auto& state : gate_.leases_after(LeaseId{}, 100'000)) {
    leases_listed.push_back(state.lease.id);
  }
  if (leases_listed != leases) complain("other leases are listed than there are");

  std::array<std::uint32_t, kPoolBlocks> counted{};
  gate_.counts(blocks(0, kPoolBlocks), [&](PoolRange range, PinCounts n) {
    for (auto b = range.start.value; b < range.end().value; ++b) {
      counted[b] = n.long_term + n.short_term;
    }
  });
  if (counted != expected) complain("the pins of blocks are counted otherwise than they are");
  std::array<bool, kPoolBlocks> limbo{};
  for (const auto& piece : gate_.limbo_from(PoolBlock(0), 1000)) {
    for (auto b = piece.range.start.value; b < piece.range.end().value; ++b) limbo[b] = true;
  }
  std::size_t somewhere = free_.size();
  for (const File& file : files_) {
    for (const auto& block : file.map) somewhere += block ? 1 : 0;
  }
  for (std::size_t b = 0; b < kPoolBlocks; ++b) {
    if (limbo[b] != (owner_[b] == Owner::nobody)) complain("limbo is not what belongs to nobody");
    if (limbo[b] && expected[b] == 0) complain("a block is in limbo and not pinned");
    somewhere += limbo[b] ? 1 : 0;
  }
  if (somewhere != kPoolBlocks) complain("blocks are lost");

  const GateCounts totals = gate_.totals();
  if (totals.waiting != open_.size()) complain("a request is open and does not wait");
  if (totals.long_pins + totals.short_pins != pins.size()) complain("pins are counted wrongly");
  if (totals.leases != leases.size()) complain("leases are counted wrongly");
}

// Who is tried again and parks anew may be woken once more by one that came later. But nobody is
// tried for the first time before one who came earlier.
void GateWorld::check_order() {
  std::vector<int> waiting;
  for (const auto& [number, request] : open_) waiting.push_back(number);
  attempts_.clear();
  gate_.set_options(gate_.options());
  settle();
  std::vector<int> first_tries;
  const std::lock_guard lock(open_mutex_);
  for (const int number : attempts_) {
    if (std::find(first_tries.begin(), first_tries.end(), number) == first_tries.end()) {
      first_tries.push_back(number);
    }
  }
  if (first_tries != waiting) complain("not all are judged anew, in order of arrival");
}

void GateWorld::finish() {
  for (std::size_t slot = 0; slot < kHolders; ++slot) close(slot);
  settle();
  if (!open_.empty()) complain("a request is never answered");
  check_at_rest();
  if (gate_.totals().limbo != BlockCount(0)) complain("something is left in limbo");
}

}  // namespace daxfs::test
