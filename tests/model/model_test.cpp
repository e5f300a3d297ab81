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

std::uint64_t operations() { return from_environment("DAXFS_MODEL_OPS", 6000); }
// Too few operations to be sure that everything was met.
bool is_short() { return operations() < 3000 || std::getenv("DAXFS_MODEL_SEED") != nullptr; }

// Runs the setup with each seed and says what they met, added up.
ModelRun::Seen run(ModelRun::Setup setup, std::vector<std::uint64_t> seeds) {
  if (const std::uint64_t seed = from_environment("DAXFS_MODEL_SEED", 0)) seeds = {seed};
  ModelRun::Seen all;
  for (const std::uint64_t seed : seeds) {
    setup.seed = seed;
    ModelRun model(setup);
    try {
      model.run(operations());
    } catch (const Mismatch& mismatch) {
      FAIL(fmt::format("seed {}, operation {}: {}\nthe last operations:\n{}", seed, model.steps(),
                       mismatch.what(), model.history()));
    }
    const ModelRun::Seen& seen = model.seen();
    all.no_space += seen.no_space;
    all.short_writes += seen.short_writes;
    all.refused += seen.refused;
    all.limbo += seen.limbo;
    all.remounts += seen.remounts;
  }
  return all;
}

}  // namespace

TEST_CASE("random operations agree with the reference; pins refuse", "[model]") {
  const auto seen = run({.pool_bytes = 64 << 20, .policy = PinPolicy::refuse}, {1, 2, 3});
  if (is_short()) return;
  CHECK(seen.refused > 0);
  CHECK(seen.remounts > 0);
}

TEST_CASE("random operations agree with the reference; pins defer", "[model]") {
  const auto seen = run({.pool_bytes = 64 << 20, .policy = PinPolicy::defer}, {11, 12, 13});
  if (is_short()) return;
  CHECK(seen.limbo > 0);
}

TEST_CASE("random operations agree with the reference in a pool that is nearly full", "[model]") {
  const auto seen = run({.pool_bytes = 4 << 20, .policy = PinPolicy::refuse}, {21, 22, 23});
  if (is_short()) return;
  CHECK(seen.no_space > 0);
  CHECK(seen.short_writes > 0);
}

TEST_CASE("limbo in a pool that is nearly full", "[model]") {
  const auto seen =
      run({.pool_bytes = 5 << 20, .policy = PinPolicy::defer, .limbo_percent = 1}, {31, 32, 33});
  if (is_short()) return;
  CHECK(seen.no_space > 0);
  CHECK(seen.limbo > 0);
  CHECK(seen.refused > 0);  // past the limbo limit
}
