// Pages of a mapping that the storage below it cannot give: the pool file was cut short, the
// filesystem that holds it is full, or memory is damaged. The kernel says so by SIGBUS, at whatever
// instruction touched the page.
//
// Such a page is replaced by one of zeroes that belongs to nobody, so that the instruction can go
// on, and remembered. A user of the mapping asks before it reports anything as done (any()), and
// before it hands out what it has read (any_in()). A SIGBUS elsewhere ends the process as ever.
//
// Sources: sigaction(2) on BUS_ADRERR and BUS_MCEERR_AR; PMDK's badblocks documentation on why a
// page, once lost, stays so until it is written anew through the filesystem below.
#pragma once

#include <signal.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "base/units.h"

namespace daxfs {

class LostPages {
 public:
  // Watches `size` bytes at `base` until destroyed, which has to come before they are unmapped.
  // `unit`: the smallest piece of the mapping that can be replaced, a power of two (a block; for
  // device DAX its alignment). The first call of a process takes SIGBUS over. ENOMEM; EMFILE: too
  // many mappings are watched.
  static Outcome<std::unique_ptr<LostPages>> watch(std::byte* base, ByteCount size,
                                                   std::uint64_t unit);
  ~LostPages();
  LostPages(const LostPages&) = delete;
  LostPages& operator=(const LostPages&) = delete;

  // Thread-safe. Once true, stays so.
  bool any() const { return any_.load(std::memory_order_acquire); }
  bool any_in(PoolOffset start, ByteCount length) const;

  struct First {
    PoolOffset at;
    bool damaged;  // the kernel spoke of damaged memory, rather than of none
  };
  std::optional<First> first() const;
  // For people: what is missing and why, as the end of a sentence that names the pool; "" if
  // nothing is. `fd` is what is mapped.
  std::string failure(int fd) const;

 private:
  LostPages(std::byte* base, ByteCount size, std::uint64_t unit, std::atomic<std::uint64_t>* bits);
  static void on_signal(int signal, siginfo_t* info, void* context);
  // Called in a signal handler: nothing but atomics and system calls. False: not ours, or no help.
  bool replace(const siginfo_t& info);

  std::byte* const base_;
  const ByteCount size_;
  const std::uint64_t unit_;
  // One bit a block. Reserved address space that takes memory only where something was lost.
  std::atomic<std::uint64_t>* const bits_;
  std::atomic<bool> any_ = false;
  std::atomic<std::uint64_t> first_ = kNone;  // twice the offset, and one more if damaged

  static constexpr std::uint64_t kNone = UINT64_MAX;
};

}  // namespace daxfs
