/* server FILE SOCKET: serves ranges of a file over a Unix socket, by io_uring, straight out of the
 * file's blocks.
 *
 * The file is pinned, mapped and registered once; a request costs no read, no copy into a buffer of
 * ours, and no look at the page cache. A client sends "OFFSET LENGTH\n" and gets the bytes;
 * "QUIT\n" ends the server. When somebody wants the blocks (a truncate, a punch, a rename over the
 * file), the server is told by its lease: it answers what is under way, gives the blocks back, and
 * takes the file anew as it is then. So the file can be replaced under it without a signal or a
 * restart.
 *
 * cc server.c $(pkg-config --cflags --libs daxfs liburing) -o server
 */
#define _GNU_SOURCE
#include <daxfs.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

struct held {
  int fd;
  uint64_t pin, lease;
  char* memory;
  size_t length, size; /* mapped; of the file */
};

static struct io_uring ring;
static struct held held = {.fd = -1};
static unsigned long answers, gave_way;

static void give_back(void) {
  if (held.memory != NULL) {
    daxfs_unmap(held.memory, held.length);
    if (daxfs_unpin(held.fd, held.pin) != 0) err(1, "unpin");
    daxfs_unlease(held.fd, held.lease);
  }
  close(held.fd);
}

/* Asks the daemon: while a truncate or a rename is under way, the kernel may still believe
 * otherwise. */
static struct statx status_of(const char* path) {
  struct statx now;
  if (statx(held.fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_NLINK | STATX_SIZE, &now) != 0)
    err(1, "%s", path);
  return now;
}

/* Holds the file as it is now. An empty file has nothing to hold. The lease may wait for a truncate
 * that is under way. The pin must not: with a lease we would be waited for by the very request that
 * the pin queues behind. */
static void take(const char* path) {
again:
  held.fd = open(path, O_RDONLY | O_CLOEXEC);
  if (held.fd < 0) err(1, "%s", path);
  held.size = (size_t)status_of(path).stx_size;
  held.memory = NULL;
  if (held.size == 0) return;
  if (daxfs_lease(held.fd, 0, held.size, 0, &held.lease) != 0) err(1, "%s: lease", path);
  /* With the lease nobody cuts it shorter without telling us; until then somebody may have. */
  if (status_of(path).stx_size != held.size) {
    close(held.fd);
    goto again;
  }
  if (daxfs_pin(held.fd, 0, held.size, DAXFS_PIN_NOWAIT, &held.pin) != 0) {
    if (errno != EAGAIN) err(1, "%s: pin (ENXIO: it has holes, copy it first)", path);
    close(held.fd);
    goto again;
  }
  held.memory = daxfs_map(held.fd, held.pin, &held.length);
  if (held.memory == NULL) err(1, "%s: map", path);
  /* A rename over it may have been under way when we opened it: then what we hold has no name any
   * more, and nobody would tell us. */
  if (status_of(path).stx_nlink == 0) {
    give_back();
    goto again;
  }
}

/* Nothing is under way here: requests are answered one after another. */
static void hear(const char* path) {
  struct daxfs_event event;
  int asked = 0;
  while (daxfs_next_event(held.fd, &event) == 0) asked = 1;
  if (errno != EAGAIN) err(1, "events");
  if (!asked) return;
  give_back();
  ++gave_way;
  take(path);
}

/* The kernel sends out of the file's blocks; nothing is copied in between. */
static int answer(int client, size_t offset, size_t length) {
  if (offset > held.size) offset = held.size;
  if (length > held.size - offset) length = held.size - offset;
  while (length > 0) {
    struct io_uring_sqe* sqe = io_uring_get_sqe(&ring);
    struct io_uring_cqe* cqe;
    io_uring_prep_send(sqe, client, held.memory + offset, length, MSG_NOSIGNAL);
    io_uring_submit(&ring);
    if (io_uring_wait_cqe(&ring, &cqe) != 0) errx(1, "io_uring");
    const int sent = cqe->res;
    io_uring_cqe_seen(&ring, cqe);
    if (sent <= 0) return -1;
    offset += (size_t)sent;
    length -= (size_t)sent;
  }
  ++answers;
  return 0;
}

/* False: the server is to end. */
static int serve(int client) {
  char line[128];
  const ssize_t got = recv(client, line, sizeof line - 1, 0);
  if (got <= 0) return 1;
  line[got] = '\0';
  if (strncmp(line, "QUIT", 4) == 0) return 0;
  char* rest;
  const unsigned long long offset = strtoull(line, &rest, 10);
  const unsigned long long length = strtoull(rest, NULL, 10);
  answer(client, offset, length);
  return 1;
}

int main(int count, char** words) {
  if (count != 3) errx(2, "usage: server FILE SOCKET; a file in a daxfs mount");
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(words[2]) >= sizeof address.sun_path) errx(2, "%s: too long for a socket", words[2]);
  strcpy(address.sun_path, words[2]);
  const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listener < 0 || bind(listener, (struct sockaddr*)&address, sizeof address) != 0 ||
      listen(listener, 64) != 0) {
    err(1, "%s", words[2]);
  }
  const int error = io_uring_queue_init(8, &ring, 0);
  if (error < 0) errx(1, "io_uring: %s", strerror(-error));
  take(words[1]);
  printf("serving %zu bytes\n", held.size);
  fflush(stdout);
  for (int on = 1; on;) {
    struct pollfd waits[] = {{.fd = listener, .events = POLLIN},
                             {.fd = held.fd, .events = POLLPRI}};
    if (poll(waits, 2, -1) < 0) {
      if (errno == EINTR) continue;
      err(1, "poll");
    }
    if (waits[1].revents & POLLPRI) hear(words[1]);
    if (waits[0].revents & POLLIN) {
      const int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
      if (client < 0) continue;
      on = serve(client);
      close(client);
    }
  }
  give_back();
  unlink(words[2]);
  printf("%lu answers, gave way %lu times\n", answers, gave_way);
  return 0;
}
