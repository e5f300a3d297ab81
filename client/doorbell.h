// The doorbell: a page that clients of direct access and the daemon share. A client that copies
// into or out of a file's blocks by itself counts that copy here, and the daemon does not take
// blocks away before the copies have ended. docs/direct-access.md has the whole protocol,
// tests/spin/doorbell.pml a model of it; src/doorbells.h is the daemon's half.
//
//     client                                        daemon
//     slot.count += 1           (1)                 epoch := odd               (3)
//     epoch == the one I know?  (2)                 are all counts 0?          (4)
//       no: slot.count -= 1, ask the daemon           no: wait, look again
//     copy, fence                                     yes: nobody is in there, nobody can come in
//     slot.count -= 1           (5)                 take the blocks; epoch := next even
//
// Memory orders, all of them necessary:
//   (1) before (2), and (3) before (4), seq_cst: each side stores its word before it reads the
//       other's, so at least one of them sees the other (Dekker). With anything weaker both CPUs
//       may keep their stores in their store buffers, both read the old value, and both go ahead;
//       x86 does that, too. x86: (1) is a locked instruction, (3) an XCHG. ARMv8: (1) is LDADDAL,
//       (2) LDAR, (3) STLR, (4) LDAR; an LDAR does not overtake the store of an earlier STLR,
//       LDADDAL or (without LSE) STLXR. A plain LDR or an LDAPR would.
//   (5) release, paired with (4), which is an acquire, too: what the copy has read and stored comes
//       before what the next owner of the blocks does. ARM would reorder both ways without it.
//       Non-temporal stores are outside of all this, on either: fence (SFENCE; DMB ISH) before (5).
//   (2) is an acquire: with the epoch, all that happened before the daemon opened it again.
//
// A locked instruction waits for all that the CPU has begun to load; so it costs a small copy more
// than the copy. Where a slot is one thread's alone, (1) and (5) are plain stores, with the
// compiler alone kept from reordering (1) and (2): the daemon has the kernel make every CPU that
// runs a client a barrier between (3) and (4), by membarrier(2). After it, a client has either
// stored its count, or has yet to read the epoch. Both sides have to want it: Page::flags,
// ask_for_barriers().
//
// Everything here may be called by any thread, never waits, allocates nothing, needs no C++
// runtime, and may be used in a signal handler. The page is the client's to write: nothing in it is
// to be trusted by the daemon beyond what the client could do to the pool anyway.
#pragma once

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace daxfs::doorbell {

// A word of the page. Any bytes are one, so that a page can be mapped, or come from the pool.
class Word {
 public:
  std::uint64_t load(std::memory_order order) const {
    // Of a const object there is no atomic_ref in C++23; loading stores nothing.
    return std::atomic_ref<std::uint64_t>(const_cast<std::uint64_t&>(value_)).load(order);
  }
  void store(std::uint64_t value, std::memory_order order) { ref().store(value, order); }
  void add(std::uint64_t value, std::memory_order order) { ref().fetch_add(value, order); }
  void subtract(std::uint64_t value, std::memory_order order) { ref().fetch_sub(value, order); }
  void set_bits(std::uint64_t bits, std::memory_order order) { ref().fetch_or(bits, order); }
  // Whether it was `expected`, and is `value` now.
  bool replace(std::uint64_t expected, std::uint64_t value, std::memory_order order) {
    return ref().compare_exchange_strong(expected, value, order, std::memory_order_relaxed);
  }

 private:
  std::atomic_ref<std::uint64_t> ref() { return std::atomic_ref<std::uint64_t>(value_); }
  alignas(8) std::uint64_t value_;
};
// Else it would be a lock in each process's own memory.
static_assert(std::atomic_ref<std::uint64_t>::is_always_lock_free);
static_assert(std::is_trivially_copyable_v<Word> && std::is_standard_layout_v<Word>);

// One process's right to use one doorbell, as the daemon has numbered it. No number comes twice in
// a doorbell, and the daemon knows whose it is: so a slot says whose it is in one word, in every
// pid namespace, and a later process with the same process number is told apart.
enum class Attachment : std::uint64_t { none = 0 };

// Where one thread counts. A cache line, since it is written twice for each copy.
struct alignas(64) Slot {
  Word owner;  // an Attachment; none: the slot is free
  Word count;  // copies in flight: more than one in a signal handler, or if threads share the slot
  std::uint64_t reserved[6];
};

inline constexpr std::uint64_t kMagic = 0x6c6c'6542'6678'6164;  // "daxfBell"
inline constexpr std::size_t kSlots = 62;

// 4096 bytes, little-endian like all of the pool; a block of it that belongs to no file.
struct alignas(4096) Page {
  // --- the first line: read for each copy, written rarely; but for `used`, by the daemon ---
  Word magic;
  Word epoch;      // even: the extents that were given out with it are valid; odd: closed
  Word additions;  // grows when the file has gained blocks: what was a hole may be none now
  Word size;       // of the file
  Word flags;      // of the daemon: kMakesBarriers
  Word used;       // a bit for each slot that anybody has ever claimed; by clients
  std::uint64_t reserved_0[2];
  // --- the second: written by clients ---
  Word position;  // the file offset of this open file description
  Word written;   // a time: bytes were changed in place since the daemon looked
  std::uint64_t reserved_1[6];
  Slot slots[kSlots];
};
static_assert(sizeof(Word) == 8 && sizeof(Slot) == 64 && sizeof(Page) == 4096);
static_assert(offsetof(Page, epoch) == 8 && offsetof(Page, used) == 40);
static_assert(offsetof(Page, position) == 64 && offsetof(Page, slots) == 128);
static_assert(offsetof(Slot, count) == 8);

constexpr bool is_open(std::uint64_t epoch) { return (epoch & 1) == 0; }
// Of a doorbell whose daemon has died. Odd, and no other comes after it.
inline constexpr std::uint64_t kClosedForGood = UINT64_MAX;

// In Page::flags: between (3) and (4) the daemon calls make_barriers(), and it can.
inline constexpr std::uint64_t kMakesBarriers = 1;

// Whether from now on every CPU is a barrier for this process's threads when anybody calls
// make_barriers(). Stays for the life of its memory.
inline bool ask_for_barriers() {
  return syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0;
}

// Whether there was a barrier, between what this thread did before and does next, for all threads
// of all processes that have asked.
inline bool make_barriers() {
  return syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0) == 0;
}

// --- the client ---

// A free slot of the page, from now on this attachment's, for one thread of it. nullptr: there is
// none; share one (find()), or use system calls.
inline Slot* claim(Page& page, Attachment attachment) {
  constexpr auto kNone = static_cast<std::uint64_t>(Attachment::none);
  for (std::size_t i = 0; i < kSlots; ++i) {
    Slot& slot = page.slots[i];
    if (slot.owner.load(std::memory_order_relaxed) != kNone) continue;
    // Before (1), and seq_cst as that is: the daemon looks only at slots whose bit it sees, and it
    // reads the bits between (3) and (4).
    page.used.set_bits(std::uint64_t{1} << i, std::memory_order_seq_cst);
    // Acquire, paired with the releases in release() and in Doorbells: the count is 0 by then.
    if (slot.owner.replace(kNone, static_cast<std::uint64_t>(attachment),
                           std::memory_order_acq_rel)) {
      return &slot;
    }
  }
  return nullptr;
}

// A slot that this attachment has already, to share between threads: always right, and slower, as
// the line goes back and forth. nullptr: it has none.
inline Slot* find(Page& page, Attachment attachment) {
  for (Slot& slot : page.slots) {
    if (slot.owner.load(std::memory_order_acquire) == static_cast<std::uint64_t>(attachment))
      return &slot;
  }
  return nullptr;
}

// Gives the slot back. Precondition: it is this attachment's, and nobody counts in it any more.
inline void release(Slot& slot, Attachment attachment) {
  slot.owner.replace(static_cast<std::uint64_t>(attachment),
                     static_cast<std::uint64_t>(Attachment::none), std::memory_order_release);
}

// Who counts in a slot.
enum class Counting : bool {
  shared,  // several threads, or there are no barriers
  alone,   // this thread alone, signal handlers included, and both sides want barriers
};

// Ends a copy. Precondition: take() has said true, and what was stored non-temporally is fenced.
inline void give_back(Slot& slot, Counting how = Counting::shared) {
  if (how == Counting::shared) return slot.count.subtract(1, std::memory_order_release);  // (5)
  slot.count.store(slot.count.load(std::memory_order_relaxed) - 1, std::memory_order_release);
}

// Begins a copy. True: until give_back(), the blocks that were given out with this epoch stay the
// file's. False: they may be somebody else's; nothing is to be given back. Ask the daemon anew.
// Precondition: the slot is this process's; a forked child has none of its parent's.
[[nodiscard]] inline bool take(const Page& page, Slot& slot, std::uint64_t epoch,
                               Counting how = Counting::shared) {
  if (how == Counting::shared) {
    slot.count.add(1, std::memory_order_seq_cst);  // (1)
  } else {
    slot.count.store(slot.count.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    std::atomic_signal_fence(std::memory_order_seq_cst);
  }
  if (page.epoch.load(std::memory_order_seq_cst) == epoch) return true;  // (2)
  give_back(slot, how);
  return false;
}

// take() and give_back() as a scope. An exception or a return ends it, longjmp() does not.
class Copy {
 public:
  Copy(const Page& page, Slot& slot, std::uint64_t epoch, Counting how = Counting::shared)
      : slot_(take(page, slot, epoch, how) ? &slot : nullptr), how_(how) {}
  ~Copy() {
    if (slot_ != nullptr) give_back(*slot_, how_);
  }
  Copy(const Copy&) = delete;
  Copy& operator=(const Copy&) = delete;
  explicit operator bool() const { return slot_ != nullptr; }

 private:
  Slot* slot_;
  Counting how_;
};

}  // namespace daxfs::doorbell
