/* cache DIRECTORY [ENTRIES] [SECONDS]: a cache of registered buffers, whose entries are files.
 *
 * What projects that keep large shared objects in CXL memory (the KV caches of language models,
 * say) write themselves: names for the objects, memory that a device may read while it is in use,
 * and reclaim that waits for the device. Here a daxfs mount does it:
 *
 *   name     an entry is a file of the directory: ls, rm and du work, and so do access rights and
 * quotas pin      as long as it is in the cache, its blocks stay where they are; they are
 * registered with io_uring once lease    whoever wants the blocks back (rm, truncate, a punch)
 * makes the kernel tell us; we stop handing the entry out, wait for the reads that are under way,
 * unregister, unpin, and only then does the other side go on
 *
 * Needs the mount's pin_policy=break (or a daxfsctl policy ... set break). Four "readers" take
 * random entries: each read is a WRITE_FIXED out of the registered memory into a file, as an RDMA
 * card would send it. A second process evicts entries by truncating their files, and measures how
 * long it waited. Every block that was read is checked.
 *
 * cc cache.c $(pkg-config --cflags --libs daxfs liburing) -o cache
 */
#define _GNU_SOURCE
#include <daxfs.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { kEntryBytes = 1 << 20, kReaders = 4, kMostEntries = 1024 };

struct entry {
  int fd;
  uint64_t pin, lease;
  char* memory;
  size_t length;
  unsigned reads; /* under way */
  int wanted;     /* by somebody else: hand it out no more */
  int cached;
};

struct reader {
  int entry; /* that it reads; -1: none */
  int output;
  char* copy;
};

static struct entry entries[kMostEntries];
static struct reader readers[kReaders];
static unsigned entry_count;
static struct io_uring ring;
static unsigned long reads_done, evictions, refills;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void name_of(char* out, size_t room, const char* directory, unsigned number) {
  snprintf(out, room, "%s/entry-%04u", directory, number);
}

/* Every 64 bytes say whose they are. */
static void fill(char* memory, unsigned number) {
  for (size_t at = 0; at < kEntryBytes; at += 64)
    snprintf(memory + at, 64, "entry %04u at %08zu", number, at);
}

static int is_whole(const char* memory, unsigned number) {
  char expected[64];
  for (size_t at = 0; at < kEntryBytes; at += 64) {
    snprintf(expected, sizeof expected, "entry %04u at %08zu", number, at);
    if (strcmp(memory + at, expected) != 0) return 0;
  }
  return 1;
}

/* A slot of the ring's table of buffers: empty when `length` is 0. */
static void set_buffer(unsigned slot, void* memory, size_t length) {
  struct iovec buffer = {memory, length};
  const int error = io_uring_register_buffers_update_tag(&ring, slot, &buffer, NULL, 1);
  if (error < 0) errx(1, "registering the memory of entry %u: %s", slot, strerror(-error));
}

/* Into the cache. The lease comes first, so that nobody can take the blocks between the pin and the
 * lease unnoticed. Neither waits: whoever has a lease and waits for a pin would be waited for by
 * the very request that the pin queues behind. False: somebody is at work there, try again later.
 */
static int bring_in(const char* directory, unsigned number) {
  struct entry* e = &entries[number];
  char path[4096];
  name_of(path, sizeof path, directory, number);
  e->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (e->fd < 0) err(1, "%s", path);
  if (daxfs_lease(e->fd, 0, kEntryBytes, DAXFS_LEASE_NOWAIT, &e->lease) != 0 ||
      daxfs_pin(e->fd, 0, kEntryBytes, DAXFS_PIN_WRITE | DAXFS_PIN_ALLOCATE | DAXFS_PIN_NOWAIT,
                &e->pin) != 0) {
    if (errno != EAGAIN) err(1, "%s", path);
    close(e->fd); /* the lease goes with it */
    return 0;
  }
  e->memory = daxfs_map(e->fd, e->pin, &e->length);
  if (e->memory == NULL) err(1, "%s: map", path);
  fill(e->memory,
       number); /* a real cache would fetch the object, or find it there: the file outlives us */
  set_buffer(number, e->memory, e->length);
  e->wanted = 0;
  e->cached = 1;
  return 1;
}

/* Out of the cache. The order is what makes it safe: first the device forgets the memory, then we
 * do, then the blocks may go. */
static void let_go(unsigned number) {
  struct entry* e = &entries[number];
  set_buffer(number, NULL, 0);
  daxfs_unmap(e->memory, e->length);
  if (daxfs_unpin(e->fd, e->pin) != 0) err(1, "unpin");
  daxfs_unlease(e->fd, e->lease);
  close(e->fd);
  e->cached = 0;
  ++evictions;
}

/* What the mount has to tell about the leases of one entry. */
static void hear(unsigned number) {
  struct daxfs_event event;
  while (daxfs_next_event(entries[number].fd, &event) == 0) {
    if (event.type != DAXFS_EVENT_BREAK)
      errx(1, "entry %u: too late, or the mount is not pin_policy=break", number);
    entries[number].wanted = 1;
  }
  if (errno != EAGAIN) err(1, "entry %u: events", number);
  if (entries[number].wanted && entries[number].reads == 0) let_go(number);
}

static void begin_read(unsigned r) {
  unsigned number = (unsigned)rand() % entry_count;
  for (unsigned tried = 0; !entries[number].cached || entries[number].wanted; ++tried) {
    if (tried == entry_count) return;
    number = (number + 1) % entry_count;
  }
  struct io_uring_sqe* sqe = io_uring_get_sqe(&ring);
  io_uring_prep_write_fixed(sqe, readers[r].output, entries[number].memory, kEntryBytes, 0,
                            (int)number);
  sqe->user_data = r;
  readers[r].entry = (int)number;
  ++entries[number].reads;
}

static void end_read(unsigned r, int result) {
  const unsigned number = (unsigned)readers[r].entry;
  if (result != kEntryBytes)
    errx(1, "reading entry %u: %s", number, result < 0 ? strerror(-result) : "short");
  if (pread(readers[r].output, readers[r].copy, kEntryBytes, 0) != kEntryBytes) err(1, "output");
  if (!is_whole(readers[r].copy, number)) errx(3, "entry %u: FOREIGN BYTES", number);
  readers[r].entry = -1;
  ++reads_done;
  if (--entries[number].reads == 0 && entries[number].wanted) let_go(number);
}

/* Somebody else, who wants memory back: by name, with nothing of ours but the name. */
static int evict(const char* directory, double seconds) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  double most = 0, sum = 0;
  unsigned count = 0;
  for (const double end = now() + seconds; now() < end; ++count) {
    char path[4096];
    name_of(path, sizeof path, directory, (unsigned)rand() % entry_count);
    const double begin = now();
    if (truncate(path, 0) != 0) err(1, "evicting %s (the mount must be pin_policy=break)", path);
    const double took = now() - begin;
    sum += took;
    if (took > most) most = took;
    usleep(2000);
  }
  printf("the evictor: %u truncates, %.2f ms on average, %.2f ms at most\n", count,
         1000 * sum / (count ? count : 1), 1000 * most);
  fflush(stdout);
  return 0;
}

static void serve(const char* directory, double seconds) {
  struct pollfd waits[kMostEntries];
  for (const double end = now() + seconds; now() < end;) {
    for (unsigned r = 0; r < kReaders; ++r) {
      if (readers[r].entry < 0) begin_read(r);
    }
    struct io_uring_cqe* cqe;
    unsigned busy = 0;
    for (unsigned r = 0; r < kReaders; ++r) busy += readers[r].entry >= 0;
    io_uring_submit_and_wait(&ring, busy > 0);
    while (io_uring_peek_cqe(&ring, &cqe) == 0) {
      end_read((unsigned)cqe->user_data, cqe->res);
      io_uring_cqe_seen(&ring, cqe);
    }
    for (unsigned i = 0; i < entry_count; ++i) {
      waits[i] = (struct pollfd){.fd = entries[i].cached ? entries[i].fd : -1, .events = POLLPRI};
    }
    if (poll(waits, entry_count, 0) < 0 && errno != EINTR) err(1, "poll");
    for (unsigned i = 0; i < entry_count; ++i) {
      if (waits[i].revents & POLLPRI) hear(i);
      if (!entries[i].cached && bring_in(directory, i)) ++refills;
    }
  }
}

int main(int count, char** words) {
  if (count < 2)
    errx(2,
         "usage: cache DIRECTORY [ENTRIES] [SECONDS]; a directory in a daxfs mount with "
         "pin_policy=break");
  entry_count = count > 2 ? (unsigned)strtoul(words[2], NULL, 10) : 16;
  const double seconds = count > 3 ? atof(words[3]) : 5;
  if (entry_count < 1 || entry_count > kMostEntries || seconds <= 0)
    errx(2, "ENTRIES from 1 to %d, SECONDS above 0", kMostEntries);

  int error = io_uring_queue_init(kReaders, &ring, 0);
  if (error < 0) errx(1, "io_uring: %s", strerror(-error));
  error = io_uring_register_buffers_sparse(&ring, entry_count);
  if (error < 0) errx(1, "io_uring: a table of buffers: %s", strerror(-error));
  for (unsigned r = 0; r < kReaders; ++r) {
    readers[r] =
        (struct reader){.entry = -1, .output = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)};
    readers[r].copy = malloc(kEntryBytes);
    if (readers[r].output < 0 || readers[r].copy == NULL) err(1, "/tmp");
  }
  const pid_t evictor = fork(); /* before there is anything that it could inherit */
  if (evictor < 0) err(1, "fork");
  if (evictor == 0) {
    sleep(1);
    _exit(evict(words[1], seconds > 1.5 ? seconds - 1.5 : 0.1));
  }
  for (unsigned i = 0; i < entry_count; ++i) bring_in(words[1], i);
  serve(words[1], seconds);
  int status;
  while (waitpid(evictor, &status, WNOHANG) == 0) serve(words[1], 0.05);
  printf(
      "the cache: %lu reads of 1 MiB, all intact; %lu entries given back, %lu brought in again\n",
      reads_done, evictions, refills);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
