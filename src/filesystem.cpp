#include "src/filesystem.h"

#include <linux/capability.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/credentials.h"
#include "base/process_end.h"
#include "src/wait_bounds.h"

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

GateHooks Filesystem::gate_hooks() {
  Volume& volume = mount_.volume;
  const Callers& callers = callers_;
  // The gate's lock protects it.
  const auto bounds =
      std::make_shared<WaitBounds>([&callers](uid_t user) { return callers.is_trusted(user); });
  return {
      .free_blocks = [&volume](std::span<const PoolRange> r) { free_in_pool(volume, r); },
      .forget_records = [&volume](std::span<const std::uint64_t> r) { forget_records(volume, r); },
      .tell_holder =
          [kernel = mount_.kernel](HolderId holder) {
            if (kernel != nullptr) kernel->wake_poller(holder);
          },
      .is_limited = [&callers](uid_t user) { return !callers.is_trusted(user); },
      .processes = {.mark = mark_process, .has_ended = is_ending},
      .latest = [bounds](const DetachRequest& request,
                         SteadyTime since) { return bounds->latest(request, since); },
      .events = &events_,
      .last_pin = last_surviving_pin(volume)};
}

Filesystem::Contents::Contents(Filesystem& fs)
    : acls(fs.mount_),
      flags(fs.mount_, fs.health_, fs.kernel_pages_, fs.inodes_),
      xattrs(fs.mount_, fs.health_, fs.inodes_, fs.policies_),
      filling(fs.mount_, fs.health_, fs.gate_, fs.inodes_),
      copies(fs.mount_, fs.health_, fs.gate_),
      detaching(fs.mount_, fs.health_, fs.gate_, fs.policies_, copies),
      reading(fs.mount_, fs.health_, fs.gate_, fs.kernel_pages_, fs.inodes_),
      writing(fs.mount_, fs.health_, fs.kernel_pages_, fs.inodes_, xattrs, filling),
      space(fs.mount_, fs.health_, fs.gate_, fs.kernel_pages_, fs.inodes_, xattrs, filling,
            detaching, fs.callers_),
      attributes(fs.mount_, fs.health_, fs.gate_, fs.kernel_pages_, fs.inodes_, acls, xattrs,
                 filling, detaching, fs.callers_) {}

Filesystem::Tree::Tree(Filesystem& fs)
    : names(fs.mount_, fs.health_, fs.inodes_, fs.contents_.acls),
      renames(fs.mount_, fs.health_, fs.gate_, fs.inodes_, fs.contents_.detaching, fs.callers_,
              names) {}

Filesystem::Holds::Holds(Filesystem& fs)
    : pins(fs.mount_, fs.health_, fs.gate_, fs.kernel_pages_, fs.inodes_, fs.contents_.xattrs,
           fs.contents_.filling, fs.callers_),
      files(fs.mount_, fs.health_, fs.gate_, fs.inodes_, pins, fs.callers_),
      leases(fs.health_, fs.gate_, fs.callers_),
      extents(fs.gate_, fs.inodes_),
      direct(fs.mount_, fs.health_, fs.gate_, fs.inodes_, fs.contents_.xattrs, extents,
             fs.callers_),
      remount(fs.mount_, fs.health_, fs.gate_, fs.callers_, direct) {}

Filesystem::Filesystem(Mount mount)
    : mount_(std::move(mount)),
      health_(mount_),
      kernel_pages_(mount_.kernel, mount_.options.cache == CacheMode::writeback),
      callers_(mount_.mounter),
      events_([this](const EventLog::Event& event, std::uint64_t lost) {
        return event_line(event, inodes_.path_of(event.what.inode), lost);
      }),
      gate_(resolve(mount_.options, bytes(mount_.volume.data_area().count)), gate_hooks()),
      policies_(mount_, gate_, callers_),
      inodes_(mount_, health_, gate_, kernel_pages_, policies_),
      contents_(*this),
      tree_(*this),
      holds_(*this),
      reports_(mount_, health_, gate_, events_, callers_, inodes_, holds_.files, holds_.extents,
               holds_.direct, contents_.copies) {
  if (!mount_.request_limit) return;
  const auto longest =
      std::chrono::duration_cast<std::chrono::milliseconds>(*mount_.request_limit) / 2;
  gate_.limit_waits(longest);
  events_.limit_waits(longest);
}

Filesystem::~Filesystem() {
  holds_.files.end();
  stop_waiting();
}

void Filesystem::stop_waiting() {
  std::call_once(holds_.let_go, [this] {
    holds_.files.stop_watching();
    gate_.stop();
    contents_.copies.stop();
    events_.stop();
  });
}

Status Filesystem::shut_down(const Caller& caller) {
  if (!callers_.is_trusted(caller)) return fail(EPERM);
  if (caller.uid == 0 && !credentials_of(caller.thread).has(CAP_SYS_ADMIN)) return fail(EPERM);
  // Before anything is woken: what is tried again finds it so.
  if (!health_.shut_down()) return {};
  spdlog::warn("{}: shut down by process {}, as after a crash: unmount it, and mount it again",
               mount_.mountpoint, caller.thread);
  stop_waiting();
  holds_.direct.end();
  return {};
}

void Filesystem::unmount() {
  stop_waiting();
  holds_.direct.end();
  holds_.files.end();
  inodes_.end_all();
  // One that is at odds with itself is not clean: the next mount looks at all of it.
  if (health_.may_change()) mount_.volume.close_clean();
}

}  // namespace daxfs
