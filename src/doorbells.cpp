#include "src/doorbells.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <ranges>

#include "base/process_identity.h"
#include "base/require.h"

namespace daxfs {
namespace {

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
  if (Bell* const bell = find(page)) bell->attached.erase(attachment);
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
    for (std::size_t slot = 0; slot < doorbell::kSlots; ++slot)
      reclaim({one.page, slot, one.attachment, one.process});
    leave(*one.page, one.attachment);
  }
}

std::optional<std::uint64_t> Doorbells::epoch() const {
  const MutexLock lock(mutex_);
  if (closers_ != 0) return std::nullopt;
  return epoch_;
}

void Doorbells::close() {
  const MutexLock lock(mutex_);
  ++closers_;
  // (3). Also where another detach has closed them already: then it costs little, and a client that
  // has scribbled over its page finds it closed all the same.
  for (const Bell& bell : bells_)
    bell.page->epoch.store(closed_word(bell), std::memory_order_seq_cst);
}

void Doorbells::open() {
  const MutexLock lock(mutex_);
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
  Slot& slot = copies.page->slots[copies.slot];
  // Another thread may have reclaimed it since, and another process have claimed it.
  if (owner_of(slot) != copies.attachment) return;
  slot.count.store(0, std::memory_order_relaxed);
  slot.owner.replace(static_cast<std::uint64_t>(copies.attachment),
                     static_cast<std::uint64_t>(Attachment::none),
                     std::memory_order_release);  // paired with claim(): the count comes first
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
