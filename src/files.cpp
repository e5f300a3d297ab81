#include "src/files.h"

#include <fcntl.h>

#include <algorithm>
#include <charconv>
#include <shared_mutex>
#include <utility>

#include "base/kernel_version.h"
#include "blockmap/pin_lock.h"
#include "src/doorbells.h"

namespace daxfs {
namespace {

constexpr std::uint64_t kSmallFile = 1 << 20;

}  // namespace

Files::Files(const Mount& mount, Health& health, Gate& gate, Inodes& inodes, Pins& pins,
             Callers& callers)
    : mount_(mount), health_(health), gate_(gate), inodes_(inodes), pins_(pins), callers_(callers) {
  Pool* const pool = mount.pool;
  grace_ = std::make_unique<Grace>(
      gate, pool != nullptr ? [pool] { return pin_locks_of(pool->descriptor()); } : Grace::Locks());
  survivors_ = std::make_unique<Survivors>(
      gate, *grace_, mount.volume, pool != nullptr ? pin_locks_of(pool->descriptor()) : PinLocked(),
      [&inodes](InodeNumber number, std::uint32_t generation) -> InodeRef {
        auto inode = inodes.get(number);
        if (!inode || (*inode)->generation != generation) return {};
        return std::move(*inode);
      },
      [&pins](Inode& inode, std::uint32_t count) { pins.write_pins_ended(inode, count); });
}

Result<OpenFileRef> Files::open(InodeNumber number, int flags) {
  auto ref = inodes_.get(number);
  if (!ref) return std::unexpected(ref.error());
  const int mode = flags & O_ACCMODE;
  if (mode != O_RDONLY) {
    if (const Status ok = health_.writable(); !ok) return std::unexpected(ok.error());
  }
  Inode& inode = **ref;
  if (inode.is_directory()) return fail(EISDIR);
  // The kernel opens pipes and devices itself; and whatever works on a file here may count on one.
  if (!inode.is_regular()) return fail(EINVAL);
  auto file = std::make_shared<OpenFile>();
  bool unseen_reads = false, only_appends = false;
  {
    const ReaderLock guard(inode.lock);
    if (inode.disposed) return fail(ESTALE);
    if (mode != O_RDONLY &&
        (inode.is_immutable() || (inode.is_append_only() && (flags & O_APPEND) == 0)))
      return fail(EPERM);
    const bool alone = inode.opens.fetch_add(1) == 0;
    // What is read from the kernel's cache is not heard of here. Where it would change the access
    // time, the pages go; but not many that others are at work with.
    unseen_reads = mode == O_RDONLY && inode.page_cached && inode.cached_writers == 0 &&
                   inodes_.atime_is_due(inode) && (alone || inode.record.size <= kSmallFile);
    // Older kernels do not bring a write past the pages and one into them together.
    only_appends = mode != O_RDONLY && inode.is_append_only() &&
                   (inode.cached_writers == 0 || kernel_is_at_least(6, 6));
  }
  file->readable = mode != O_WRONLY;
  file->writable = mode != O_RDONLY;
  file->appends = (flags & O_APPEND) != 0;
  const CacheMode cache = mount_.options.cache;
  // Where the kernel keeps writes, it brings O_DIRECT and its pages together by itself. A page that
  // it writes back does not tell what was appended from what was changed.
  file->direct = inode.write_pins != 0 || inode.has_attached() || cache == CacheMode::none ||
                 ((flags & O_DIRECT) != 0 && cache == CacheMode::through) ||
                 (only_appends && cache == CacheMode::writeback);
  file->keeps_writes = cache == CacheMode::writeback && file->writable && !file->direct;
  if (file->keeps_writes) inode.cached_writers += 1;
  // While a truncate waits, an open that drops dirty pages would wait with it, not to be killed.
  file->keep_cache = inode.truncates != 0 || (!inode.cache_stale.exchange(false) && !unseen_reads);
  file->holder = gate_.new_holder();
  file->inode = std::move(*ref);
  return file;
}

void Files::release(OpenFileRef file) {
  // What is recorded of pins stays for the next mount once nothing may be changed.
  if (file->ever_pinned && !health_.is_shut_down()) {
    const auto ended = [this, file](const std::vector<PinInfo>& pins) {
      const auto written = std::ranges::count_if(pins, &PinInfo::write);
      if (written > 0) pins_.write_pins_ended(*file->inode, static_cast<std::uint32_t>(written));
    };
    // No process, and so no device, works on a medium that is no file of the system (tests).
    auto awaited =
        mount_.pool != nullptr ? grace_->due(file->holder, file->users.all()) : std::nullopt;
    if (awaited) {
      grace_->begin(file->holder, *std::move(awaited), ended);
    } else {
      ended(gate_.drop(file->holder));
    }
  }
  abandon(std::move(file));
}

void Files::abandon(OpenFileRef file) {
  Inode& inode = *file->inode;
  if (file->keeps_writes) inode.cached_writers -= 1;
  inode.opens -= 1;
  inodes_.dispose_if_dead(inode);
}

void Files::note_user(OpenFile& file, const Caller& caller) {
  if (mount_.pool == nullptr || !file.ever_pinned) return;
  file.users.add(callers_.mark(callers_.requester(caller).process));
}

Status Files::adopt(OpenFile& file, PinId pin, const Caller& caller) {
  const Requester requester = callers_.requester(caller);
  const Status moved = survivors_->give(pin, callers_.owner(requester), file);
  if (moved) {
    file.users.add(callers_.mark(requester.process));
    file.ever_pinned = true;
  }
  return moved;
}

Status Files::release_pin(std::string_view text, const Caller& caller) {
  if (!callers_.is_trusted(caller)) return fail(EPERM);
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.remove_suffix(1);
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return fail(EINVAL);
  return survivors_->release(PinId{number});
}

void Files::stop_watching() {
  if (survivors_) survivors_->stop();
  if (grace_) grace_->stop();
}

void Files::end() {
  survivors_.reset();
  grace_.reset();
}

}  // namespace daxfs
