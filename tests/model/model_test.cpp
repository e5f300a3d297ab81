// Long random sequences of all operations, against the reference filesystem.
//
// DAXFS_MODEL_OPS: operations for each run; DAXFS_MODEL_SEED: one seed instead of the fixed ones.
#include <fmt/format.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "tests/model/model_run.h"
#include "tests/unit/catch.h"

using daxfs::PinPolicy;
using daxfs::testing::Mismatch;
using daxfs::testing::ModelRun;

namespace {

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* const text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

ModelRun::Seen run(ModelRun::Setup setup) {
  setup.seed = from_environment("DAXFS_MODEL_SEED", setup.seed);
  ModelRun model(setup);
  try {
    model.run(from_environment("DAXFS_MODEL_OPS", 6000));
  } catch (const Mismatch& mismatch) {
    FAIL(fmt::format("seed {}, operation {}: {}\nthe last operations:\n{}", setup.seed,
                     model.steps(), mismatch.what(), model.history()));
  }
  return model.seen();
}

}  // namespace

TEST_CASE("random operations agree with the reference; pins refuse", "[model]") {
  for (const std::uint64_t seed : {1, 2, 3}) {
    const auto seen = run({.seed = seed, .pool_bytes = 64 << 20, .policy = PinPolicy::refuse});
    CHECK(seen.refused > 0);
    CHECK(seen.remounts > 0);
  }
}

TEST_CASE("random operations agree with the reference; pins defer", "[model]") {
  for (const std::uint64_t seed : {11, 12, 13}) {
    const auto seen = run({.seed = seed, .pool_bytes = 64 << 20, .policy = PinPolicy::defer});
    CHECK(seen.limbo > 0);
  }
}

TEST_CASE("random operations agree with the reference in a pool that is nearly full", "[model]") {
  for (const std::uint64_t seed : {21, 22, 23}) {
    const auto seen = run({.seed = seed, .pool_bytes = 4 << 20, .policy = PinPolicy::refuse});
    CHECK(seen.no_space > 0);
    CHECK(seen.short_writes > 0);
  }
}

TEST_CASE("limbo in a pool that is nearly full", "[model]") {
  for (const std::uint64_t seed : {31, 32, 33}) {
    const auto seen =
        run({.seed = seed, .pool_bytes = 5 << 20, .policy = PinPolicy::defer, .limbo_percent = 1});
    CHECK(seen.no_space > 0);
    CHECK(seen.limbo > 0);
    CHECK(seen.refused > 0);  // past the limbo limit
  }
}
