#include "src/doorbells.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <ranges>
#include <thread>

#include "base/process_identity.h"
#include "base/require.h"
#include "blockmap/volume/former_doorbells.h"

namespace daxfs {
namespace {

// How long a page-cache request waits for copies, and how long the kernel's page cache has a file
// for itself after it was last used.
constexpr std::chrono::milliseconds kPageCacheWaits{2};
constexpr std::chrono::milliseconds kPageCacheStays{100};

// Found out once: then it can always be done.
bool makes_barriers() {
  static const bool makes = doorbell::make_barriers();
  return makes;
}

using doorbell::Attachment;
using doorbell::Page;
using doorbell::Slot;

// (4) of client/doorbell.h: a count of 0 that is read here is acquired from the give_back() that
// wrote it; and it comes after the close(), for which it has to be seq_cst.
bool is_busy(const Slot& slot) { return slot.count.load(std::memory_order_seq_cst) != 0; }

// Visits the slots that anybody has ever claimed, until it says false. Whether it never did.
template <class Visit>
bool each_used_slot(const Page& page, const Visit& visit) {
  // Between (3) and (4), see claim(): a client that claims a slot that is missing here finds it
  // closed.
  std::uint64_t used = page.used.load(std::memory_order_seq_cst);
  used &= (std::uint64_t{1} << doorbell::kSlots) - 1;  // clients may have written anything
  for (; used != 0; used &= used - 1) {
    if (!visit(static_cast<std::size_t>(std::countr_zero(used)))) return false;
  }
  return true;
}

Attachment owner_of(const Slot& slot) {
  // After a count that was not 0: the claim came before that.
  return Attachment{slot.owner.load(std::memory_order_acquire)};
}

// Of an attachment that copies no more; if the slot is its.
void free_slot(Slot& slot, Attachment attachment) {
  if (owner_of(slot) != attachment) return;
  slot.count.store(0, std::memory_order_relaxed);
  slot.owner.replace(static_cast<std::uint64_t>(attachment),
                     static_cast<std::uint64_t>(Attachment::none),
                     std::memory_order_release);  // paired with claim(): the count comes first
}

}  // namespace

bool has_ended(const AttachedProcess& process) {
  if (judge(process.owner).life == Life::dead || is_gone(process.mark)) return true;
  // An exec ends all other threads, and leaves nothing of the memory that they have copied in.
  if (process.mark.image == 0) return false;
  const ProcessMark now = mark_process(process.mark.process);
  return now.same_process(process.mark) && now.image != 0 && now.image != process.mark.image;
}

Doorbells::Bell* Doorbells::find(const Page& page) {
  const auto found =
      std::ranges::find_if(bells_, [&](const Bell& bell) { return bell.page == &page; });
  return found == bells_.end() ? nullptr : &*found;
}

std::uint64_t Doorbells::closed_word(const Bell& bell) const {
  return bell.former ? doorbell::kClosedForGood : epoch_ + 1;
}

void Doorbells::add(Page& page) {
  const MutexLock lock(mutex_);
  DAXFS_REQUIRE(find(page) == nullptr, "a doorbell is added twice");
  Bell& bell = bells_.emplace_back();
  bell.page = &page;
  page.magic.store(doorbell::kMagic, std::memory_order_relaxed);
  page.flags.store(makes_barriers() ? doorbell::kMakesBarriers : 0, std::memory_order_relaxed);
  page.size.store(published_.size, std::memory_order_relaxed);
  page.additions.store(published_.additions, std::memory_order_relaxed);
  // Relaxed: nobody knows the page before attach() has been answered.
  page.epoch.store(closers_ == 0 ? epoch_ : closed_word(bell), std::memory_order_relaxed);
}

void Doorbells::add_former(Page& page, const Attachments& recorded) {
  const MutexLock lock(mutex_);
  DAXFS_REQUIRE(find(page) == nullptr, "a doorbell is added twice");
  Bell& bell = bells_.emplace_back();
  bell.page = &page;
  bell.former = true;
  bell.attached.insert(recorded.begin(), recorded.end());
  page.epoch.store(closed_word(bell), std::memory_order_seq_cst);  // (3)
  let_counts_arrive();
}

void Doorbells::remove(Page& page) {
  const MutexLock lock(mutex_);
  std::erase_if(bells_, [&](const Bell& bell) { return bell.page == &page; });
}

Result<Attachment> Doorbells::attach(Page& page, const AttachedProcess& process) {
  const MutexLock lock(mutex_);
  Bell* const bell = find(page);
  if (bell == nullptr) return fail(ENOENT);
  if (bell->former) return fail(ESTALE);
  const auto number = Attachment{++bell->last};
  bell->attached.emplace(number, process);
  return number;
}

void Doorbells::leave(Page& page, Attachment attachment) {
  const MutexLock lock(mutex_);
  Bell* const bell = find(page);
  if (bell == nullptr || bell->attached.erase(attachment) == 0) return;
  for (Slot& slot : page.slots) free_slot(slot, attachment);
}

void Doorbells::sweep() {
  std::vector<CopiesInFlight> all;
  {
    const MutexLock lock(mutex_);
    for (const Bell& bell : bells_) {
      for (const auto& [attachment, process] : bell.attached)
        all.push_back({bell.page, 0, attachment, process});
    }
  }
  for (const CopiesInFlight& one : all) {
    if (!has_ended_(one.process)) continue;
    leave(*one.page, one.attachment);
  }
}

std::optional<Doorbells::Valid> Doorbells::valid() const {
  const MutexLock lock(mutex_);
  if (closers_ != 0) return std::nullopt;
  return Valid{epoch_, published_.additions};
}

std::optional<std::uint64_t> Doorbells::epoch() const {
  const auto now = valid();
  return now ? std::optional(now->epoch) : std::nullopt;
}

bool Doorbells::any() const {
  const MutexLock lock(mutex_);
  return !bells_.empty();
}

std::uint64_t Doorbells::revocations() const {
  const MutexLock lock(mutex_);
  return epoch_ / 2 + (closers_ != 0 ? 1 : 0);
}

void Doorbells::publish(std::uint64_t size) {
  const MutexLock lock(mutex_);
  published_.size = size;
  ++published_.additions;
  // In this order: who sees the new size sees that something was added, and asks what; that comes
  // behind us, as we hold the inode's lock.
  for (const Bell& bell : bells_) {
    bell.page->additions.store(published_.additions, std::memory_order_release);
    bell.page->size.store(size, std::memory_order_release);
  }
}

void Doorbells::enter_kernel() {
  std::chrono::steady_clock::time_point until;
  {
    const MutexLock lock(mutex_);
    if (bells_.empty()) return;
    const auto now = std::chrono::steady_clock::now();
    if (!in_kernel_) {
      close_all();
      in_kernel_ = InKernel{.since = now, .last = now};
    }
    in_kernel_->last = now;
    until = in_kernel_->since + kPageCacheWaits;
  }
  // Copies take microseconds. One that is stopped in the middle has not returned yet, and asks the
  // daemon before it does, when the pages are dropped again (client/direct.cpp). So none is waited
  // for twice.
  while (!quiet() && std::chrono::steady_clock::now() < until) std::this_thread::yield();
}

bool Doorbells::leave_kernel(bool cached) {
  const MutexLock lock(mutex_);
  if (!in_kernel_) return true;
  if (cached || std::chrono::steady_clock::now() - in_kernel_->last < kPageCacheStays) return false;
  in_kernel_.reset();
  open_all();
  return true;
}

std::int64_t Doorbells::take_written() {
  const MutexLock lock(mutex_);
  std::int64_t last = 0;
  for (const Bell& bell : bells_) {
    const std::uint64_t seen = bell.page->written.load(std::memory_order_acquire);
    if (seen == 0 || !bell.page->written.replace(seen, 0, std::memory_order_acq_rel)) continue;
    last = std::max(last, static_cast<std::int64_t>(seen & INT64_MAX));
  }
  return last;
}

void Doorbells::close() {
  const MutexLock lock(mutex_);
  close_all();
}

void Doorbells::close_all() {
  ++closers_;
  // (3). Also where another detach has closed them already: then it costs little, and a client that
  // has scribbled over its page finds it closed all the same.
  for (const Bell& bell : bells_)
    bell.page->epoch.store(closed_word(bell), std::memory_order_seq_cst);
  if (!bells_.empty() && makes_barriers()) let_counts_arrive();
}

void Doorbells::open() {
  const MutexLock lock(mutex_);
  open_all();
}

void Doorbells::open_all() {
  DAXFS_REQUIRE(closers_ != 0, "doorbells are opened that nobody has closed");
  if (--closers_ != 0) return;
  epoch_ += 2;
  // Release, paired with (2): a client that sees this epoch sees the blocks as they have become.
  for (const Bell& bell : bells_) {
    if (!bell.former) bell.page->epoch.store(epoch_, std::memory_order_release);
  }
}

bool Doorbells::quiet() const {
  const MutexLock lock(mutex_);
  return std::ranges::all_of(bells_, [](const Bell& bell) {
    return each_used_slot(*bell.page,
                          [&](std::size_t slot) { return !is_busy(bell.page->slots[slot]); });
  });
}

std::vector<CopiesInFlight> Doorbells::busy_slots() const {
  const MutexLock lock(mutex_);
  std::vector<CopiesInFlight> busy;
  for (const Bell& bell : bells_) {
    each_used_slot(*bell.page, [&](std::size_t i) {
      const Slot& slot = bell.page->slots[i];
      if (!is_busy(slot)) return true;
      // None, or an unknown one: given back since, or scribbled. A copy has its owner before it
      // begins.
      const Attachment owner = owner_of(slot);
      if (const auto known = bell.attached.find(owner); known != bell.attached.end())
        busy.push_back({bell.page, i, owner, known->second});
      return true;
    });
  }
  return busy;
}

void Doorbells::reclaim(const CopiesInFlight& copies) {
  const MutexLock lock(mutex_);
  if (find(*copies.page) == nullptr) return;
  // Another thread may have reclaimed it since, and another process have claimed it.
  Slot& slot = copies.page->slots[copies.slot];
  free_slot(slot, copies.attachment);
}

std::vector<CopiesInFlight> Doorbells::in_flight() {
  std::vector<CopiesInFlight> busy = busy_slots();
  std::erase_if(busy, [&](const CopiesInFlight& copies) {
    if (!has_ended_(copies.process)) return false;
    reclaim(copies);
    return true;
  });
  return busy;
}

bool Doorbells::have_ended(const CopiesInFlight& copies) {
  {
    const MutexLock lock(mutex_);
    if (find(*copies.page) == nullptr) return true;
    const Slot& slot = copies.page->slots[copies.slot];
    if (!is_busy(slot) || owner_of(slot) != copies.attachment) return true;
  }
  if (!has_ended_(copies.process)) return false;
  reclaim(copies);
  return true;
}

}  // namespace daxfs
