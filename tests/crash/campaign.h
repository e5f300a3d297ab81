// Many workloads, explored on several threads.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "tests/crash/explorer.h"
#include "tests/crash/workloads.h"

namespace daxfs::testing {

struct CampaignOptions {
  ExplorerOptions explorer;
  unsigned threads = 1;
  // It ends when there is no workload left, when so many states were mounted, or at this time, and
  // at the first failure.
  std::uint64_t enough_states = UINT64_MAX;
  std::chrono::seconds at_most{24 * 3600};
};

struct CampaignResult {
  ExplorerCounts counts;
  std::uint64_t distinct = 0;  // different images, of all that were mounted
  double seconds = 0;
  std::optional<Failure> failure;
  std::string report;  // of the failure, made as small as it gets
};

// Workload number n, or none: then there are no more. Called by one thread at a time.
using NextWorkload = std::function<std::optional<Workload>(std::uint64_t n)>;
// Called now and then with what was done so far.
using Progress = std::function<void(const ExplorerCounts& counts, double seconds)>;

CampaignResult run_campaign(const ReversibleMedium& pool, const CampaignOptions& options,
                            const PlantedBug* bug, const NextWorkload& next,
                            const Progress& progress = {});

}  // namespace daxfs::testing
