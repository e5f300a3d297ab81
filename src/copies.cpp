#include "src/copies.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <utility>

#include "base/background_thread.h"
#include "base/block_ranges.h"

namespace daxfs {
namespace {

using std::chrono::microseconds;

// How often it looks whether a copy has ended. Most take less than the first; one that takes longer
// than the second is stopped.
constexpr microseconds kFirstPause{20};
constexpr microseconds kPause{1000};
constexpr microseconds kPauseForStopped{10'000};
constexpr std::chrono::seconds kStopped{1};

// A range can go on to the end of everything.
ByteCount length_of(FileRange range) {
  const auto most = static_cast<std::uint64_t>(INT64_MAX) - offset_of(range.start).value;
  return ByteCount(range.count.value < most / kBlockSize ? bytes(range.count).value : most);
}

// Has the doorbells closed for as long as it lives.
class Closed {
 public:
  explicit Closed(std::shared_ptr<Doorbells> doorbells) : doorbells_(std::move(doorbells)) {
    doorbells_->close();
  }
  ~Closed() { doorbells_->open(); }
  Closed(const Closed&) = delete;
  Closed& operator=(const Closed&) = delete;

 private:
  const std::shared_ptr<Doorbells> doorbells_;
};

}  // namespace

Copies::Copies(const Mount& mount, Health& health, Gate& gate)
    : mount_(mount), health_(health), gate_(gate) {
  // Without the option nobody attaches.
  if (mount.options.direct) thread_ = background_thread("daxfs-copies", [this] { run(); });
}

Copies::~Copies() { stop(); }

void Copies::stop() {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
  }
  attention_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void Copies::revoke(Inode& inode, FileRange range, std::span<const PoolRange> blocks,
                    const TicketRef& ticket) {
  Doorbells& doorbells = *inode.doorbells.load(std::memory_order_acquire);
  // In the place of what an earlier try of this request has closed.
  gate_.keep(ticket, std::make_shared<Closed>(doorbells.shared_from_this()));
  if (doorbells.quiet()) return;
  const MutexLock lock(mutex_);
  for (const CopiesInFlight& copies : doorbells.in_flight())
    pin(watched(inode, copies), range, blocks);
  if (watched_.empty()) return;
  pause_ = kFirstPause;
  attention_.notify_one();
}

Copies::Watched& Copies::watched(const Inode& inode, const CopiesInFlight& copies) {
  const auto found = std::ranges::find_if(watched_, [&](const Watched& one) {
    return one.copies.page == copies.page && one.copies.slot == copies.slot &&
           one.copies.attachment == copies.attachment;
  });
  if (found != watched_.end()) return *found;
  return watched_.emplace_back(Watched{.doorbells = inode.doorbells_owner,
                                       .copies = copies,
                                       .inode = inode.number,
                                       .generation = inode.generation,
                                       .holder = gate_.new_holder(),
                                       .since = std::chrono::steady_clock::now()});
}

void Copies::pin(Watched& copies, FileRange range, std::span<const PoolRange> blocks) {
  std::vector<PoolRange> pinned;
  for (const Pinned& one : copies.pins)
    pinned.insert(pinned.end(), one.blocks.begin(), one.blocks.end());
  const auto known = to_set(std::move(pinned));
  std::vector<PoolRange> before;
  std::vector<PoolRange> more;
  for (const PoolRange& block : blocks) split(block, known, before, more);
  if (more.empty()) return;
  const AttachedProcess& process = copies.copies.process;
  const PinId pin = gate_.pin_copies({.holder = copies.holder,
                                      .inode = copies.inode,
                                      .offset = offset_of(range.start),
                                      .length = length_of(range),
                                      .blocks = more,
                                      .requester = {.process = process.mark.process,
                                                    .uid = process.owner.uid,
                                                    .start_ticks = process.mark.start_ticks},
                                      .kind = PinKind::short_term});
  copies.pins.push_back({.pin = pin, .range = range, .blocks = std::move(more)});
}

Status Copies::record(const Inode& inode, std::span<const PoolRange> blocks) {
  const auto leaving = to_set({blocks.begin(), blocks.end()});
  const MutexLock lock(mutex_);
  for (Watched& copies : watched_) {
    if (copies.inode != inode.number || copies.generation != inode.generation) continue;
    for (Pinned& pinned : copies.pins) {
      std::vector<PoolRange> touched;
      std::vector<PoolRange> others;
      for (const PoolRange& run : pinned.blocks) split(run, leaving, touched, others);
      if (pinned.recorded || touched.empty()) continue;
      const auto since = std::chrono::system_clock::now().time_since_epoch();
      const auto slot = health_.acknowledge(mount_.volume.pin_records().add(
          {.owner = copies.copies.process.owner,
           .inode = copies.inode,
           .generation = copies.generation,
           .offset = offset_of(pinned.range.start),
           .length = length_of(pinned.range),
           .since_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(since).count(),
           .pin_id = pinned.pin.value},
          pinned.blocks));
      if (!slot) return std::unexpected(slot.error());
      gate_.record_pin(copies.holder, pinned.pin, slot->position);
      pinned.recorded = true;
    }
  }
  return {};
}

bool Copies::is_copies(HolderId holder) const {
  const MutexLock lock(mutex_);
  return std::ranges::any_of(watched_, [&](const Watched& one) { return one.holder == holder; });
}

void Copies::run() {
  const MutexLock lock(mutex_);
  while (!stopping_) {
    if (watched_.empty()) {
      attention_.wait(mutex_);
      continue;
    }
    attention_.wait_until(mutex_, std::chrono::steady_clock::now() + pause_);
    if (stopping_) return;
    pause_ = std::min(pause_ * 2, kPause);
    const auto now = std::chrono::steady_clock::now();
    const auto first_ended = std::ranges::stable_partition(
        watched_, [&](const Watched& one) { return !one.doorbells->have_ended(one.copies); });
    std::vector<HolderId> ended;
    for (const Watched& one : first_ended) ended.push_back(one.holder);
    watched_.erase(first_ended.begin(), first_ended.end());
    if (std::ranges::all_of(watched_, [&](const Watched& w) { return now - w.since > kStopped; }))
      pause_ = kPauseForStopped;
    if (ended.empty()) continue;
    const MutexUnlock unlocked(mutex_);
    for (const HolderId holder : ended) gate_.drop(holder);
  }
}

}  // namespace daxfs
