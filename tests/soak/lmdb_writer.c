/* lmdb_writer fill|verify write|map|map-async DIRECTORY TRANSACTIONS
 *
 * fill: so many transactions of LMDB (write: by pwrite and fdatasync; map: through a shared
 * writable mapping; map-async: the same, synced at the end), the store closed and opened again now
 * and then, while a child reads snapshots and checks them. verify: what must be there after so many
 * transactions is, and nothing else. */
#include <lmdb.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { kKeys = 4096, kPerTransaction = 32, kMaxValue = 6000, kReopenEvery = 100 };
static const size_t kMapSize = (size_t)256 << 20;

static void must(int code, const char* what) {
  if (code == MDB_SUCCESS) return;
  fprintf(stderr, "%s: %s\n", what, mdb_strerror(code));
  exit(1);
}

static void die(const char* what, uint32_t key, uint32_t version) {
  fprintf(stderr, "key %u, written by transaction %u: %s\n", key, version, what);
  exit(1);
}

static uint32_t mix(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x45d9f3bu;
  x = (x ^ (x >> 16)) * 0x45d9f3bu;
  return x ^ (x >> 16);
}

/* A value tells its key and the transaction that wrote it, and everything else follows from these.
 */
static size_t make_value(uint32_t key, uint32_t version, uint32_t* out) {
  size_t words = 2 + mix(key * 31 + version) % (kMaxValue / sizeof *out);
  out[0] = key;
  out[1] = version;
  for (size_t i = 2; i < words; ++i) out[i] = mix(key + (uint32_t)i * 7919u) ^ version;
  return words * sizeof *out;
}

/* Which key the n-th change of a transaction concerns. */
static uint32_t key_of(uint32_t transaction, uint32_t n) {
  return mix(transaction * kPerTransaction + n) % kKeys;
}

static int is_removal(uint32_t transaction, uint32_t n) {
  return mix(transaction ^ (n << 20)) % 5 == 0;
}

static MDB_env* open_store(const char* directory, unsigned flags, MDB_dbi* db) {
  MDB_env* env;
  MDB_txn* txn;
  must(mdb_env_create(&env), "mdb_env_create");
  must(mdb_env_set_mapsize(env, kMapSize), "mdb_env_set_mapsize");
  must(mdb_env_open(env, directory, flags, 0644), directory);
  must(mdb_txn_begin(env, NULL, (flags & MDB_RDONLY), &txn), "mdb_txn_begin");
  must(mdb_dbi_open(txn, NULL, 0, db), "mdb_dbi_open");
  must(mdb_txn_commit(txn), "mdb_txn_commit");
  return env;
}

/* Checks every value of one snapshot by itself; returns how many there are, and fills in their
 * versions. */
static size_t scan(MDB_env* env, MDB_dbi db, uint32_t* versions) {
  static uint32_t expected[kMaxValue / sizeof(uint32_t) + 2];
  MDB_txn* txn;
  MDB_cursor* cursor;
  MDB_val key, value;
  size_t count = 0;
  must(mdb_txn_begin(env, NULL, MDB_RDONLY, &txn), "mdb_txn_begin");
  must(mdb_cursor_open(txn, db, &cursor), "mdb_cursor_open");
  while (mdb_cursor_get(cursor, &key, &value, MDB_NEXT) == MDB_SUCCESS) {
    uint32_t number, version;
    memcpy(&number, key.mv_data, sizeof number);
    memcpy(&version, (const char*)value.mv_data + sizeof number, sizeof version);
    size_t length = make_value(number, version, expected);
    if (length != value.mv_size || memcmp(expected, value.mv_data, length) != 0)
      die("other bytes", number, version);
    if (versions) versions[number] = version;
    ++count;
  }
  mdb_cursor_close(cursor);
  mdb_txn_abort(txn);
  return count;
}

static void read_for_ever(const char* directory) {
  MDB_dbi db;
  MDB_env* env = open_store(directory, MDB_RDONLY, &db);
  for (;;) scan(env, db, NULL);
}

static void fill(const char* directory, unsigned flags, uint32_t transactions) {
  static uint32_t bytes[kMaxValue / sizeof(uint32_t) + 2];
  MDB_dbi db;
  MDB_env* env = open_store(directory, flags, &db);
  mdb_env_close(env); /* LMDB must not be carried through a fork */
  const pid_t reader = fork();
  if (reader == 0) read_for_ever(directory);
  env = open_store(directory, flags, &db);
  for (uint32_t t = 1; t <= transactions; ++t) {
    MDB_txn* txn;
    must(mdb_txn_begin(env, NULL, 0, &txn), "mdb_txn_begin");
    for (uint32_t n = 0; n < kPerTransaction; ++n) {
      uint32_t number = key_of(t, n);
      MDB_val key = {sizeof number, &number};
      if (is_removal(t, n)) {
        const int code = mdb_del(txn, db, &key, NULL);
        if (code != MDB_NOTFOUND) must(code, "mdb_del");
      } else {
        MDB_val value = {make_value(number, t, bytes), bytes};
        must(mdb_put(txn, db, &key, &value, 0), "mdb_put");
      }
    }
    must(mdb_txn_commit(txn), "mdb_txn_commit");
    if (t % kReopenEvery == 0) {
      must(mdb_env_sync(env, 1), "mdb_env_sync");
      mdb_env_close(env);
      env = open_store(directory, flags, &db);
    }
  }
  must(mdb_env_sync(env, 1), "mdb_env_sync");
  mdb_env_close(env);
  int status = 0;
  if (waitpid(reader, &status, WNOHANG) == reader) {
    fprintf(stderr, "the reader ended by itself\n");
    exit(1);
  }
  kill(reader, SIGKILL);
  waitpid(reader, &status, 0);
}

static void verify(const char* directory, unsigned flags, uint32_t transactions) {
  static uint32_t expected[kKeys], found[kKeys];
  size_t present = 0;
  for (uint32_t t = 1; t <= transactions; ++t) {
    for (uint32_t n = 0; n < kPerTransaction; ++n)
      expected[key_of(t, n)] = is_removal(t, n) ? 0 : t;
  }
  MDB_dbi db;
  MDB_env* env = open_store(directory, flags, &db);
  const size_t count = scan(env, db, found);
  mdb_env_close(env);
  for (uint32_t key = 0; key < kKeys; ++key) {
    if (expected[key] != found[key]) die("another version is there", key, expected[key]);
    present += expected[key] != 0;
  }
  if (count != present) die("the number of keys differs", (uint32_t)count, (uint32_t)present);
}

int main(int argc, char** argv) {
  if (argc != 5) {
    fprintf(stderr, "usage: lmdb_writer fill|verify write|map|map-async DIRECTORY TRANSACTIONS\n");
    return 2;
  }
  unsigned flags = 0;
  if (strcmp(argv[2], "map") == 0) flags = MDB_WRITEMAP;
  if (strcmp(argv[2], "map-async") == 0) flags = MDB_WRITEMAP | MDB_MAPASYNC;
  const uint32_t transactions = (uint32_t)strtoul(argv[4], NULL, 10);
  if (strcmp(argv[1], "fill") == 0) {
    fill(argv[3], flags, transactions);
  } else {
    verify(argv[3], flags, transactions);
  }
  return 0;
}
