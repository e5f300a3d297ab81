/* slow_file DIRECTORY REQUESTS: a filesystem with one file, "device", that answers when it is told.
 *
 * Of every REQUESTS reads and writes it holds the first one up. When all of them have arrived (the
 * later ones lie in the kernel's queue: nothing of them has been copied yet) it says "held", and
 * answers them at SIGUSR1. So they are in flight for as long as somebody wants, as requests to a
 * slow disk or a network are. When the file is closed it says "idle".
 *
 * Reads are answered with bytes 0xEE. What is written must be bytes 'H'; else it says "foreign". */
#define FUSE_USE_VERSION 312
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <time.h>
#include <unistd.h>

enum { kFromDevice = 0xEE, kFromHolder = 'H' };

static const char* mountpoint;
static unsigned long requests, served;
static int counters = -1; /* fusectl: how many requests of each mount wait for their answers */
static char counter[64];  /* ours */

static void say(const char* what) {
  printf("%s\n", what);
  fflush(stdout);
}

/* The kernel knows this mount by a number of its own. */
static unsigned connection_number(void) {
  FILE* table = fopen("/proc/self/mountinfo", "r");
  char line[4096], where[4096];
  unsigned major, minor, found = 0;
  while (table && fgets(line, sizeof line, table)) {
    if (sscanf(line, "%*u %*u %u:%u %*s %4095s", &major, &minor, where) == 3 &&
        strcmp(where, mountpoint) == 0) {
      found = minor;
    }
  }
  if (table) fclose(table);
  return found;
}

/* Nothing is mounted anywhere. */
static int open_counters(void) {
  int mount = -1;
  int fs = fsopen("fusectl", FSOPEN_CLOEXEC);
  if (fs >= 0 && fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
    mount = fsmount(fs, FSMOUNT_CLOEXEC, 0);
  if (mount < 0) perror("slow_file: cannot count requests");
  if (fs >= 0) close(fs);
  snprintf(counter, sizeof counter, "%u/waiting", connection_number());
  return mount;
}

static unsigned long waiting(void) {
  char text[32] = "";
  const int fd = openat(counters, counter, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || read(fd, text, sizeof text - 1) < 0) perror("slow_file: cannot count requests");
  if (fd >= 0) close(fd);
  return strtoul(text, NULL, 10);
}

static void hold(void) {
  const struct timespec moment = {0, 200000};
  sigset_t answer;
  if (served++ % requests != 0) return;
  while (waiting() < requests) nanosleep(&moment, NULL);
  say("held");
  sigemptyset(&answer);
  sigaddset(&answer, SIGUSR1);
  /* Another signal is its end. */
  if (sigwaitinfo(&answer, NULL) < 0) fuse_exit(fuse_get_context()->fuse);
}

static void* start(struct fuse_conn_info* connection, struct fuse_config* config) {
  connection->max_background = 256;
  connection->congestion_threshold = 256;
  config->attr_timeout = config->entry_timeout = 1e6;
  counters = open_counters();
  say(counters < 0 ? "failed" : "ready");
  return NULL;
}

static int get_attributes(const char* path, struct stat* out, struct fuse_file_info* file) {
  (void)file;
  memset(out, 0, sizeof *out);
  out->st_nlink = 1;
  if (strcmp(path, "/") == 0) {
    out->st_mode = S_IFDIR | 0755;
  } else if (strcmp(path, "/device") == 0) {
    out->st_mode = S_IFREG | 0600;
    out->st_size = 64 << 20;
  } else {
    return -ENOENT;
  }
  return 0;
}

static int open_file(const char* path, struct fuse_file_info* file) {
  (void)path;
  file->direct_io = 1;
  file->noflush = 1; /* a process that dies must not wait for us before it closes the rest */
  return 0;
}

static int close_file(const char* path, struct fuse_file_info* file) {
  (void)path, (void)file;
  say("idle");
  return 0;
}

static int read_file(const char* path, char* out, size_t size, off_t at,
                     struct fuse_file_info* file) {
  (void)path, (void)at, (void)file;
  hold();
  memset(out, kFromDevice, size);
  return (int)size;
}

static int write_file(const char* path, const char* in, size_t size, off_t at,
                      struct fuse_file_info* file) {
  (void)path, (void)at, (void)file;
  hold();
  for (size_t i = 0; i < size; ++i) {
    if (in[i] == kFromHolder) continue;
    printf("foreign %.40s\n", in + i);
    fflush(stdout);
    break;
  }
  return (int)size;
}

static const struct fuse_operations operations = {
    .init = start,
    .getattr = get_attributes,
    .open = open_file,
    .release = close_file,
    .read = read_file,
    .write = write_file,
};

int main(int count, char** words) {
  if (count != 3 || (requests = strtoul(words[2], NULL, 10)) == 0) {
    fprintf(stderr, "usage: slow_file DIRECTORY REQUESTS\n");
    return 2;
  }
  mountpoint = words[1];
  sigset_t answer;
  sigemptyset(&answer);
  sigaddset(&answer, SIGUSR1);
  sigprocmask(SIG_BLOCK, &answer, NULL); /* one that comes early waits for us */
  /* One thread: what it has not read stays in the kernel's queue. */
  char* arguments[] = {words[0], "-f", "-s", words[1], NULL};
  return fuse_main(4, arguments, &operations, NULL);
}
