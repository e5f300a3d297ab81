// Random histories: the gate against its executable specification, compared after each step.
//
// DAXFS_GATE_SEED and DAXFS_GATE_STEPS: another history, or a longer one. DAXFS_GATE_HISTORY: a
// file with a history as a failing run prints it.
#include <cstdlib>
#include <fstream>
#include <random>
#include <sstream>
#include <string>

#include "tests/unit/catch.h"
#include "tests/unit/gate_fixture.h"
#include "tests/unit/gate_history.h"

using namespace daxfs;
using namespace daxfs::test;

namespace {

using Op = GateStep::Op;
using Model = GateModel;

std::uint64_t setting(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

// Chooses steps that mean something as things stand.
class Chooser {
 public:
  // A crowd: one file, whose detaches wait without limit while pins of all ages come and go.
  Chooser(std::uint64_t seed, bool crowd) : random_(seed), crowd_(crowd) {}

  GateStep next(const GateReplay& both) {
    const Model& model = both.model();
    if (begun_ && below(3) != 0) return {Op::attempt, {std::exchange(begun_, 0)}};
    begun_ = 0;
    if (!model.interrupted.empty() && below(12) == 0) {
      return repeat(both, model.interrupted[index(model.interrupted)].request);
    }
    if (crowd_) return next_of_crowd(both);
    const std::int64_t dice = below(32);
    if (dice < 4) return {Op::write, {below(Model::kFiles), below(16), 1 + below(6), below(64)}};
    if (dice < 9) return begin_detach(model);
    if (dice < 14) return begin_pin(model);
    if (dice < 17) return begin_lease();
    if (dice < 21 && !both.idle().empty()) return {Op::attempt, {both.idle()[index(both.idle())]}};
    if (dice < 23 && !model.pins.empty())
      return {Op::unpin, {model.pins[index(model.pins)].number}};
    if (dice < 24 && !model.leases.empty()) return give_way(model.leases[index(model.leases)]);
    if (dice < 25) return {Op::news, {below(kSlots)}};
    if (dice < 26) {
      const std::int64_t end = below(4);
      return {end == 0 ? Op::die : end == 1 ? Op::over : Op::close, {below(kSlots)}};
    }
    if (dice < 27 && !model.requests.empty()) {
      return {Op::cancel, {model.requests[index(model.requests)].number}};
    }
    if (dice < 29) return tick();
    if (dice < 30) return {Op::own_policy, {below(Model::kFiles), below(10) < 5 ? below(5) : -1}};
    if (dice < 31) {
      const std::int64_t one = below(8);
      return {one < 2 ? Op::last_close : one == 2 ? Op::process : Op::news, {below(Model::kFiles)}};
    }
    return options();
  }

  static constexpr std::int64_t kSlots = 4;

 private:
  std::int64_t below(std::uint64_t n) { return static_cast<std::int64_t>(random_() % n); }
  template <class Items>
  std::size_t index(const Items& items) {
    return random_() % items.size();
  }
  std::int64_t begin() { return begun_ = ++last_; }

  GateStep next_of_crowd(const GateReplay& both) {
    const Model& model = both.model();
    if (model.options.pin_policy != PinPolicy::wait) {
      return {Op::options, {static_cast<int>(PinPolicy::wait), 0, 0, 3'600'000, 0, 0, 0, -1}};
    }
    const std::int64_t dice = below(16);
    if (dice < 1) return {Op::write, {0, below(16), 1 + below(6), below(64)}};
    if (dice < 2 && model.requests.size() < 40) return begin_detach(model);
    if (dice < 8 && model.requests.size() < 40) return begin_pin(model);
    if (dice < 9 && !model.requests.empty()) {
      return {Op::cancel, {model.requests[index(model.requests)].number}};
    }
    if (dice < 11 && !both.idle().empty()) return {Op::attempt, {both.idle()[index(both.idle())]}};
    if (!model.pins.empty()) return {Op::unpin, {model.pins[index(model.pins)].number}};
    return begin_detach(model);
  }
  std::int64_t any_file() { return crowd_ ? 0 : below(Model::kFiles); }

  GateStep tick() {
    const std::int64_t kind = below(12);
    return {Op::tick, {1 + below(kind == 0 ? 11'000U : kind < 5 ? 400U : 40U)}};
  }
  // What was interrupted, again.
  GateStep repeat(const GateReplay& both, const Model::Request& again) {
    const auto inode = static_cast<std::int64_t>(again.range.inode);
    const auto first = static_cast<std::int64_t>(again.range.first);
    const auto count =
        again.range.count > Model::kFileBlocks ? 0 : static_cast<std::int64_t>(again.range.count);
    const pid_t process = again.requester.process;
    const std::int64_t holder = again.holder < 0 ? -1 : both.slot_of(again.holder);
    if (again.holder >= 0 && holder < 0) return {Op::news, {0}};  // it has been closed
    switch (again.what) {
      case Model::What::detach:
        return {Op::detach, {begin(), inode, first, count, process, holder}};
      case Model::What::pin:
        return {Op::pin, {begin(), inode, first, count, process, 0, holder, below(2), 0}};
      case Model::What::lease:
        return {Op::lease, {begin(), inode, first, count, process, holder, 0, 0}};
    }
    return {Op::news, {0}};
  }

  GateStep begin_detach(const Model& model) {
    std::int64_t inode = any_file();
    std::int64_t first = below(Model::kFileBlocks);
    const std::int64_t count = below(8) == 0 ? 0 : 1 + below(6);
    std::int64_t process = below(4);
    // Often where the same process has a lease: through the lease's holder, another one, or none.
    if (!model.leases.empty() && below(3) == 0) {
      const Model::Lease& lease = model.leases[index(model.leases)];
      inode = static_cast<std::int64_t>(lease.range.inode);
      first = static_cast<std::int64_t>(lease.range.first);
      process = lease.requester.process;
    }
    const std::int64_t holder = below(3) == 0 ? -1 : below(kSlots);
    return {Op::detach, {begin(), inode, first, clipped(first, count), process, holder}};
  }
  GateStep begin_pin(const Model& model) {
    std::int64_t inode = any_file();
    std::int64_t first = below(Model::kFileBlocks);
    std::int64_t holder = below(kSlots);
    std::int64_t count = clipped(first, 1 + below(6));
    // Often where somebody waits, and by a request that is older; or where there is a lease: others
    // are refused under longterm=lease.
    if (!model.requests.empty() && below(3) == 0) {
      const Model::Range& range = model.requests[index(model.requests)].range;
      inode = static_cast<std::int64_t>(range.inode);
      first = static_cast<std::int64_t>(range.first) +
              below(std::min<std::uint64_t>(shown_count(range), 6));
      count = 1;
    } else if (!model.leases.empty() && below(2) == 0) {
      const Model::Lease& lease = model.leases[index(model.leases)];
      inode = static_cast<std::int64_t>(lease.range.inode);
      first = static_cast<std::int64_t>(lease.range.first);
      count = 1 + below(lease.range.count);
      holder = lease.holder % kSlots;
    }
    return {Op::pin,
            {begin(), inode, first, count, below(4), below(2), holder, below(2), below(8) / 7}};
  }
  GateStep begin_lease() {
    const std::int64_t first = below(Model::kFileBlocks);
    return {Op::lease,
            {begin(), below(Model::kFiles), first, clipped(first, 1 + below(8)), below(4),
             below(kSlots), below(6) / 5, below(8) / 7}};
  }
  GateStep give_way(const Model::Lease& lease) {
    if (below(2) == 0) return {Op::unlease, {lease.number}};
    const auto first = static_cast<std::int64_t>(lease.range.first) + below(lease.range.count);
    return {Op::shrink, {lease.number, first, below(lease.range.count + 1)}};
  }
  GateStep options() {
    static constexpr std::int64_t kShort[] = {0, 20, 100, 3'600'000};
    static constexpr std::int64_t kLong[] = {0, 10, 60, 300, -1};
    const std::int64_t policy = below(5);
    return {Op::options,
            {policy, below(2), below(6) < 4 ? 0 : 1 + below(2), kShort[below(4)], kLong[below(5)],
             kLong[below(5)], below(4) == 0 ? 4 + below(20) : 0, below(3) == 0 ? below(10) : -1}};
  }
  static std::int64_t clipped(std::int64_t first, std::int64_t count) {
    return std::min<std::int64_t>(count, Model::kFileBlocks - first);
  }

  std::mt19937_64 random_;
  bool crowd_;
  std::int64_t last_ = 0;
  std::int64_t begun_ = 0;  // the request that has begun just now
};

void fail_with(const GateHistory& history, const std::string& what) {
  // Each try would wait for the thread as long again.
  if (what.starts_with(kGateIsStuck)) FAIL(what << '\n' << to_text(history));
  const GateHistory shortest = shorten(history);
  const auto wrong = replay(shortest);
  FAIL(what << "\nA shorter history that goes wrong (" << (wrong ? wrong->what : "not every time")
            << ")\nat its last step; for DAXFS_GATE_HISTORY:\n"
            << to_text(shortest));
}

class Run {
 public:
  explicit Run(std::uint64_t seed) : chooser_(seed, seed % 3 == 0) {}

  void step(const GateStep& step) {
    history_.push_back(step);
    const std::string wrong = both_.apply(step);
    if (!wrong.empty()) fail_with(history_, wrong);
  }
  void random_step() { step(chooser_.next(both_)); }

  // Everything comes to an end once the holders go and no more requests come.
  void finish() {
    while (!both_.model().requests.empty()) {
      for (std::int64_t slot = 0; slot < Chooser::kSlots; ++slot) step({Op::die, {slot}});
      end_all_grace();
      const std::vector<int> idle = both_.idle();
      for (const int request : idle) step({Op::attempt, {request}});
    }
    for (std::int64_t slot = 0; slot < Chooser::kSlots; ++slot) step({Op::die, {slot}});
    end_all_grace();
    REQUIRE(both_.model().in_limbo() == 0);
    REQUIRE(both_.model().pins.empty());
    REQUIRE(both_.model().leases.empty());
  }
  const GateReplay::Seen& seen() const { return both_.seen(); }

 private:
  void end_all_grace() {
    for (std::size_t left = both_.in_grace(); left > 0; --left) step({Op::over, {0}});
  }
  Chooser chooser_;
  GateHistory history_;
  GateReplay both_;
};

}  // namespace

TEST_CASE("gate: random histories do what the specification says") {
  const std::uint64_t first_seed = setting("DAXFS_GATE_SEED", 1);
  const std::uint64_t all_steps = setting("DAXFS_GATE_STEPS", 120'000);
  constexpr std::uint64_t kSteps = 800;
  int parked = 0;
  int ahead = 0;
  int waits_for_own_lease = 0;
  int repeated = 0;
  int behind_the_interrupted = 0;
  std::vector<std::uint64_t> events(GateEvent::kKinds);
  std::uint64_t steps = 0;
  for (std::uint64_t seed = first_seed; steps < all_steps; ++seed) {
    CAPTURE(seed);
    Run run(seed);
    for (std::uint64_t i = 0; i < std::min(kSteps, all_steps); ++i, ++steps) run.random_step();
    // An unmount ends half of them.
    if (seed % 2 == 0) run.step({Op::stop, {}});
    run.finish();
    parked += run.seen().parked;
    ahead += run.seen().ahead;
    waits_for_own_lease += run.seen().waits_for_own_lease;
    repeated += run.seen().repeated;
    behind_the_interrupted += run.seen().behind_the_interrupted;
    for (std::size_t i = 0; i < events.size(); ++i) events[i] += run.seen().events[i];
  }
  // The histories are worth something only if all kinds of things happen in them.
  if (all_steps < 10'000) return;
  CHECK(parked > 500);
  CHECK(ahead > 2000);
  CHECK(waits_for_own_lease > 100);
  CHECK(repeated > 300);
  CHECK(behind_the_interrupted > 30);
  for (std::size_t i = 0; i < events.size(); ++i) {
    const auto kind = static_cast<GateEvent::Kind>(i);
    if (kind == GateEvent::Kind::quarantine) continue;
    CAPTURE(to_string(kind));
    CHECK(events[i] > 20);
  }
}

TEST_CASE("gate: a history is printed so that it can be replayed") {
  Chooser chooser(1, false);
  GateReplay both;
  GateHistory history;
  for (int i = 0; i < 100; ++i) {
    history.push_back(chooser.next(both));
    REQUIRE(both.apply(history.back()).empty());
  }
  const auto read = parse_history(to_text(history));
  REQUIRE(read);
  CHECK(to_text(*read) == to_text(history));
  CHECK_FALSE(replay(*read));
  CHECK_FALSE(parse_history("pin 1 2"));
}

TEST_CASE("gate: the history in DAXFS_GATE_HISTORY") {
  const char* path = std::getenv("DAXFS_GATE_HISTORY");
  if (path == nullptr) return;
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  const auto history = parse_history(text.str());
  REQUIRE(history);
  if (const auto wrong = replay(*history)) FAIL("step " << wrong->step << ": " << wrong->what);
}
