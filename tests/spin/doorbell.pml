/* The handshake of direct access (docs/direct-access.md), as a model: clients copy into and out of the blocks
 * of a file by themselves, under a slot of a doorbell; a daemon takes blocks away from that file. `run doorbell`
 * has spin look at every order in which the steps can happen, those of the CPUs' store buffers included.
 *
 * client/doorbell.h has the client's half, src/doorbells.h the daemon's. doorbell_state.pml has the state and the
 * CPUs; here is who takes which steps, and what must hold:
 *   - no copy touches a block that has become another owner's (assertions), whoever dies or is stopped when;
 *   - nobody is stuck (no invalid end state), though processes die in the middle of a copy;
 *   - a detach is answered although clients copy without end (ltl detach_is_answered).
 *
 * What a run looks at is chosen by macros:
 *   CLIENTS, DETACHES  how many
 *   COPIES, ROUNDS     how many copies and detaches each makes; FOREVER: without end
 *   TWO_BELLS          each client has a doorbell of its own; else both are processes that share one
 *   DEATHS             clients die, in the middle of copies, too. Others get their process numbers
 *   STOPS              clients are stopped for good in the middle of a copy
 *   TIMEOUT            refuse or defer: a detach waits no longer than short_timeout, then does this
 *   DAEMON_DIES        the daemon is killed at any moment, and the pool is mounted again
 *   MEMBARRIER         clients count with plain stores, and the daemon has the kernel make barriers for them
 * and one of the mistakes that the checks must find (WRONG_...): see `run`.
 */
#ifndef CLIENTS
#define CLIENTS 2
#endif
#ifndef DETACHES
#define DETACHES 1
#endif
#ifndef ROUNDS
#define ROUNDS 1
#endif
#ifndef COPIES
#define COPIES 1
#endif
#ifdef FOREVER
#define MORE_COPIES true
#define MORE_ROUNDS true
inline count_up(n) { skip; }
#else
#define MORE_COPIES (copies < COPIES)
#define MORE_ROUNDS (rounds < ROUNDS)
inline count_up(n) { n++; }
#endif

#include "doorbell_state.pml"

/* --- the client --- */

/* The system call that attaches, or fetches the extents anew. The doorbell is on the medium before the client
 * learns of it. While a detach waits, or once the daemon has died, there is nothing to be had. */
inline ask(i) {
#if !defined(WRONG_NOT_RECORDED) && !defined(WRONG_RECORDED_AFTER_THE_ANSWER)
  if
  :: atomic { SERVING -> bell_recorded = true; }
  :: !SERVING
  fi;
#endif
  atomic {
    if
    :: SERVING && !INODE_LOCKED ->
      if
      :: closers == 0 -> refill(); mine[i] = now; have[i] = file;
      :: else -> count_up(copies);
      fi
    :: !SERVING
    fi
  }
#ifdef WRONG_RECORDED_AFTER_THE_ANSWER
  if
  :: atomic { SERVING -> bell_recorded = true; }
  :: !SERVING
  fi
#endif
}

/* doorbell::claim(). A process number alone would be no owner: another process can have it later. */
inline claim(i) {
#ifndef WRONG_SLOT_IS_SHOWN_LATE
  atomic { true -> used = used | BIT(i); }
#endif
  atomic {
    if
    :: owner[i] == NOBODY -> owner[i] = life[i];
    :: else /* no slot is free: by system calls */
    fi
  }
}

/* doorbell::take(): the count first, then the look at the epoch. */
inline take(i) {
#ifdef WRONG_CHECK_BEFORE_THE_COUNT
  inside = (epoch[BELL(i)] == mine[i]);
#endif
#if defined(WRONG_TAKE_IS_A_PLAIN_STORE) || defined(MEMBARRIER)
  atomic { stores[i]!1; assert(!bell_is_free); }
#else
  atomic { empty(stores[i]) -> assert(!bell_is_free); count[i] = 1; }
#endif
#ifdef WRONG_CLIENT_WAITS_WITH_ITS_COUNT
  epoch[BELL(i)] == mine[i];
#endif
#if defined(WRONG_NO_RECHECK)
  inside = true;
#elif !defined(WRONG_CHECK_BEFORE_THE_COUNT)
  inside = (epoch[BELL(i)] == mine[i]);
#endif
}

/* A write: it reads the block's place, stores past the caches, and fences. A read is its first half. */
inline copy(i) {
  assert(!(have[i] & others));
  atomic {
    if
    :: true -> past_cache[i] = have[i];
    :: true
    fi
  }
#ifndef WRONG_NO_FENCE_BEHIND_THE_COPY
  past_cache[i] == 0;
#endif
}

/* doorbell::give_back(): what has been stored comes first. A plain store will do where a slot is one thread's. */
inline give_back(i) { stores[i]!0; }

/* What a CPU has begun to store is stored before anybody can see that the process has gone. */
inline die(i) {
  atomic {
    SETTLED(i) -> life[i] = NOBODY;
    mine[i] = NONE;
    have[i] = 0;
    inside = false;
  }
}

proctype client(byte i) {
  byte copies;
  bool inside;
begin:
  do
  :: mine[i] == NONE && SERVING && MORE_COPIES ->
    ask(i);
    if
    :: mine[i] != NONE && owner[i] != life[i] ->
      claim(i);
      if
      :: owner[i] == life[i]
      :: else -> atomic { mine[i] = NONE; count_up(copies); }
      fi
    :: else
    fi
  :: mine[i] != NONE && MORE_COPIES ->
    count_up(copies);
    take(i);
#ifdef DEATHS
    if
    :: true
    :: die(i); goto dead;
    fi
#endif
    if
    :: inside ->
      inside = false;
      copy(i);
#ifdef DEATHS
      if
      :: true
      :: die(i); goto dead;
      fi
#endif
#ifdef STOPS
      if
      :: true
      :: true ->
end_stopped:
        false
      fi
#endif
#ifdef WRONG_SLOT_IS_SHOWN_LATE
      used = used | BIT(i);
#endif
    :: else -> mine[i] = NONE;
    fi
    give_back(i);
  :: !MORE_COPIES || (mine[i] == NONE && !SERVING) -> break
  od
  if
  :: true ->
end_idle:
    false
  :: atomic { SETTLED(i) && owner[i] == life[i] -> owner[i] = NOBODY; }
    die(i);
    goto gone
  fi;
dead:
#ifdef DEATHS
  /* Another process, with the same number. */
  atomic {
    if
    :: life[i] == NOBODY && SERVING && !HAS(born, i) ->
      born = born | BIT(i);
      life[i] = SECOND;
      copies = 0;
      goto begin
    :: true
    fi
  }
#endif
gone:
  skip
}

/* --- the daemon: src/doorbells.cpp, and what will call it --- */

#define LIVES(i, o) (life[i] == (o))
#ifdef WRONG_JUDGED_BY_THE_NUMBER
#define DEAD(i, o) (life[i] == NOBODY)
#elif defined(WRONG_SLOT_OF_THE_DEAD_STAYS)
#define DEAD(i, o) false
#elif defined(WRONG_STOPPED_IS_DEAD)
#define DEAD(i, o) true
#else
#define DEAD(i, o) (!LIVES(i, o))
#endif

/* Whose copy is in flight: `busy`, or N. Copies of the dead have ended with them. */
inline look(j, seen, o, busy) {
  busy = N;
  j = 0;
  seen = (KNOWN -> used : 0);
  do
  :: j < CLIENTS ->
    if
    :: !HAS(seen, j) || count[j] == 0
    :: else ->
      o = owner[j];
      if
      :: o == NOBODY
      :: o != NOBODY && DEAD(j, o) ->
        /* Nobody else may have reclaimed it meanwhile: then it can be another's. */
        atomic {
          if
#ifndef WRONG_RECLAIM_WITHOUT_THE_LOCK
          :: owner[j] != o
          :: owner[j] == o -> count[j] = 0; owner[j] = NOBODY;
#else
          :: true -> count[j] = 0; owner[j] = NOBODY;
#endif
          fi
        }
      :: else -> busy = j; break
      fi
    fi
    j++;
  :: else -> break
  od
  j = 0;
  seen = 0;
  o = NOBODY;
}

/* Doorbells::close(): once for each detach, however often it is tried. */
inline close(k, b) {
  atomic {
    if
    :: !HAS(closing, k) -> closing = closing | BIT(k); closers++;
    :: else
    fi
  }
  b = 0;
  do
  :: b < BELLS && KNOWN ->
#ifdef WRONG_CLOSE_IS_A_PLAIN_STORE
    atomic { daemon_stores!b, CLOSED_NOW; b++; }
#else
    atomic { empty(daemon_stores) -> epoch[b] = CLOSED_NOW; b++; }
#endif
  :: else -> break
  od
  b = 0;
#if defined(MEMBARRIER) && !defined(WRONG_CLOSE_MAKES_NO_BARRIER)
  make_barriers();
#endif
}

/* Doorbells::open(), by the last one that has it closed. */
inline open(k, b) {
  atomic {
    if
#ifdef WRONG_FIRST_END_OPENS
    :: true -> closing = 0; closers = 0;
#else
    :: HAS(closing, k) -> closing = closing & ~BIT(k); closers--;
    :: else
#endif
    fi
  }
  if
  :: closers == 0 && killed == 0 ->
    next_epoch();
    b = 0;
    do
    :: b < BELLS -> atomic { daemon_stores!b, now; b++; }
    :: else -> break
    od
    b = 0;
  :: else /* of a former daemon's: closed for good */
  fi
}

inline answer(k, b) {
  open(k, b);
  unlock_inode(k);
  atomic { late = late & ~BIT(k); wanted = wanted & ~BIT(k); }
}

/* One try of a detach, from scratch; `busy` is whom it has to wait for, or N. */
inline try_detach(k, j, seen, o, busy, b) {
  lock_inode(k);
#ifdef WRONG_LOOK_BEFORE_THE_CLOSE
  look(j, seen, o, busy);
  close(k, b);
#else
  close(k, b);
  look(j, seen, o, busy);
#endif
  if
  :: busy == N ->
    atomic { taken = file; file = 0; refill(); others = others | taken; taken = 0; }
    answer(k, b);
#ifdef TIMEOUT
  :: busy != N && HAS(late, k) ->
#if TIMEOUT == defer
    /* What a copy may still touch is pinned, and that is on the medium before the new map is. */
#ifndef WRONG_LIMBO_IS_NOT_RECORDED
    limbo_recorded = limbo_recorded | file;
#endif
    atomic { limbo = limbo | file; file = 0; refill(); }
#endif
    answer(k, b);
    busy = N;
  :: busy != N && !HAS(late, k) ->
#else
  :: else ->
#endif
    /* Parked. It lets go of all locks, but nobody comes in. */
#ifdef WRONG_OPEN_WHILE_IT_WAITS
    open(k, b);
#endif
    unlock_inode(k);
  fi
}

proctype detach(byte k; byte under) {
  byte j, seen, o, busy, b, rounds, taken;
  {
    do
    :: MORE_ROUNDS ->
      atomic { count_up(rounds); wanted = wanted | BIT(k); }
      do
      :: HAS(wanted, k) ->
        try_detach(k, j, seen, o, busy, b);
        /* The gate's thread looks again and again; the model waits for what it would see. */
        if
        :: busy == N
        :: busy != N && (count[busy] == 0 || DEAD(busy, owner[busy]))
#ifdef TIMEOUT
        :: busy != N -> late = late | BIT(k);
#endif
        fi;
        busy = N
      :: else -> break
      od
    :: else -> break
    od
  } unless { killed != under };
  threads--
}

/* What a copy has kept in limbo goes when that copy has ended. Each slot is seen empty once, after the block
 * came there. */
proctype limbo_watch(byte under) {
  byte j, seen, o, busy, held;
  {
end_idle:
    do
    :: limbo != 0 ->
      held = limbo;
      look(j, seen, o, busy);
      if
      :: busy == N ->
#ifdef WRONG_LIMBO_LOOK_TAKES_LATER_BLOCKS
        held = limbo;
#endif
        limbo_recorded = limbo_recorded & ~held;
        atomic { limbo = limbo & ~held; others = others | held; refill(); }
      :: else ->
end_held:
        count[busy] == 0 || DEAD(busy, owner[busy])
      fi
      busy = 0;
      held = 0;
    od
  } unless { killed != under };
  threads--
}

#ifdef DAEMON_DIES
proctype killer() { killed = 1 }

/* The next daemon. What the former one had in its memory is gone; descriptors of clients are dead, their
 * mappings are not. Recorded doorbells are closed before anything else happens, and stay so. */
proctype mount() {
  byte b;
  threads == 0;
  do
  :: b < BELLS && KNOWN -> atomic { empty(daemon_stores) -> epoch[b] = CLOSED_FOR_GOOD; b++; }
  :: else -> break
  od
#ifdef MEMBARRIER
  make_barriers();
#endif
  atomic {
    forget_locks();
    closers = 0;
    closing = 0;
    wanted = 0;
    late = 0;
    limbo = limbo_recorded & ~file;
    others = ALL & ~file & ~limbo;
    threads = 2;
    run detach(0, 1);
    run limbo_watch(1);
  }
  /* The block of the doorbell is free when nobody can have it mapped. */
#ifdef WRONG_BELL_IS_FREED_WHEN_QUIET
  atomic { count[0] == 0 && count[1] == 0 -> bell_is_free = true; }
#else
end_mapped:
  atomic { life[0] == NOBODY && life[1] == NOBODY -> bell_is_free = true; }
#endif
}
#endif

init {
  atomic {
    life[0] = FIRST;
    run client(0);
    run cpu(0);
#if CLIENTS > 1
    life[1] = FIRST;
    run client(1);
    run cpu(1);
#endif
    run daemon_cpu();
    threads = 1 + DETACHES;
    run detach(0, 0);
#if DETACHES > 1
    run detach(1, 0);
#endif
    run limbo_watch(0);
#ifdef DAEMON_DIES
    run killer();
    run mount();
#endif
  }
}

/* Whoever asks for blocks gets an answer, although clients copy without end. */
#ifdef FOREVER
ltl detach_is_answered { [] (HAS(wanted, 0) -> <> !HAS(wanted, 0)) }
#endif
