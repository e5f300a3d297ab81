#include "src/filesystem.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <utility>

#include "base/memory_reserve.h"
#include "blockmap/pin_lock.h"

namespace daxfs {
namespace {

void free_in_pool(Volume& volume, std::span<const PoolRange> ranges) {
  for (const PoolRange& range : ranges) {
    if (!volume.allocator().free(range)) {
      spdlog::critical("pool block {}: freed twice; run fsck.daxfs after unmounting",
                       range.start.value);
    }
  }
}

void forget_records(Volume& volume, std::span<const std::uint64_t> records) {
  std::vector<PinSlot> slots;
  slots.reserve(records.size());
  for (const std::uint64_t record : records) slots.push_back(PinSlot{record});
  volume.pin_records().remove_many(slots);
}

}  // namespace

void Cancellation::cancel() {
  const std::lock_guard guard(mutex_);
  cancelled_ = true;
  if (const TicketRef ticket = ticket_.lock()) gate_->cancel(ticket);
}

void Cancellation::bind(Gate& gate, const TicketRef& ticket) {
  const std::lock_guard guard(mutex_);
  gate_ = &gate;
  ticket_ = ticket;
  if (cancelled_) gate.cancel(ticket);
}

Filesystem::Filesystem(Mount mount)
    : mount_(std::move(mount)),
      wait_bounds_([this](uid_t user) { return is_trusted({.uid = user}); }),
      events_([this](const EventLog::Event& event, std::uint64_t lost) {
        return event_line(event, lost);
      }),
      gate_(resolve(mount_.options, bytes(mount_.volume.data_area().count)),
            {.free_blocks = [&volume = mount_.volume](
                                std::span<const PoolRange> r) { free_in_pool(volume, r); },
             .forget_records = [&volume = mount_.volume](
                                   std::span<const std::uint64_t> r) { forget_records(volume, r); },
             .tell_holder =
                 [kernel = mount_.kernel](HolderId holder) {
                   if (kernel != nullptr) kernel->wake_poller(holder);
                 },
             .is_limited = [this](uid_t user) { return !is_trusted({.uid = user}); },
             .processes = {.mark = mark_process, .has_ended = is_ending},
             .latest = [this](const DetachRequest& request,
                              SteadyTime since) { return wait_bounds_.latest(request, since); },
             .events = &events_,
             .last_pin = last_surviving_pin(mount_.volume)}),
      cache_(mount_.volume, [this](Inode& inode) { last_reference(inode); }) {
  if (mount_.request_limit) {
    const auto longest =
        std::chrono::duration_cast<std::chrono::milliseconds>(*mount_.request_limit) / 2;
    gate_.limit_waits(longest);
    events_.limit_waits(longest);
  }
  // If it cannot be read, every operation will say so.
  if (auto root = cache_.get(kRootInode)) root_ = std::move(*root);
  Pool* const pool = mount_.pool;
  grace_ = std::make_unique<Grace>(gate_, pool != nullptr
                                              ? [pool] { return pin_locks_of(pool->descriptor()); }
                                              : Grace::Locks());
  survivors_ = std::make_unique<Survivors>(
      gate_, *grace_, mount_.volume,
      pool != nullptr ? pin_locks_of(pool->descriptor()) : PinLocked(),
      [this](InodeNumber number, std::uint32_t generation) -> InodeRef {
        auto inode = cache_.get(number);
        if (!inode || (*inode)->record.generation != generation) return {};
        return std::move(*inode);
      },
      [this](Inode& inode, std::uint32_t pins) { write_unpinned(inode, pins); });
}

Filesystem::~Filesystem() {
  survivors_.reset();
  grace_.reset();
  stop_waiting();
}

void Filesystem::stop_waiting() {
  if (survivors_) survivors_->stop();
  if (grace_) grace_->stop();
  gate_.stop();
  events_.stop();
}

void Filesystem::unmount() {
  stop_waiting();
  survivors_.reset();
  grace_.reset();
  root_ = InodeRef();
  cache_.drain([this](Inode& inode) {
    inode.opens = 0;
    dispose_if_dead(inode);
    last_reference(inode);
  });
  // One that is at odds with itself is not clean: the next mount looks at all of it.
  if (!mount_.options.read_only && !stopped_) mount_.volume.close_clean();
}

Status Filesystem::writable() const {
  if (mount_.options.read_only) return fail(EROFS);
  if (stopped_.load(std::memory_order_relaxed)) return fail(EIO);
  if (MemoryReserve::used()) [[unlikely]] {
    std::call_once(memory_logged_, [this] {
      say_stopped("unmount it, give the daemon more memory, and mount it again");
    });
    return fail(EIO);
  }
  return durable();
}

void Filesystem::stop_changes(const std::string& why) {
  {
    const std::lock_guard guard(stop_mutex_);
    if (stopped_ || mount_.options.read_only) return;
    stopped_because_ = why;
    stopped_ = true;
  }
  say_stopped("save what you need, unmount it, and repair it with fsck.daxfs");
}

Status Filesystem::durable() const {
  if (!mount_.volume.medium().failed()) [[likely]]
    return {};
  std::call_once(failure_logged_, [this] {
    say_stopped("unmount it, put the storage right, and check it with fsck.daxfs");
  });
  return fail(EIO);
}

Status Filesystem::commit(const Transaction& tx) {
  return acknowledge(mount_.volume.journal().commit(tx));
}

std::string Filesystem::why_stopped() const {
  if (mount_.volume.medium().failed()) return mount_.volume.medium().failure();
  if (MemoryReserve::used()) return "the daemon has run out of memory";
  const std::lock_guard guard(stop_mutex_);
  return stopped_because_;
}

void Filesystem::say_stopped(std::string_view way_out) const {
  spdlog::critical("{}: pool {}: {}; nothing is changed from now on, reading goes on: {}",
                   mount_.mountpoint, mount_.pool != nullptr ? mount_.pool->path() : "",
                   why_stopped(), way_out);
}

void Filesystem::note_unreadable(Inode& inode, FileOffset offset, ByteCount length) {
  constexpr std::uint64_t kMostLogged = 20;
  if (unreadable_.fetch_add(1, std::memory_order_relaxed) >= kMostLogged) return;
  spdlog::error("{}{}: bytes {} to {} cannot be read: the pool's storage is gone or damaged there",
                mount_.mountpoint, path_of(inode.number), offset.value,
                offset.value + length.value);
}

struct Filesystem::Attempt : std::enable_shared_from_this<Attempt> {
  Gate& gate;
  Try attempt;
  TicketRef ticket;

  Attempt(Gate& g, Try t) : gate(g), attempt(std::move(t)) {}
  void run() {
    const auto self = shared_from_this();  // end() lets go of the ticket and so of the continuation
    if (!attempt(ticket)) gate.end(ticket);
  }
};

void Filesystem::run_at_gate(const CancellationRef& cancellation, Try attempt) {
  const auto run = std::make_shared<Attempt>(gate_, std::move(attempt));
  run->ticket = gate_.begin([run] { run->run(); });
  if (cancellation) cancellation->bind(gate_, run->ticket);
  run->run();
}

}  // namespace daxfs
