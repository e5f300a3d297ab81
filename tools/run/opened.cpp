#include "tools/run/opened.h"

#include <errno.h>
#include <linux/magic.h>
#include <pthread.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <new>

#include "client/direct_map.h"
#include "client/pool_file.h"
#include "tools/run/descriptors.h"
#include "tools/run/raw.h"

namespace daxfs::run {
namespace {

constexpr long kHighDescriptors = 4096;

pthread_mutex_t registry = PTHREAD_MUTEX_INITIALIZER;
// Under the registry's lock, but for reading `next` of what is there.
Opened* all;
std::size_t attached_now;
std::array<File, 64> mapped;  // by the program, at any time; of more, the last ones
std::size_t mapped_count;
std::array<dev_t, 16> no_access;  // mounts whose files cannot be attached at all
std::size_t no_access_count;
std::atomic<bool> posix_locks;
std::atomic<bool> no_more;  // is attached
std::atomic<pid_t> owner;   // of this memory

bool has_no_access(dev_t device) {
  const auto end = no_access.begin() + static_cast<std::ptrdiff_t>(no_access_count);
  return std::find(no_access.begin(), end, device) != end;
}

long most_descriptors() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
  return static_cast<long>(std::min<rlim_t>(limit.rlim_cur, kMostDescriptors));
}

// The program expects the lowest free numbers for what it opens itself.
int move_high(int fd) {
  const long from = std::min(most_descriptors() / 4 * 3, kHighDescriptors);
  const int moved = raw::fcntl(fd, F_DUPFD_CLOEXEC, from);
  if (moved < 0 || moved >= kMostDescriptors) {
    if (moved >= 0) raw::close(moved);
    return fd;
  }
  raw::close(fd);
  return moved;
}

bool standard_streams_are_open() {
  for (int fd = 0; fd <= 2; ++fd) {
    if (raw::fcntl(fd, F_GETFD) < 0) return false;
  }
  return true;
}

enum class Verdict : unsigned char { foreign, refused, later, may_attach };

// Without opening the file: a descriptor of it cannot always be closed again.
Verdict judge(int fd, int flags, File* file) {
  struct stat status = {};
  struct statfs system = {};
  if (no_more || flags < 0 || (flags & O_PATH) != 0 || fstat(fd, &status) != 0 ||
      !S_ISREG(status.st_mode) || fstatfs(fd, &system) != 0 || system.f_type != FUSE_SUPER_MAGIC)
    return Verdict::foreign;
  *file = {status.st_dev, status.st_ino};
  const bool is_mapped = std::find(mapped.begin(), mapped.end(), *file) != mapped.end();
  if (is_mapped || has_no_access(status.st_dev)) return Verdict::refused;
  daxfs_pool_args pool = {};
  if (client::mapping_step(fd, &pool) == 0)
    return errno == ENOTTY ? Verdict::foreign : Verdict::refused;
  struct stat pool_status = {};
  const int pool_fd = client::find_pool(pool, true, &pool_status);
  if (pool_fd >= 0) raw::close(pool_fd);
  // A proof that was not given: so this cannot succeed.
  daxfs_attach_args args = {};
  if (getrandom(&args.proof, sizeof args.proof, 0) != sizeof args.proof) return Verdict::refused;
  args.proof >>= 4;
  if (pool_fd < 0 || (ioctl(fd, DAXFS_IOC_ATTACH, &args) < 0 &&
                      (errno == EOPNOTSUPP || errno == ENOTTY || errno == EROFS))) {
    if (no_access_count < no_access.size()) no_access[no_access_count++] = status.st_dev;
    return Verdict::refused;
  }
  if (status.st_size == 0) return Verdict::later;  // whatever it writes makes it longer
  const bool room = attached_now < static_cast<std::size_t>(most_descriptors()) / 8;
  const bool may = (flags & O_APPEND) == 0 && room && standard_streams_are_open();
  return may ? Verdict::may_attach : Verdict::refused;
}

// One that waits to be used again, or a new one.
Opened* room_for_one() {
  for (Opened* one = all; one != nullptr; one = one->next) {
    if (one->reaped.load(std::memory_order_acquire) && !one->is_used()) return one;
  }
  constexpr std::size_t kAtOnce = 32;
  void* const at = mmap(nullptr, kAtOnce * sizeof(Opened), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return nullptr;
  auto* const some = static_cast<Opened*>(at);
  for (std::size_t i = 0; i < kAtOnce; ++i) {
    Opened* const one = new (some + i) Opened{};
    one->dead = true;
    one->reaped = true;
    one->next = all;
    all = one;
  }
  return all;
}

void set_own(int fd, Word word) {
  if (std::atomic<Word>* const at = word_of(fd)) at->store(word, std::memory_order_release);
  if (word == kOwn) note_highest(fd);
}

// The registry is locked over a fork, so that the child finds it whole; but not where a signal
// handler forks that has interrupted a thread inside of this library: that thread may have the
// lock.
void before_fork() {
  if (this_thread.depth == 0) pthread_mutex_lock(&registry);
  this_thread.depth += 1;
}

void after_fork() {
  this_thread.depth -= 1;
  if (this_thread.depth == 0) pthread_mutex_unlock(&registry);
}

void in_child() {
  owner = getpid();
  posix_locks = false;  // they are the parent's
  // The parent's threads are not here.
  for (Opened* one = all; one != nullptr && this_thread.depth == 1; one = one->next) {
    for (Opened::Users& some : one->users) some.count.store(0, std::memory_order_relaxed);
  }
  if (counters != nullptr) counters->processes.fetch_add(1, std::memory_order_relaxed);
  after_fork();
}

}  // namespace

Registry::Registry() { pthread_mutex_lock(&registry); }
Registry::~Registry() { pthread_mutex_unlock(&registry); }

Opened* attach(int fd, Word* otherwise) {
  const int flags = raw::fcntl(fd, F_GETFL);
  File file = {};
  const Verdict verdict = judge(fd, flags, &file);
  *otherwise = verdict == Verdict::foreign ? kUnknown
               : verdict == Verdict::later ? kCounting
                                           : kRefused;
  if (verdict != Verdict::may_attach) return nullptr;
  Opened* const opened = room_for_one();
  int own = opened != nullptr ? client::open_past_cache(fd, flags) : -1;
  if (own < 0) return nullptr;
  if (!posix_locks) own = move_high(own);
  set_own(own, kOwn);
  daxfs_direct* const direct = own < kMostDescriptors ? client::attach_opened(own, flags) : nullptr;
  if (direct == nullptr && !posix_locks) {
    set_own(own, kUnknown);
    raw::close(own);
    return nullptr;
  }
  opened->direct = direct;
  opened->own = own;
  opened->file = file;
  opened->appends = false;
  opened->by_parent = 0;
  opened->closed_since = 0;
  opened->left_until = 0;
  opened->never_again = false;
  opened->dead = false;
  opened->reaped = false;
  ++attached_now;
  return opened;
}

void reap(Opened& opened) {
  if (opened.is_used() || opened.reaped.load(std::memory_order_acquire)) return;
  const Registry lock;
  // Somebody else may have, meanwhile; and it may be somebody else's by now.
  if (!opened.dead || opened.is_used() || opened.reaped) return;
  if (opened.direct != nullptr) {
    daxfs_detach(opened.direct);
  } else {
    raw::close(opened.own);
  }
  opened.direct = nullptr;
  set_own(opened.own, kUnknown);
  --attached_now;
  opened.reaped.store(true, std::memory_order_release);
}

void note_posix_lock() {
  if (posix_locks.load(std::memory_order_relaxed)) return;
  if (this_thread.depth != 0) {
    posix_locks = true;
    return;
  }
  const Inside inside;
  const Registry lock;  // not in the middle of an attaching
  posix_locks = true;
}

bool may_close_own() { return !posix_locks; }

void note_mapped_file(const File& file) {
  const Inside inside;
  const Registry lock;
  if (std::find(mapped.begin(), mapped.end(), file) == mapped.end())
    mapped[mapped_count++ % mapped.size()] = file;
}

void attach_no_more() { no_more = true; }

void watch_forks() {
  owner = getpid();
  // In this order: libdaxfs's lock is taken inside of the registry's, also by a fork.
  static_cast<void>(client::fork_generation());
  pthread_atfork(before_fork, after_fork, in_child);
}

bool is_in_parents_memory() {
  return getpid() != owner && client::fork_page != nullptr && *client::fork_page != 0;
}

}  // namespace daxfs::run
