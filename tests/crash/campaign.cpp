#include "tests/crash/campaign.h"

#include <mutex>
#include <thread>
#include <vector>

#include "tests/crash/shrink.h"

namespace daxfs::testing {
namespace {

class Campaign {
 public:
  Campaign(const ReversibleMedium& pool, const CampaignOptions& options, const PlantedBug* bug,
           const NextWorkload& next, const Progress& progress)
      : pool_(pool), options_(options), bug_(bug), next_(next), progress_(progress) {}

  CampaignResult run() {
    {
      std::vector<std::jthread> helpers;
      for (unsigned i = 1; i < options_.threads; ++i) helpers.emplace_back([this] { work(); });
      work();
    }
    result_.distinct = images_.size();
    result_.seconds = elapsed().count();
    return std::move(result_);
  }

 private:
  std::chrono::duration<double> elapsed() const {
    return std::chrono::steady_clock::now() - started_;
  }

  std::optional<Workload> take() {
    const std::lock_guard lock(mutex_);
    if (result_.failure || result_.counts.mounted >= options_.enough_states ||
        elapsed() > options_.at_most) {
      return std::nullopt;
    }
    return next_(number_++);
  }

  void work() {
    Explorer explorer(pool_, options_.explorer, bug_);
    ExplorerCounts before;
    while (const auto workload = take()) {
      auto failure = explorer.explore(workload->sequence, workload->first);
      const std::lock_guard lock(mutex_);
      result_.counts.add(explorer.counts().since(before));
      before = explorer.counts();
      if (progress_) progress_(result_.counts, elapsed().count());
      if (!failure || result_.failure) continue;
      result_.failure = shrink(explorer, std::move(*failure));
      result_.report = report(explorer, *result_.failure, bug_);
      break;
    }
    const std::lock_guard lock(mutex_);
    images_.insert(explorer.images().begin(), explorer.images().end());
  }

  const ReversibleMedium& pool_;
  const CampaignOptions& options_;
  const PlantedBug* const bug_;
  const NextWorkload& next_;
  const Progress& progress_;
  const std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();

  std::mutex mutex_;  // protects everything below
  std::uint64_t number_ = 0;
  CampaignResult result_;
  absl::flat_hash_set<std::uint64_t> images_;
};

}  // namespace

CampaignResult run_campaign(const ReversibleMedium& pool, const CampaignOptions& options,
                            const PlantedBug* bug, const NextWorkload& next,
                            const Progress& progress) {
  return Campaign(pool, options, bug, next, progress).run();
}

}  // namespace daxfs::testing
