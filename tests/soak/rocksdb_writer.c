/* rocksdb_writer fill MODE STORE ACKS SECONDS: four threads put and delete keys, each with sync,
   and note in the file ACKS (which lies beside the mount) how many of their calls have returned.
   Exit status 3: the store failed meanwhile. rocksdb_writer verify MODE STORE ACKS: what was
   acknowledged is there; of each thread one call more may be. MODE: plain, direct (O_DIRECT for
   tables), mmap (tables are read through mappings). */
#include <fcntl.h>
#include <pthread.h>
#include <rocksdb/c.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 4, KEYS = 997, LONGEST = 600, FAILED = 3 };

static rocksdb_t* store;
static _Atomic uint64_t* acks; /* of each thread: calls that have returned */
static time_t end;
static atomic_int failed;

static int deletes(uint64_t n) { return n % 7 == 6; }

/* The value of call n says all about it, and is as long as its number says. */
static size_t value_of(int thread, uint64_t n, char* value) {
  size_t length = 32 + n * 37 % (LONGEST - 32);
  int head = snprintf(value, LONGEST, "%d:%llu:", thread, (unsigned long long)n);
  for (size_t i = (size_t)head; i < length; ++i) value[i] = (char)('a' + (n + i * 7) % 26);
  return length;
}

static int key_of(int thread, uint64_t n, char* key, size_t room) {
  return snprintf(key, room, "%d/%03llu", thread, (unsigned long long)(n * 31 % KEYS));
}

static void* fill(void* argument) {
  int thread = (int)(intptr_t)argument;
  rocksdb_writeoptions_t* synced = rocksdb_writeoptions_create();
  rocksdb_writeoptions_set_sync(synced, 1);
  char key[32], value[LONGEST], *error = NULL;
  for (uint64_t n = acks[thread]; time(NULL) < end && !failed; ++n) {
    size_t length = (size_t)key_of(thread, n, key, sizeof key);
    if (deletes(n))
      rocksdb_delete(store, synced, key, length, &error);
    else
      rocksdb_put(store, synced, key, length, value, value_of(thread, n, value), &error);
    if (error) {
      fprintf(stderr, "%s\n", error);
      failed = 1;
      break;
    }
    acks[thread] = n + 1;
  }
  rocksdb_writeoptions_destroy(synced);
  return NULL;
}

/* What call n (counted from 1; 0: none) has left under its key. */
static int shows(int thread, uint64_t n, const char* found, size_t length) {
  char value[LONGEST];
  if (n == 0 || deletes(n - 1)) return found == NULL;
  return found && value_of(thread, n - 1, value) == length && memcmp(found, value, length) == 0;
}

static int verify(int thread) {
  rocksdb_readoptions_t* options = rocksdb_readoptions_create();
  rocksdb_readoptions_set_verify_checksums(options, 1);
  uint64_t told = acks[thread];
  int bad = 0, more = 0;
  for (uint64_t k = 0; k < KEYS && !bad; ++k) {
    /* The keys come in a fixed order, all of them before the first one comes again. */
    uint64_t last = told > k ? (told - 1 - k) / KEYS * KEYS + k + 1 : 0;
    char key[32], *error = NULL;
    size_t length, size = (size_t)key_of(thread, k, key, sizeof key);
    char* found = rocksdb_get(store, options, key, size, &length, &error);
    if (error) {
      fprintf(stderr, "%s: %s\n", key, error);
      bad = 1;
    } else if (!shows(thread, last, found, length)) {
      if (k == told % KEYS && shows(thread, told + 1, found, length))
        more = 1;
      else
        bad = 1;
      if (bad)
        fprintf(stderr, "%s: call %llu of %llu is not what is there: %.40s\n", key,
                (unsigned long long)last, (unsigned long long)told, found ? found : "(nothing)");
    }
    free(found);
  }
  acks[thread] += (uint64_t)more; /* so that the next run goes on from what is there */
  rocksdb_readoptions_destroy(options);
  return bad;
}

static rocksdb_options_t* options_of(const char* mode) {
  rocksdb_options_t* options = rocksdb_options_create();
  rocksdb_options_set_create_if_missing(options, 1);
  rocksdb_options_set_paranoid_checks(options, 1);
  rocksdb_options_set_write_buffer_size(options,
                                        256 << 10); /* so that tables are written all the time */
  rocksdb_options_set_target_file_size_base(options, 512 << 10);
  rocksdb_options_set_level0_file_num_compaction_trigger(options, 2);
  if (strcmp(mode, "direct") == 0) {
    rocksdb_options_set_use_direct_reads(options, 1);
    rocksdb_options_set_use_direct_io_for_flush_and_compaction(options, 1);
  }
  if (strcmp(mode, "mmap") == 0) rocksdb_options_set_allow_mmap_reads(options, 1);
  return options;
}

int main(int count, char** words) {
  if (count < 5 || (count < 6) == (strcmp(words[1], "fill") == 0)) {
    fprintf(stderr, "usage: rocksdb_writer fill|verify MODE STORE ACKS [SECONDS]\n");
    return 2;
  }
  int fd = open(words[4], O_RDWR | O_CREAT, 0600);
  if (fd < 0 || ftruncate(fd, THREADS * sizeof *acks) != 0) {
    perror(words[4]);
    return 1;
  }
  acks = mmap(NULL, THREADS * sizeof *acks, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (acks == MAP_FAILED) {
    perror(words[4]);
    return 1;
  }
  char* error = NULL;
  rocksdb_options_t* options = options_of(words[2]);
  store = rocksdb_open(options, words[3], &error);
  if (!store) {
    fprintf(stderr, "open: %s\n", error);
    return strcmp(words[1], "fill") == 0 ? FAILED : 1;
  }
  int bad = 0;
  if (strcmp(words[1], "fill") == 0) {
    end = time(NULL) + atoi(words[5]);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; ++i)
      if (pthread_create(&threads[i], NULL, fill, (void*)(intptr_t)i) != 0) return 1;
    for (int i = 0; i < THREADS; ++i) pthread_join(threads[i], NULL);
    /* What a failed store would do at its end belongs to nobody any more. */
    if (failed) _exit(FAILED);
  } else {
    for (int i = 0; i < THREADS; ++i) bad |= verify(i);
  }
  rocksdb_close(store);
  rocksdb_options_destroy(options);
  return bad;
}
