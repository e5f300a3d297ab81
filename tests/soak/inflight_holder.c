/* inflight_holder FILE DEVICE REQUESTS FORM [lease]
 *
 * Pins and maps FILE, fills it with bytes 'H', registers the memory with io_uring, and submits so
 * many requests of 64 KiB to DEVICE: reads into the pinned memory and writes out of it, by turns.
 * Then it says "submitted PID" and waits for its end, which FORM chooses:
 *
 *   plain  whoever has started it kills PID; or it reads "x" from its standard input and exits,
 *          or "e" and executes another program
 *   child  PID is a forked child, which has the ring and the only descriptor of FILE; the process
 *          that took the pin lives on until its standard input ends */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/daxfs.h"

enum { kStep = 128 << 10, kRequest = 64 << 10 };

static void submit(char* memory, size_t length, int device, unsigned requests) {
  static struct io_uring ring;
  if (io_uring_queue_init(64, &ring, 0)) errx(2, "no io_uring");
  struct iovec buffer = {memory, length};
  if (io_uring_register_buffers(&ring, &buffer, 1)) errx(2, "cannot register");
  for (unsigned i = 0; i < requests; ++i) {
    struct io_uring_sqe* entry = io_uring_get_sqe(&ring);
    const size_t at = (size_t)i * kStep;
    if (i % 2 == 0)
      io_uring_prep_read_fixed(entry, device, memory + at, kRequest, at, 0);
    else
      io_uring_prep_write_fixed(entry, device, memory + at, kRequest, at, 0);
  }
  if (io_uring_submit(&ring) != (int)requests) errx(2, "cannot submit");
  printf("submitted %d\n", getpid());
  fflush(stdout);
}

int main(int count, char** words) {
  if (count < 5) return 2;
  const unsigned requests = (unsigned)atoi(words[3]);
  const size_t length = (size_t)requests * kStep;
  const int child = strcmp(words[4], "child") == 0;
  const int file = open(words[1], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  const int device = open(words[2], O_RDWR | O_DIRECT | O_CLOEXEC);
  uint64_t pin, lease;
  size_t mapped;
  if (file < 0 || device < 0) err(2, "open");
  if (count > 5 && daxfs_lease(file, 0, length, 0, &lease)) err(2, "lease");
  if (daxfs_pin(file, 0, length, DAXFS_PIN_WRITE | DAXFS_PIN_ALLOCATE, &pin)) err(2, "pin");
  char* memory = daxfs_map(file, pin, &mapped);
  if (!memory) err(2, "map");
  memset(memory, 'H', mapped);
  alarm(600); /* whatever becomes of who has started it */
  if (child && fork() != 0) {
    char byte;
    close(file);
    close(device);
    munmap(memory, mapped);
    while (read(STDIN_FILENO, &byte, 1) > 0) {
    }
    return 0;
  }
  if (child) alarm(600);
  submit(memory, mapped, device, requests);
  char order = 0;
  if (!child && read(STDIN_FILENO, &order, 1) == 1 && order == 'e')
    execl("/bin/true", "true", NULL);
  while (order != 'x') pause();
  return 0;
}
