#include "tools/run/descriptors.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/pool_file.h"
#include "tools/run/raw.h"

namespace daxfs::run {
namespace {

unsigned attach_after = kAfter;

[[gnu::constructor]] void begin() {
  if (const char* const after = secure_getenv(kAfterVariable)) {
    const long number = strtol(after, nullptr, 10);
    if (number >= 1 && number <= static_cast<long>(kMostAfter))
      attach_after = static_cast<unsigned>(number);
  }
  begin_counting();
  watch_forks();
}

void count_attached(const Opened* opened, Word early) {
  if (counters == nullptr) return;
  const bool done = opened != nullptr && opened->direct != nullptr;
  (done ? counters->attached : counters->refused).fetch_add(1, std::memory_order_relaxed);
  counters->early.fetch_add(early, std::memory_order_relaxed);
}

// The descriptor has been used often enough; or a child has used what its parent has attached. What
// is to be reaped now, or null.
Opened* try_to_attach(int fd, std::atomic<Word>& at, Word seen) {
  const Registry lock;
  const bool again = is_opened(seen);
  // Whoever closes it meanwhile puts something else there.
  if (again ? at.load(std::memory_order_acquire) != seen
            : !at.compare_exchange_strong(seen, kAttaching, std::memory_order_acq_rel))
    return nullptr;
  Word otherwise = kUnknown;
  Opened* const opened = attach(fd, &otherwise);
  if (again) opened_of(seen)->never_again = opened == nullptr;
  if (!again && (opened != nullptr || otherwise == kRefused))
    count_attached(opened, seen - kCounting);
  if (again && opened == nullptr) return nullptr;
  if (opened != nullptr) note_highest(fd);
  const Word word = opened != nullptr ? reinterpret_cast<Word>(opened) : otherwise;
  Word expected = again ? seen : kAttaching;
  if (!at.compare_exchange_strong(expected, word, std::memory_order_acq_rel)) return opened;
  // Set meanwhile, by a thread that did not find this here.
  if (opened != nullptr && (raw::fcntl(fd, F_GETFL) & O_APPEND) != 0) opened->appends = true;
  return again ? opened_of(seen) : nullptr;
}

// Which can be too small to attach anything.
bool is_on_signal_stack() {
  stack_t stack = {};
  return sigaltstack(nullptr, &stack) == 0 && (stack.ss_flags & SS_ONSTACK) != 0;
}

void bury(Opened* opened) {
  if (opened == nullptr) return;
  const client::KeepErrno keep;
  opened->dead.store(true, std::memory_order_seq_cst);
  // A call that is under way in another thread has its file to the end; mostly it is a short one.
  for (int i = 0; i < 1000 && opened->is_used(); ++i) sched_yield();
  reap(*opened);
}

}  // namespace

void note_highest(int fd) {
  int known = highest.load(std::memory_order_relaxed);
  while (fd > known && !highest.compare_exchange_weak(known, fd, std::memory_order_relaxed)) {
  }
}

void note_open(int fd, int flags) {
  std::atomic<Word>* const at = word_of(fd);
  if (at == nullptr) return;
  // A database, most likely: at once. What is read from end to end once is not worth it.
  const bool both = (flags & O_ACCMODE) == O_RDWR;
  const bool never = (flags & (O_PATH | O_DIRECTORY)) != 0;
  const Word word = never ? kUnknown : both ? kCounting + attach_after - 1 : kCounting;
  // Nothing, normally: else its close was not seen.
  const Word before = at->exchange(word, std::memory_order_acq_rel);
  if (is_opened(before)) end(opened_of(before));
}

void note_copy(int fd, int copy) {
  const std::atomic<Word>* const at = word_of(fd);
  std::atomic<Word>* const to = word_of(copy);
  if (to == nullptr) return;
  const Word word = at != nullptr ? at->load(std::memory_order_acquire) : kUnknown;
  to->store(is_opened(word) || word == kAttaching ? kCounting : word, std::memory_order_release);
}

void note_mapped(int fd) {
  const std::atomic<Word>* const word = word_of(fd);
  struct stat status = {};
  if (word == nullptr || word->load(std::memory_order_acquire) == kUnknown ||
      this_thread.depth != 0 || is_in_parents_memory() || fstat(fd, &status) != 0 ||
      !S_ISREG(status.st_mode))
    return;
  const File file{status.st_dev, status.st_ino};
  note_mapped_file(file);
  const int last = highest.load(std::memory_order_relaxed);
  for (int i = 0; i <= last; ++i) {
    std::atomic<Word>& one = *word_of(i);
    Word here = one.load(std::memory_order_acquire);
    if (!is_opened(here)) continue;
    Opened& opened = *opened_of(here);
    if (opened.file != file) continue;
    opened.left_until.store(INT64_MAX, std::memory_order_relaxed);
    if (may_close_own() && one.compare_exchange_strong(here, kRefused)) end(&opened);
  }
}

Opened* forget(int fd) {
  std::atomic<Word>* const at = word_of(fd);
  if (at == nullptr || at->load(std::memory_order_acquire) == kUnknown) return nullptr;
  const Word word = at->exchange(kUnknown, std::memory_order_acq_rel);
  return is_opened(word) ? opened_of(word) : nullptr;
}

void end(Opened* opened) {
  if (opened == nullptr) return;
  // In a signal handler the interrupted call may be the one that uses it, or that holds the lock.
  if (this_thread.depth != 0) {
    opened->dead.store(true, std::memory_order_seq_cst);
  } else {
    const Inside inside;
    bury(opened);
  }
}

void Use::begin(int fd, std::atomic<Word>& at, Word word, bool write) {
  if (word == kOwn || word == kAttaching) return;
  if (word == kRefused) return note(write, Way::refused);
  if (this_thread.depth != 0) {
    if (is_opened(word)) note(write, Way::unusual);
    return;
  }
  const Inside inside;
  if (is_opened(word)) {
    const Opened& parents = *opened_of(word);
    if (parents.by_parent.load(std::memory_order_relaxed) >= attach_after &&
        !parents.never_again.load(std::memory_order_relaxed)) {
      const client::KeepErrno keep;
      bury(try_to_attach(fd, at, word));
      word = at.load(std::memory_order_acquire);
      if (!is_opened(word)) return;
    }
  } else {
    if (word + 1 < kCounting + attach_after) {
      at.compare_exchange_strong(word, word + 1, std::memory_order_relaxed);
      return;
    }
    const client::KeepErrno keep;
    if (is_on_signal_stack()) return;
    bury(try_to_attach(fd, at, word));
    word = at.load(std::memory_order_acquire);
    if (!is_opened(word)) return;
  }
  Opened& opened = *opened_of(word);
  const unsigned lane = client::thread_lane();
  std::atomic<unsigned>& users = opened.users[lane].count;
  const bool alone = lane != client::kSharedLane && client::asks_for_barriers();
  client::count_up(users, alone);
  // Closed meanwhile, or even in use again for another descriptor.
  if (at.load(std::memory_order_seq_cst) == word) {
    opened_ = &opened;
    this_thread.depth += 1;
    return;
  }
  client::count_down(users, alone);
  if (opened.dead.load(std::memory_order_seq_cst)) reap(opened);
}

void Use::finish() {
  const unsigned lane = client::thread_lane();
  client::count_down(opened_->users[lane].count,
                     lane != client::kSharedLane && client::asks_for_barriers());
  if (opened_->dead.load(std::memory_order_seq_cst)) [[unlikely]]
    reap(*opened_);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  this_thread.depth -= 1;
}

}  // namespace daxfs::run
