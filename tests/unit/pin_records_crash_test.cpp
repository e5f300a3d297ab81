// Every state that a crash can leave between recording a pin and taking it off again.
#include <map>
#include <optional>
#include <random>

#include "blockmap/volume/check.h"
#include "tests/crash/recording_medium.h"
#include "tests/unit/catch.h"
#include "tests/unit/pin_record_helpers.h"

using namespace daxfs;
using namespace daxfs::test;

namespace {

constexpr ByteCount kSize{pmem::kMinPoolBytes};

struct Pin {
  PinRecord record;
  std::vector<PoolRange> blocks;
  bool operator==(const Pin&) const = default;
};
using Pins = std::map<PinSlot, Pin>;

// What was done, and when: `acknowledged` is how many calls of the medium had been made on return.
struct Event {
  std::size_t acknowledged;
  std::vector<std::pair<PinSlot, std::optional<Pin>>> changes;  // nullopt: removed
};

class Story {
 public:
  explicit Story(std::uint64_t seed) : random_(seed) {
    REQUIRE(make_filesystem(medium_, {}));
    volume_ = open_with(medium_, everybody);
    all_ = free_blocks(*volume_);
  }

  void add(std::size_t runs) {
    Pin pin{pin_of(next_id_++), runs_of(*volume_, runs, random_() % 50)};
    const auto slot = volume_->pin_records().add(pin.record, pin.blocks);
    REQUIRE(slot);
    pins_[*slot] = pin;
    done({{*slot, pin}});
  }
  void remove(std::size_t count) {
    std::vector<PinSlot> slots;
    std::vector<std::pair<PinSlot, std::optional<Pin>>> changes;
    for (; count > 0 && !pins_.empty(); --count) {
      auto pin = pins_.begin();
      std::advance(pin, static_cast<std::ptrdiff_t>(random_() % pins_.size()));
      slots.push_back(pin->first);
      changes.emplace_back(pin->first, std::nullopt);
      pins_.erase(pin);
    }
    volume_->pin_records().remove_many(slots);
    done(changes);
  }
  // From here on crashes are explored.
  void begin() {
    medium_.mark_start();
    start_ = pins_;
    events_.clear();
  }

  std::size_t explore(const testing::CutOptions& options, std::uint64_t seed = 1) {
    return medium_.explore(options, seed,
                           [&](Medium& image, std::size_t made) { check(image, made); });
  }
  std::size_t held() const { return pins_.size(); }
  Volume& volume() { return *volume_; }

 private:
  void done(std::vector<std::pair<PinSlot, std::optional<Pin>>> changes) {
    events_.push_back({medium_.calls(), std::move(changes)});
  }

  void check(Medium& image, std::size_t made) {
    Pins expected = start_;
    const auto apply = [&](const Event& event) {
      for (const auto& [slot, pin] : event.changes) {
        if (pin) {
          expected[slot] = *pin;
        } else {
          expected.erase(slot);
        }
      }
    };
    std::size_t next = 0;
    while (next < events_.size() && events_[next].acknowledged <= made) apply(events_[next++]);
    // What is under way may be there or not, each pin by itself.
    std::map<PinSlot, Pin> open;
    if (next < events_.size()) {
      for (const auto& [slot, pin] : events_[next].changes) {
        open[slot] = pin ? *pin : expected.at(slot);
        expected.erase(slot);
      }
    }
    const auto report = check_volume(image, "crash");
    const bool replay =
        !report.ok() && report.errors.front().find("mount it read-write once") != std::string::npos;
    if (!report.ok() && !replay) FAIL(report.errors.front());

    for (int round = 0; round < 2; ++round) {
      const auto volume = open_with(image, everybody);
      std::size_t found = 0;
      for (const SurvivingPin& survivor : volume->survivors()) {
        const Pin pin{survivor.pin, survivor.blocks};
        const auto sure = expected.find(survivor.slot);
        if (sure != expected.end()) {
          ++found;
          REQUIRE(pin == sure->second);
        } else {
          const auto maybe = open.find(survivor.slot);
          REQUIRE(maybe != open.end());
          REQUIRE(pin == maybe->second);
        }
      }
      REQUIRE(found == expected.size());
      REQUIRE(none_is_free(*volume, volume->survivors_limbo()));
      REQUIRE(free_blocks(*volume) + blocks_in(volume->survivors_limbo()) +
                  volume->pin_records().spill_blocks().value ==
              all_);
    }
    REQUIRE(check_volume(image, "crash").ok());
    const auto volume = open_with(image, nobody);
    REQUIRE(free_blocks(*volume) == all_);
  }

  testing::RecordingMedium medium_{kSize};
  std::mt19937_64 random_;
  std::unique_ptr<Volume> volume_;
  std::uint64_t all_ = 0;
  std::uint64_t next_id_ = 1;
  Pins start_;
  Pins pins_;
  std::vector<Event> events_;
};

}  // namespace

TEST_CASE("an acknowledged pin is there after a crash, another one wholly or not at all",
          "[crash]") {
  Story story(1);
  SECTION("in a new pool") {}
  SECTION("in slots that were used before") {
    for (int i = 0; i < 3; ++i) {
      story.add(20);
      story.remove(1);
    }
  }
  story.begin();
  story.add(1);
  story.add(2);
  story.remove(1);
  story.add(20);
  story.add(0);
  story.remove(2);
  story.add(8);
  story.remove(2);
  CHECK(story.held() == 0);
  CHECK(story.explore({.all_subsets = 5, .torn = 16}) > 300);
}

TEST_CASE("a crash while the chain of records grows or shrinks loses no pin and no block",
          "[crash]") {
  Story story(2);
  for (int i = 0; i < 30; ++i) story.add(1);
  story.begin();
  story.add(1);
  story.add(1);
  story.add(200);
  CHECK(story.volume().pin_records().spill_blocks().value > 1);
  story.remove(20);
  story.remove(13);
  CHECK(story.held() == 0);
  CHECK(story.volume().pin_records().spill_blocks().value == 0);
  CHECK(story.explore({.all_subsets = 3, .torn = 6}) > 200);
}

TEST_CASE("a crash in random histories of pins", "[crash]") {
  const std::uint64_t seed = GENERATE(11u, 12u);
  INFO("seed " << seed);
  Story story(seed);
  std::mt19937_64 random(seed);
  const auto run = [&](int steps) {
    for (int i = 0; i < steps; ++i) {
      if (random() % 2 == 0) {
        story.add(random() % 3 == 0 ? random() % 60 : random() % 3);
      } else {
        story.remove(1 + random() % 3);
      }
    }
  };
  for (int i = 0; i < 25; ++i) story.add(1);
  run(20);
  story.begin();
  run(25);
  CHECK(story.explore({.all_subsets = 3, .torn = 3}, seed) > 100);
}
