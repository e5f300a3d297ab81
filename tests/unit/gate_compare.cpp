// Compares all that can be seen of the gate with its specification.
#include <algorithm>
#include <sstream>

#include "tests/unit/gate_fixture.h"
#include "tests/unit/gate_replay.h"

namespace daxfs::test {
namespace {

using Model = GateModel;

}  // namespace

// Exactly those who must be woken, and those of one moment in order of arrival.
void GateReplay::Impl::compare_woken() {
  std::vector<int> actual;
  {
    const std::lock_guard lock(mutex);
    actual.swap(woken);
  }
  std::vector<int> expected;
  for (const std::vector<int>& moment : model.woken) {
    expected.insert(expected.end(), moment.begin(), moment.end());
    const auto place = [&](int n) { return std::find(actual.begin(), actual.end(), n); };
    for (std::size_t i = 1; i < moment.size(); ++i) {
      expect_true("retried in order of arrival", place(moment[i - 1]) <= place(moment[i]));
    }
  }
  model.woken.clear();
  idle.insert(idle.end(), actual.begin(), actual.end());
  std::sort(actual.begin(), actual.end());
  std::sort(expected.begin(), expected.end());
  if (actual == expected || !wrong.empty()) return;
  std::ostringstream out;
  out << "woken:";
  for (const int n : actual) out << ' ' << n;
  out << "; expected:";
  for (const int n : expected) out << ' ' << n;
  wrong = out.str();
}

void GateReplay::Impl::compare_events() {
  std::vector<Model::Event> actual;
  std::uint64_t left_limbo = 0;
  for (const GateEvent& event : recorder.events) {
    ++seen.events[static_cast<std::size_t>(event.kind)];
    // In how many pieces depends on what was merged.
    if (event.kind == GateEvent::Kind::freed) {
      left_limbo += event.length / kBlockSize;
      continue;
    }
    actual.push_back(
        {event.kind, event.inode.value, event.offset, event.length, event.process, event.policy});
  }
  recorder.events.clear();
  for (std::size_t i = 0; i < std::min(actual.size(), model.events.size()); ++i) {
    if (!model.events[i].policy) actual[i].policy.reset();
    if (actual[i] == model.events[i]) continue;
    const std::string what = "event " + std::string(to_string(actual[i].kind)) + " where " +
                             std::string(to_string(model.events[i].kind)) + " is expected";
    expect_true(what.c_str(), false);
  }
  expect("events", actual.size(), model.events.size());
  expect("blocks said to have left limbo", left_limbo, model.left_limbo);
  model.left_limbo = 0;
  model.events.clear();

  std::vector<int> holders_told;
  for (const HolderId holder : told) {
    const auto it = std::find(holders.begin(), holders.end(), holder);
    holders_told.push_back(static_cast<int>(it - holders.begin()));
  }
  told.clear();
  expect_true("the holders that are told", holders_told == model.told);
  model.told.clear();
}

void GateReplay::Impl::compare_blocks() {
  std::sort(freed.begin(), freed.end());
  std::sort(model.freed.begin(), model.freed.end());
  expect_true("the blocks that are freed", freed == model.freed);
  freed.clear();
  model.freed.clear();
  std::vector<PinCounts> counts(Model::kPoolBlocks);
  gate.counts(blocks(0, Model::kPoolBlocks), [&](PoolRange range, PinCounts n) {
    for (auto b = range.start.value; b < range.end().value; ++b) counts.at(b) = n;
  });
  std::vector<PinCounts> limbo(Model::kPoolBlocks);
  for (const auto& piece : gate.limbo_from(PoolBlock(0), 1000)) {
    for (auto b = piece.range.start.value; b < piece.range.end().value; ++b) {
      limbo.at(b) = piece.pins;
    }
  }
  for (Model::Block b = 0; b < Model::kPoolBlocks; ++b) {
    expect_true("pins of a block", counts[b] == model.counts(b));
    const bool in_limbo = model.owner[b] == Model::Owner::limbo;
    expect_true("limbo", limbo[b] == (in_limbo ? model.counts(b) : PinCounts{}));
  }
}

void GateReplay::Impl::compare_pins() {
  GateCounts expected;
  const std::vector<PinInfo> listed = gate.pins_after(sentinel, 10'000);
  expect("pins listed", listed.size(), model.pins.size());
  for (std::size_t i = 0; i < std::min(listed.size(), model.pins.size()); ++i) {
    const Model::Pin& pin = model.pins[i];
    const PinInfo& info = listed[i];
    const Model::Lease* lease = model.lease_over(pin);
    const bool same =
        info.id == pins.at(pin.number) && info.inode == InodeNumber{pin.range.inode} &&
        info.holder == holders.at(static_cast<std::size_t>(pin.holder)) &&
        info.offset == offset_in(pin.range) && info.length == length_of(pin.range) &&
        info.kind == pin.kind && info.requester.process == pin.requester.process &&
        info.lease == (lease != nullptr ? std::optional(leases.at(lease->number)) : std::nullopt);
    expect_true("a pin as it is listed", same);
    ++(pin.kind == PinKind::long_term ? expected.long_pins : expected.short_pins);
    expected.pinned_bytes += bytes(BlockCount(pin.blocks.size()));
  }
  for (const Model::Request& r : model.requests) expected.waiting += r.parked ? 1 : 0;
  const GateCounts totals = gate.totals();
  expect("long-term pins", totals.long_pins, expected.long_pins + 1);
  expect("short-term pins", totals.short_pins, expected.short_pins);
  expect("bytes pinned", totals.pinned_bytes.value, expected.pinned_bytes.value + kBlockSize);
  expect("blocks in limbo", totals.limbo.value, model.in_limbo());
  expect("leases", totals.leases, model.leases.size());
  expect("requests that wait", totals.waiting, expected.waiting);
  expect("requests that are listed as waiting", gate.waiting_after(0, 10'000).size(),
         expected.waiting);
}

void GateReplay::Impl::compare_leases() {
  const auto listed = gate.leases_after(LeaseId{}, 10'000);
  expect("leases listed", listed.size(), model.leases.size());
  for (std::size_t i = 0; i < std::min(listed.size(), model.leases.size()); ++i) {
    const Model::Lease& lease = model.leases[i];
    const LeaseInfo& info = listed[i].lease;
    const bool same = info.id == leases.at(lease.number) && info.exclusive == lease.exclusive &&
                      info.holder == holders.at(static_cast<std::size_t>(lease.holder)) &&
                      info.offset == offset_in(lease.range) &&
                      info.length == length_of(lease.range) &&
                      info.requester.process == lease.requester.process;
    expect_true("a lease as it is listed", same);
    const auto limit = model.breaking(lease.number);
    expect("whether a lease is being broken", listed[i].breaking.has_value(), limit.has_value());
    if (!limit || !listed[i].breaking) continue;
    expect_true("until when a lease is being broken",
                *listed[i].breaking == (*limit == Model::kNever ? SteadyTime::max() : at(*limit)));
  }
  for (const int holder : holder_of) {
    expect("whether a holder has news", gate.has_news(holders[static_cast<std::size_t>(holder)]),
           model.has_news(holder));
  }
}

void GateReplay::Impl::compare() {
  settle();
  compare_woken();
  compare_events();
  compare_blocks();
  compare_pins();
  compare_leases();
}

}  // namespace daxfs::test
