// The explorer finds what is planted, and says where.
#include <spdlog/spdlog.h>

#include "tests/crash/campaign.h"
#include "tests/crash/shrink.h"
#include "tests/unit/catch.h"

using namespace daxfs::testing;

namespace {

CampaignResult look_for(const PlantedBug* bug, std::uint64_t states) {
  static const auto pool = make_prepared_pool();
  static const std::vector<Workload> workloads = [] {
    std::vector<Workload> all = single_operations();
    for (auto& story : stories()) all.push_back(std::move(story));
    for (auto& pair : pairs_of_operations()) all.push_back(std::move(pair));
    for (Workload& workload : all) workload.first = 0;
    return all;
  }();
  return run_campaign(*pool, {.explorer = {.cuts = {}}, .threads = 2, .enough_states = states}, bug,
                      [&](std::uint64_t n) -> std::optional<Workload> {
                        if (n >= workloads.size()) return std::nullopt;
                        return workloads[n];
                      });
}

}  // namespace

TEST_CASE("every planted bug is found, and a state that shows it can be seen again", "[crash]") {
  CHECK(planted_bugs().size() >= 12);
  spdlog::set_level(spdlog::level::off);  // some of them make the filesystem complain
  for (const PlantedBug& bug : planted_bugs()) {
    const CampaignResult result = look_for(&bug, 60'000);
    INFO(bug.name << ": " << bug.what);
    INFO(result.counts.mounted << " states; " << result.report);
    CHECK(result.failure);
    if (!result.failure) continue;
    static const auto pool = make_prepared_pool();
    const auto look = [&](const PlantedBug* planted) {
      Explorer explorer(*pool, {.cuts = {}}, planted);
      return explorer.look_at(result.failure->sequence, result.failure->point);
    };
    CHECK(look(&bug) == result.failure->what);
    CHECK(result.failure->sequence.size() <= 3);
  }
}

TEST_CASE("a failure is made as small as it gets", "[crash]") {
  const auto pool = make_prepared_pool();
  Explorer explorer(*pool, {.cuts = {}}, find_planted_bug("lane-unfenced"));
  const auto failure =
      explorer.explore(parse_sequence("chmod /b 420; mkdir /m; rename /a /b; create /n"));
  REQUIRE(failure);
  const Failure small = shrink(explorer, *failure);
  CHECK(small.sequence.size() == 1);
  // With any line less, it is right.
  for (std::size_t i = 0; i < small.point.cut.size(); ++i) {
    CrashPoint point = small.point;
    point.cut.erase(point.cut.begin() + static_cast<std::ptrdiff_t>(i));
    CHECK_FALSE(explorer.look_at(small.sequence, point));
  }
}

TEST_CASE("sequences survive being written down", "[crash]") {
  CHECK(parse_sequence(to_string(vocabulary())) == vocabulary());
  CHECK(parse_sequence("unpin; close").size() == 2);
  CHECK_THROWS(parse_sequence("fly /a"));
  CHECK_THROWS(parse_sequence("write /a 1"));
  CHECK_THROWS(parse_sequence("truncate /a long"));
}
