/* The state of the doorbell's model, and its smallest steps: memory as the CPUs show it, locks, blocks.
 * doorbell.pml includes it, and says what it is all about. */

#define N 255
#define NONE 255
#define BIT(i) (1 << (i))
#define HAS(set, i) ((set) & BIT(i))
#define refuse 1
#define defer 2

/* --- blocks: of the pool's two, which are the file's, in limbo, or another owner's --- */
#define ALL 3
byte file = 1;
byte others = 2;
byte limbo = 0;
byte limbo_recorded = 0; /* on the medium, as pins are */

/* The file is written to again, and gets a block that is free: one that others had. Within an atomic. */
inline refill() {
  if
  :: file == 0 && (others & 1) -> file = 1; others = others & ~1;
  :: file == 0 && !(others & 1) && (others & 2) -> file = 2; others = others & ~2;
  :: else
  fi
}

/* --- the doorbell --- */
#ifdef TWO_BELLS
#define BELLS 2
#define BELL(i) (i)
#else
#define BELLS 1
#define BELL(i) 0
#endif
byte epoch[2];
byte count[2]; /* slots: copies in flight */
byte owner[2]; /* and whose they are */
byte used = 0; /* which slots anybody has ever had */
bool bell_recorded = false; /* on the medium */
bool bell_is_free = false;  /* its block is anybody's */

/* Owners: processes that got the same number one after the other are told apart. */
#define NOBODY 0
#define FIRST 1
#define SECOND 2
byte life[2]; /* who lives with that number */
byte born = 0; /* where the second has lived */

/* --- what a client remembers: under which epoch it was told of which blocks --- */
byte mine[2] = NONE;
byte have[2];

/* --- the daemon's memory --- */
byte now = 0; /* the epoch, when open */
byte closers = 0;
byte closing = 0; /* by whom */
byte wanted = 0; /* detaches that have not been answered */
byte late = 0;
byte killed = 0;
byte threads = 0;
#define SERVING (killed == 0)
/* A daemon knows of the doorbells that it has made, and of those that are recorded. */
#define KNOWN (killed == 0 || bell_recorded)

#define CLOSED_FOR_GOOD 5
#define CLOSED_NOW (killed == 0 -> now + 1 : CLOSED_FOR_GOOD)

/* Epochs have 64 bits and never come again. The model has two, and so that it cannot take one for the other, who
 * remembers the one that is about to come again is told here that it is past. */
#define PAST 7
inline next_epoch() {
  atomic {
    now = 2 - now;
    mine[0] = (mine[0] == now -> PAST : mine[0]);
    mine[1] = (mine[1] == now -> PAST : mine[1]);
  }
}

/* --- CPUs: what one stores is seen by others later, in that order (TSO); what it stores past its caches,
 * whenever that happens. A locked instruction, and a barrier, wait until the former is seen by all. --- */
chan stores[2] = [2] of { byte };               /* of counts */
chan daemon_stores = [BELLS] of { byte, byte }; /* of epochs */
byte past_cache[2];                             /* to blocks */
#define SETTLED(i) (empty(stores[i]) && past_cache[i] == 0)

proctype cpu(byte i) {
end_idle:
  do
  :: stores[i]?count[i]
  :: d_step { past_cache[i] != 0 -> assert(!(past_cache[i] & others)); past_cache[i] = 0; }
  od
}

proctype daemon_cpu() {
  byte b, value;
end_idle:
  do
  :: atomic { daemon_stores?b, value -> epoch[b] = value; b = 0; value = 0; }
  od
}

/* membarrier(2): the client's CPU makes a barrier. */
inline make_barrier(i) {
  atomic {
    do
    :: nempty(stores[i]) -> stores[i]?count[i];
    :: empty(stores[i]) -> break
    od
  }
}

inline make_barriers() {
  make_barrier(0);
#if CLIENTS > 1
  make_barrier(1);
#endif
}

/* The inode's lock, held exclusively by a detach, and by what a client asks for a moment. As in gate_state.pml,
 * those who wait for it come in order where starvation is looked for. */
#ifdef FOREVER
chan inode_lock = [DETACHES + 1] of { byte };
#define INODE_LOCKED (len(inode_lock) != 0)
inline lock_inode(k) { inode_lock!k; inode_lock?[eval(k)]; }
inline unlock_inode(k) { inode_lock?eval(k); }
inline forget_locks() {
  do
  :: len(inode_lock) != 0 -> inode_lock?_;
  :: len(inode_lock) == 0 -> break
  od
}
#else
bool inode_locked = false;
#define INODE_LOCKED inode_locked
inline lock_inode(k) { atomic { !inode_locked; inode_locked = true; } }
inline unlock_inode(k) { inode_locked = false; }
inline forget_locks() { inode_locked = false; }
#endif
