#include "blockmap/fsck/fsck.h"

#include <fmt/format.h>

#include <algorithm>
#include <thread>

#include "base/pinned_pages.h"
#include "blockmap/fsck/passes.h"
#include "blockmap/volume/check.h"
#include "blockmap/volume/volume.h"

namespace daxfs::fsck {
namespace {

// A repair can uncover further damage (a file that lost blocks to another one is a symbolic link
// without a target now). Each round has less to find; more than a few are never needed.
constexpr int kMostRounds = 16;

unsigned threads() { return std::max(1u, std::thread::hardware_concurrency()); }

class Run {
 public:
  Run(Medium& medium, const std::string& name, const Options& options)
      : name_(name), context_(medium, options, report_) {}

  Outcome<Report> run() {
    if (auto checked = check_superblocks(context_, name_); !checked) {
      return std::unexpected(std::move(checked.error()));
    }
    if (!stopped()) check_journal(context_);
    if (!stopped()) check_doorbells(context_);
    if (!stopped() && repair()) finish();
    if (context_.medium.failed() && !context_.blocked()) {
      const std::string why = context_.medium.failure();
      context_.accept(Code::medium, Severity::fatal, "pool",
                      (why.empty() ? "writing to it failed" : why) +
                          "; put the storage right, and check again");
    }
    return std::move(report_);
  }

 private:
  // Where the storage is gone, zeroes are read: nothing may be concluded from them.
  bool stopped() const {
    return context_.blocked() || context_.cancelled() || context_.medium.failed();
  }

  // Whether there is nothing left.
  bool repair() {
    for (int round = 0; round < kMostRounds; ++round) {
      const std::uint64_t before = context_.repairs();
      if (!check_round()) return false;
      if (context_.repairs() == before) return true;
    }
    context_.accept(Code::medium, Severity::fatal, "pool",
                    fmt::format("is still damaged after {} rounds of repair", kMostRounds));
    return false;
  }

  bool check_round() {
    const std::uint64_t before = context_.repairs();
    using Pass = void (*)(Context&);
    for (const Pass pass : {check_inode_places, check_inodes, check_pins, check_shared_blocks}) {
      pass(context_);
      if (stopped()) return false;
    }
    const auto state = context_.medium.load<pmem::PoolState>(offset_of(kStateBlock));
    context_.allocator = std::make_unique<Allocator>();
    context_.inodes = std::make_unique<InodeTable>(context_.medium, *context_.journal,
                                                   *context_.allocator, context_.super, state);
    PinnedSpace pins = context_.pins;
    auto built = rebuild(context_.medium, *context_.allocator, *context_.inodes, context_.area(),
                         threads(), pins);
    if (!built) {
      if (context_.repairs() != before) return true;  // the next round looks again
      context_.accept(Code::medium, Severity::fatal, "pool", built.error().text);
      return false;
    }
    unfinished_ = std::move(*built);
    check_tree(context_);
    return !stopped();
  }

  // What every mount does: frees orphans, ends interrupted detaches. Then the verdict.
  void finish() {
    for (const InodeNumber inode : unfinished_.orphans) {
      context_.accept(Code::orphan, Severity::harmless, name_of(inode),
                      "was unlinked while it was open; its space is freed");
    }
    for (const InodeNumber inode : unfinished_.detaches) {
      context_.accept(Code::detach, Severity::harmless, name_of(inode),
                      "a long truncation was interrupted; finished");
    }
    const auto state = context_.medium.load<pmem::PoolState>(offset_of(kStateBlock));
    if (context_.repairs() != 0 || (state.flags & pmem::kStateClean) == 0) mount_once();
    if (stopped()) return;
    const CheckReport verdict =
        check_volume(context_.medium, name_, may_be_in_use, context_.options.locked);
    for (const std::string& error : verdict.errors) {
      context_.accept(Code::medium, Severity::fatal, "pool",
                      fmt::format("the final check still says: {}", error));
    }
    report_.files = verdict.files;
    report_.directories = verdict.directories;
    report_.data_blocks = verdict.data_blocks;
    report_.free_blocks = verdict.free_blocks;
    report_.pins = verdict.pins;
    report_.kept_blocks = verdict.kept_blocks;
  }

  void mount_once() {
    auto volume = Volume::open(context_.medium, name_, false, threads(), may_be_in_use,
                               context_.options.locked);
    if (!volume) {
      context_.accept(Code::medium, Severity::fatal, "pool", volume.error().text);
      return;
    }
    (*volume)->close_clean();
  }

  const std::string& name_;
  Report report_;
  Context context_;
  UnfinishedInodes unfinished_;
};

}  // namespace

Outcome<Report> check_and_repair(Medium& medium, const std::string& name, const Options& options) {
  return Run(medium, name, options).run();
}

}  // namespace daxfs::fsck
