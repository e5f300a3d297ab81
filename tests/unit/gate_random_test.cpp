// Random histories: the gate against its executable specification.
#include <random>

#include "lease/gate.h"
#include "tests/unit/catch.h"
#include "tests/unit/gate_fixture.h"
#include "tests/unit/gate_model.h"

using namespace daxfs;
using namespace daxfs::test;

namespace {

// In the place of `refuse`, so that all four kinds of ruling occur.
class RefuseOrPark final : public DetachPolicy {
 public:
  std::string_view name() const override { return "refuse or park"; }
  Ruling judge(const Conflict& conflict, const GateOptions& options) const override {
    if (park) return {.kind = Ruling::Kind::park};
    return policy_for(PinPolicy::refuse).judge(conflict, options);
  }
  bool park = false;  // changed while nothing is being judged
};

class History {
 public:
  explicit History(unsigned seed)
      : random_(seed), fixture_({.short_timeout_ms = kHour}, &refuse_or_park_) {
    for (int i = 0; i < 5; ++i) holders_.push_back(fixture_.gate.new_holder());
  }

  void step() {
    switch (random_() % 16) {
      case 0:
      case 1:
        write();
        break;
      case 2:
      case 3:
      case 4:
        begin(true);
        break;
      case 5:
      case 6:
      case 7:
      case 8:
        begin(false);
        break;
      case 9:
      case 10:
      case 11:
        try_one();
        break;
      case 12:
      case 13:
        unpin();
        break;
      case 14:
        if (random_() % 3 == 0) {
          drop(holders_[random_() % holders_.size()]);
        } else {
          cancel();
        }
        break;
      default:
        if (random_() % 4 == 0) switch_policy();
    }
    check();
  }

  // Everything comes to an end once the pins go and no more requests come.
  void finish() {
    while (!model_.requests.empty()) {
      for (const HolderId holder : holders_) drop(holder);
      check();
      while (!idle_.empty()) {
        try_one();
        check();
      }
    }
    for (const HolderId holder : holders_) drop(holder);
    check();
    REQUIRE(model_.in_limbo() == 0);
    REQUIRE(model_.pins.empty());
    const GateCounts totals = fixture_.gate.totals();
    REQUIRE(totals.waiting == 0);
    REQUIRE(totals.limbo == BlockCount(0));
    REQUIRE(totals.pinned_bytes == ByteCount(0));
  }

  int parks() const { return parks_; }
  int ahead() const { return ahead_; }

 private:
  using Model = GateModel;

  void write() {
    auto& file = model_.files[random_() % Model::kFiles];
    const std::uint64_t first = random_() % Model::kFileBlocks;
    for (std::uint64_t at = first; at < std::min(first + 6, Model::kFileBlocks); ++at) {
      if (file.contains(at)) continue;
      const Model::Block block = random_() % Model::kPoolBlocks;
      if (model_.owner[block] != Model::Owner::free) continue;
      model_.owner[block] = Model::Owner::file;
      file[at] = block;
    }
  }

  void begin(bool detach) {
    const int number = next_request_++;
    const std::uint64_t first = random_() % Model::kFileBlocks;
    Model::Request r{};
    r.detach = detach;
    r.inode = random_() % Model::kFiles;
    r.first = first;
    r.count = 1 + random_() % std::min<std::uint64_t>(6, Model::kFileBlocks - first);
    r.process = static_cast<pid_t>(random_() % 4);
    r.holder = holders_[random_() % holders_.size()];
    r.kind = random_() % 2 == 0 ? PinKind::short_term : PinKind::long_term;
    r.nowait = random_() % 4 == 0;
    model_.requests[number] = r;
    tickets_[number] = fixture_.begin(number);
    idle_.push_back(number);
    if (random_() % 4 != 0) attempt(number);  // or later, when younger ones have come
  }

  void try_one() {
    if (!idle_.empty()) attempt(idle_[random_() % idle_.size()]);
  }

  static std::vector<PoolRange> ranges(const std::vector<Model::Block>& blocks) {
    std::vector<PoolRange> result;
    for (const Model::Block block : blocks) {
      if (!result.empty() && result.back().end() == PoolBlock(block)) {
        ++result.back().count.value;
      } else {
        result.push_back({PoolBlock(block), BlockCount(1)});
      }
    }
    return result;
  }

  void attempt(int number) {
    std::erase(idle_, number);
    const Model::Request r = model_.requests.at(number);
    CAPTURE(number, r.detach, r.inode, r.first, r.count, r.process);
    const std::vector<Model::Block> blocks = model_.blocks_of(r);
    const std::vector<PoolRange> where = ranges(blocks);
    const TicketRef ticket = tickets_.at(number);
    Model::Answer answer;
    if (r.detach) {
      answer = model_.judge(number);
      const auto verdict = fixture_.gate.judge(ticket, {.inode = InodeNumber{r.inode},
                                                        .range = in_file(r.first, r.count),
                                                        .blocks = where,
                                                        .requester = {r.process, 0}});
      REQUIRE((verdict ? 0 : verdict.error().code) == answer.error);
      if (verdict) REQUIRE((*verdict == Verdict::parked) == answer.parked);
      if (verdict == Verdict::proceed) fixture_.gate.detached(ticket, where);
    } else {
      answer = model_.pin(number);
      const auto pin = fixture_.gate.pin(ticket, {.holder = r.holder,
                                                  .inode = InodeNumber{r.inode},
                                                  .offset = offset_of(FileBlock(r.first)),
                                                  .length = bytes(BlockCount(r.count)),
                                                  .blocks = where,
                                                  .requester = {r.process, 0},
                                                  .kind = r.kind,
                                                  .nowait = r.nowait});
      REQUIRE((pin ? 0 : pin.error().code) == answer.error);
      if (pin) REQUIRE(pin->has_value() != answer.parked);
      if (pin && *pin) model_.pins[**pin] = {r.holder, r.process, r.kind, blocks};
    }
    if (answer.parked) {
      ++parks_;
      return;
    }
    if (answer.error == 0) ++ahead_;
    model_.end(number);
    fixture_.gate.end(ticket);
    tickets_.erase(number);
  }

  void unpin() {
    if (model_.pins.empty()) return;
    const auto it =
        std::next(model_.pins.begin(), static_cast<std::ptrdiff_t>(random_() % model_.pins.size()));
    const PinId id = it->first;
    const HolderId holder = it->second.holder;
    REQUIRE(fixture_.gate.unpin(HolderId{12345}, id) == fail(ENOENT));
    model_.unpin(id);
    REQUIRE(fixture_.gate.unpin(holder, id));
  }

  void drop(HolderId holder) {
    std::vector<PinId> ids;
    for (const auto& [id, pin] : model_.pins) {
      if (pin.holder == holder) ids.push_back(id);
    }
    for (const PinId id : ids) model_.unpin(id);
    std::vector<PinId> dropped;
    for (const PinInfo& info : fixture_.gate.drop(holder)) dropped.push_back(info.id);
    REQUIRE(dropped == ids);
  }

  void cancel() {
    if (model_.requests.empty()) return;
    const auto it = std::next(model_.requests.begin(),
                              static_cast<std::ptrdiff_t>(random_() % model_.requests.size()));
    const int number = it->first;
    model_.cancel(number);
    fixture_.gate.cancel(tickets_.at(number));
  }

  void switch_policy() {
    static constexpr PinPolicy kNames[] = {PinPolicy::refuse, PinPolicy::defer, PinPolicy::ignore,
                                           PinPolicy::refuse};
    model_.policy = static_cast<Model::Policy>(random_() % 4);
    refuse_or_park_.park = model_.policy == Model::Policy::park;
    model_.limbo_limit = random_() % 2 == 0 ? UINT64_MAX >> kBlockShift : random_() % 10;
    model_.wake_all();
    fixture_.gate.set_options({.pin_policy = kNames[static_cast<std::size_t>(model_.policy)],
                               .short_timeout_ms = kHour,
                               .limbo_limit = bytes(BlockCount(model_.limbo_limit))});
  }

  void check() {
    // Woken: exactly those, in order of arrival, and nobody else.
    std::sort(model_.woken.begin(), model_.woken.end());
    fixture_.settle();
    std::vector<int> woken;
    while (!fixture_.woken.none()) woken.push_back(*fixture_.woken.next());
    std::sort(woken.begin(), woken.end());
    REQUIRE(woken == model_.woken);
    idle_.insert(idle_.end(), woken.begin(), woken.end());
    model_.woken.clear();

    std::sort(model_.freed.begin(), model_.freed.end());
    REQUIRE(fixture_.freed() == model_.freed);
    model_.freed.clear();

    std::vector<PinCounts> counts(Model::kPoolBlocks);
    fixture_.gate.counts(blocks(0, Model::kPoolBlocks), [&](PoolRange range, PinCounts n) {
      for (auto b = range.start.value; b < range.end().value; ++b) counts.at(b) = n;
    });
    std::vector<PinCounts> limbo(Model::kPoolBlocks);
    for (const auto& piece : fixture_.gate.limbo_from(PoolBlock(0), 1000)) {
      for (auto b = piece.range.start.value; b < piece.range.end().value; ++b) {
        limbo.at(b) = piece.pins;
      }
    }
    GateCounts expected;
    for (Model::Block b = 0; b < Model::kPoolBlocks; ++b) {
      const PinCounts n = model_.counts(b);
      if (counts[b] != n) FAIL("counts of block " << b);
      const bool in_limbo = model_.owner[b] == Model::Owner::limbo;
      if (limbo[b] != (in_limbo ? n : PinCounts{})) FAIL("limbo of block " << b);
    }
    for (const auto& [id, pin] : model_.pins) {
      ++(pin.kind == PinKind::long_term ? expected.long_pins : expected.short_pins);
      expected.pinned_bytes += bytes(BlockCount(pin.blocks.size()));
    }
    for (const auto& [number, r] : model_.requests) expected.waiting += r.parked ? 1 : 0;
    const GateCounts totals = fixture_.gate.totals();
    REQUIRE(totals.long_pins == expected.long_pins);
    REQUIRE(totals.short_pins == expected.short_pins);
    REQUIRE(totals.pinned_bytes == expected.pinned_bytes);
    REQUIRE(totals.limbo == BlockCount(model_.in_limbo()));
    REQUIRE(totals.waiting == expected.waiting);
    std::vector<PinId> listed;
    for (const PinInfo& info : fixture_.gate.pins_after(PinId{0}, 10'000)) {
      listed.push_back(info.id);
    }
    REQUIRE(std::equal(listed.begin(), listed.end(), model_.pins.begin(), model_.pins.end(),
                       [](PinId id, const auto& entry) { return id == entry.first; }));
  }

  std::mt19937 random_;
  GateModel model_;
  RefuseOrPark refuse_or_park_;
  GateFixture fixture_;
  std::vector<HolderId> holders_;
  std::map<int, TicketRef> tickets_;
  std::vector<int> idle_;  // begun or woken, and to be tried
  int next_request_ = 0;
  int parks_ = 0;
  int ahead_ = 0;
};

}  // namespace

TEST_CASE("gate: random histories do what the specification says") {
  int parks = 0;
  int ahead = 0;
  for (unsigned seed = 1; seed <= 20; ++seed) {
    CAPTURE(seed);
    History history(seed);
    for (int i = 0; i < 600; ++i) history.step();
    history.finish();
    parks += history.parks();
    ahead += history.ahead();
  }
  // The histories are worth something only if both happen a lot.
  CHECK(parks > 500);
  CHECK(ahead > 2000);
}
