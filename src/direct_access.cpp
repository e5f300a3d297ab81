#include "src/direct_access.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <mutex>
#include <shared_mutex>
#include <utility>

#include "base/require.h"
#include "blockmap/pin_lock.h"
#include "blockmap/volume/former_doorbells.h"

namespace daxfs {

DirectAccess::DirectAccess(const Mount& mount, Health& health, Gate& gate, Inodes& inodes,
                           Xattrs& xattrs, Extents& extents, Callers& callers)
    : mount_(mount),
      health_(health),
      gate_(gate),
      inodes_(inodes),
      xattrs_(xattrs),
      extents_(extents),
      callers_(callers) {
  if (mount.options.direct) sweeper_.emplace([this] { return sweep(); });
}

DirectAccess::KeptOpen::~KeptOpen() {
  if (!inode_) return;
  inode_->opens -= 1;
  inodes_->dispose_if_dead(*inode_);
}

Doorbells& DirectAccess::doorbells_of(Inode& inode) {
  if (Doorbells* const known = inode.doorbells.load(std::memory_order_acquire)) return *known;
  const WriterLock guard(inode.lock);
  if (!inode.doorbells_owner) {
    inode.doorbells_owner = std::make_shared<Doorbells>();
    inode.doorbells_owner->publish(inode.record.size);
    inode.doorbells.store(inode.doorbells_owner.get(), std::memory_order_seq_cst);
  }
  return *inode.doorbells_owner;
}

Status DirectAccess::check(const OpenFile& file, std::uint64_t proof) const {
  if (!mount_.options.direct) return fail(EOPNOTSUPP);
  if (!file.inode->is_regular() || !file.direct) return fail(EINVAL);
  if (const Status ok = health_.writable(); !ok) return ok;
  if (mount_.pool == nullptr) return {};  // tests
  if (mount_.pool->granularity() == Granularity::page) return fail(EOPNOTSUPP);
  return is_write_locked(mount_.pool->descriptor(), proof) ? Status() : fail(EACCES);
}

Result<DirectAccess::Terms> DirectAccess::attach(OpenFile& file, std::uint64_t proof,
                                                 const Caller& caller) {
  if (const Status ok = check(file, proof); !ok) return std::unexpected(ok.error());
  Inode& inode = *file.inode;
  if (const Status loaded = inodes_.load_extents(inode); !loaded)
    return std::unexpected(loaded.error());
  if (file.writable) {
    if (const Status dropped = xattrs_.drop_capability(inode); !dropped)
      return std::unexpected(dropped.error());
    // Who writes past the kernel takes no privileges away.
    const ReaderLock guard(inode.lock);
    if (inode.privileges() != 0 || inode.is_protected()) return fail(EOPNOTSUPP);
  }
  const Requester requester = callers_.requester(caller);
  if (mount_.pool != nullptr && requester.process == 0) return fail(ESRCH);
  const Attachment attached{
      .holder = gate_.new_holder(),
      .process = {.owner = callers_.owner(requester), .mark = callers_.mark(requester.process)}};
  // Older daemons would take copies for nothing.
  if (const Status told =
          health_.acknowledge(mount_.volume.inodes().add_incompatible(pmem::kPoolDoorbells));
      !told) {
    return std::unexpected(told.error());
  }
  auto ref = inodes_.get(inode.number);
  if (!ref) return std::unexpected(ref.error());
  Doorbells& doorbells = doorbells_of(inode);

  Bell fresh;
  const MutexLock lock(mutex_);
  if (ended_) return fail(EIO);
  const auto known = bells_.find(&file);
  const bool none = known == bells_.end() || end_unmapped(known->second, false);
  Bell* const bell = none ? &fresh : &known->second;
  const bool first = bell == &fresh;
  if (first) {
    const auto run = mount_.volume.allocator().allocate_run(BlockCount(1));
    if (!run) return std::unexpected(run.error());
    Medium& medium = mount_.volume.medium();
    medium.zero(offset_of(run->start), bytes(BlockCount(1)));
    medium.fence();
    fresh.inode = KeptOpen(inodes_, std::move(*ref));
    fresh.block = run->start;
    fresh.page = &doorbell_at(medium, run->start);
    doorbells.add(*fresh.page);
  }
  Attachment numbered = attached;
  // Both calls are under this lock, and the page is known.
  numbered.number = *doorbells.attach(*bell->page, attached.process);
  const auto pin = take_pin(file, *bell, numbered, first, requester);
  if (!pin) {
    doorbells.leave(*bell->page, numbered.number);
    return std::unexpected(pin.error());
  }
  const Terms terms{*pin, numbered.number, offset_of(bell->block)};
  bell->attached.emplace(*pin, numbered);
  if (first) std::swap(bells_[&file], fresh);  // an old one is destroyed without the lock
  file.ever_attached = true;
  // Pages may have been given before anybody looked whether there are doorbells.
  if (inode.page_cached) doorbells.enter_kernel();
  return terms;
}

Result<PinId> DirectAccess::take_pin(const OpenFile& file, const Bell& bell,
                                     const Attachment& attached, bool first,
                                     const Requester& requester) {
  const PoolRange block{bell.block, BlockCount(1)};
  // Nobody may look at the page once its block is free.
  const auto remove_page = [&] {
    if (first) bell.inode->doorbells_owner->remove(*bell.page);
  };
  const auto pin = gate_.pin_apart({.holder = attached.holder,
                                    .inode = file.inode->number,
                                    .offset = FileOffset(0),
                                    .length = ByteCount(0),
                                    .blocks = {&block, 1},
                                    .requester = requester},
                                   first);
  if (!pin) {
    remove_page();
    if (first) (void)mount_.volume.allocator().free(block);
    return pin;
  }
  const auto since = std::chrono::system_clock::now().time_since_epoch();
  const auto slot = health_.acknowledge(mount_.volume.pin_records().add(
      {.owner = attached.process.owner,
       .inode = file.inode->number,
       .generation = file.inode->generation,
       .offset = FileOffset(static_cast<std::uint64_t>(attached.number)),
       .length = ByteCount(0),
       .doorbell = true,
       .since_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(since).count(),
       .pin_id = pin->value},
      {&block, 1}, callers_.is_trusted(requester.uid) ? PinRoom::all : PinRoom::share));
  if (!slot) {
    remove_page();
    gate_.undo_pin(attached.holder, *pin);  // frees the block, too
    return std::unexpected(slot.error());
  }
  gate_.record_pin(attached.holder, *pin, slot->position);
  return pin;
}

void DirectAccess::end(Bell& bell, PinId pin) {
  const auto found = bell.attached.find(pin);
  Doorbells& doorbells = *bell.inode->doorbells_owner;
  inodes_.note_written(*bell.inode);
  doorbells.leave(*bell.page, found->second.number);
  const HolderId holder = found->second.holder;
  bell.attached.erase(found);
  // The block may be a file's as soon as its last pin has gone.
  if (bell.attached.empty()) doorbells.remove(*bell.page);
  gate_.drop(holder);
}

bool DirectAccess::is_mapped(PinId pin) const {
  return mount_.pool != nullptr && is_pin_locked(mount_.pool->descriptor(), pin.value);
}

bool DirectAccess::end_unmapped(Bell& bell, bool also_of_the_living) {
  std::vector<PinId> over;
  for (const auto& [pin, attached] : bell.attached) {
    if ((also_of_the_living || has_ended(attached.process)) && !is_mapped(pin)) over.push_back(pin);
  }
  for (const PinId pin : over) end(bell, pin);
  return bell.attached.empty();
}

bool DirectAccess::sweep() {
  std::vector<Bell> gone;  // destroyed without the lock
  const MutexLock lock(mutex_);
  const auto first_gone = std::ranges::stable_partition(lingering_, [this](Bell& one) {
    mutex_.assert_held();
    return !end_unmapped(one, true);
  });
  std::ranges::move(first_gone, std::back_inserter(gone));
  lingering_.erase(first_gone.begin(), first_gone.end());
  return lingering_.empty();
}

Status DirectAccess::detach(OpenFile& file, PinId pin) {
  Bell gone;
  const MutexLock lock(mutex_);
  const auto bell = bells_.find(&file);
  if (bell == bells_.end() || !bell->second.attached.contains(pin)) return fail(ENOENT);
  // Others may have the descriptor, and nothing to do with it.
  if (is_mapped(pin)) return fail(EBUSY);
  end(bell->second, pin);
  if (!bell->second.attached.empty()) return {};
  gone = std::move(bell->second);
  bells_.erase(bell);
  return {};
}

Result<DirectAccess::Where> DirectAccess::where(OpenFile& file, PinId pin, FileOffset offset,
                                                ByteCount length, std::size_t limit,
                                                bool pages_dropped) {
  {
    const MutexLock lock(mutex_);
    const auto bell = bells_.find(&file);
    if (bell == bells_.end() || !bell->second.attached.contains(pin)) return fail(ENOENT);
  }
  if (mount_.pool != nullptr && !is_mapped(pin)) return fail(EACCES);
  Inode& inode = *file.inode;
  Doorbells& doorbells = *inode.doorbells.load(std::memory_order_acquire);
  if (pages_dropped) doorbells.leave_kernel(inode.page_cached);
  Where out;
  // As long as this lock is held no detach begins: the epoch is that of these extents.
  const ReaderLock guard(inode.lock);
  out.size = inode.record.size;
  const auto valid = doorbells.valid();
  // Who attached for writing while the flag was being set goes through the kernel.
  if (!valid || (file.writable && inode.is_protected())) return out;
  const auto found = extents_.of_range_locked(inode, offset, length, limit);
  if (!found) return std::unexpected(found.error());
  out.found = *found;
  out.epoch = valid->epoch;
  out.additions = valid->additions;
  return out;
}

void DirectAccess::release(OpenFile& file) {
  if (!file.ever_attached) return;
  std::optional<Bell> closed;
  {
    const MutexLock lock(mutex_);
    const auto found = bells_.find(&file);
    if (found == bells_.end()) return;
    closed = std::move(found->second);
    bells_.erase(found);
    if (end_unmapped(*closed, true)) return;
    lingering_.push_back(std::move(*closed));
  }
  DAXFS_REQUIRE(sweeper_.has_value(), "a file was attached in a mount without `direct`");
  sweeper_->begin();
}

void DirectAccess::end() {
  if (sweeper_) sweeper_->stop();
  Bells gone;
  std::vector<Bell> lingering;
  const MutexLock lock(mutex_);
  ended_ = true;
  const auto close = [&](Bell& bell) {
    inodes_.note_written(*bell.inode);
    // Never opened again.
    bell.inode->doorbells_owner->close();
  };
  for (auto& [file, bell] : bells_) close(bell);
  for (Bell& bell : lingering_) close(bell);
  gone.swap(bells_);
  lingering.swap(lingering_);
}

bool DirectAccess::is_attached(InodeNumber number) {
  if (!mount_.options.direct) return false;
  const auto inode = inodes_.get(number);
  if (!inode) return false;
  return (*inode)->has_attached();
}

std::vector<DirectAccess::Attached> DirectAccess::list() const {
  std::vector<Attached> out;
  const MutexLock lock(mutex_);
  const auto add = [&](const Bell& bell) {
    const Doorbells& doorbells = *bell.inode->doorbells_owner;
    const bool closed = !doorbells.valid();
    for (const auto& [pin, attached] : bell.attached) {
      out.push_back({.pin = pin,
                     .inode = bell.inode->number,
                     .requester = {.process = attached.process.mark.process,
                                   .uid = attached.process.owner.uid,
                                   .start_ticks = attached.process.mark.start_ticks},
                     .holder = attached.holder,
                     .closed = closed,
                     .revocations = doorbells.revocations()});
    }
  };
  for (const auto& [file, bell] : bells_) add(bell);
  for (const Bell& bell : lingering_) add(bell);
  std::ranges::sort(out, {}, &Attached::pin);
  return out;
}

std::set<HolderId> DirectAccess::holders() const {
  std::set<HolderId> out;
  for (const Attached& one : list()) out.insert(one.holder);
  return out;
}

}  // namespace daxfs
