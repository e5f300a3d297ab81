/* The gate's protocol for requests that wait, as a model: who may go ahead, who parks, who is woken,
 * and whose the blocks are. `run` has spin look at every order in which the steps can happen.
 *
 * gate_state.pml has the state and the small steps; here is who takes them, and what must hold.
 *
 * One file; block b of the file is block b of the pool, which has no others. A block is in the file,
 * free, in limbo, or on its way between two of these. Sets of blocks and of requests are bit masks.
 * Each client (a holder, or one who truncates) has at most one request at a time, so requests go by
 * their client's number. What happens in one hold of the gate's lock is one d_step.
 *
 * Left out: what only picks another verdict (short-term pins, leases, one's own pins, `ignore`), and
 * all that is one client's own business. tests/unit/gate_*_test.cpp has these.
 *
 * What a run looks at is chosen by macros:
 *   HOLDERS, DETACHES  how many clients
 *   ROUNDS             how many requests each makes; FOREVER: without end
 *   PATIENT            nobody is interrupted, and no wait has a limit (goes with FOREVER)
 *   SECOND             a holder takes a second pin, too, which may fail but not wait
 *   SWITCH, UNMOUNT    the administrator switches the policy; unmounts
 *   ON_TIMEOUT         refuse or defer
 * and one of the mistakes that the checks must find (WRONG_...): see `run`. One is no mistake of the
 * gate's: LIMIT_WAITS_WHILE_IT_HOLDS. A holder that waits for a second pin behind the fence of a
 * truncate that waits for its first one never gets on; that is what DAXFS_PIN_NOWAIT is for.
 */
#ifndef HOLDERS
#define HOLDERS 2
#endif
#ifndef DETACHES
#define DETACHES 1
#endif
#ifndef ROUNDS
#define ROUNDS 1
#endif
#ifndef ON_TIMEOUT
#define ON_TIMEOUT refuse
#endif
#define N (HOLDERS + DETACHES)
#define GATE N /* the gate's thread, where somebody holds the inode's lock */
#define NOBODY 255
#define ALL 3 /* two blocks */
#define BIT(i) (1 << (i))
#define HAS(set, i) ((set) & BIT(i))
#define IS_HOLDER(i) ((i) < HOLDERS)

#ifdef FOREVER
#define PATIENT
#define MORE_ROUNDS true
inline count_round(round) { skip; }
#else
#define MORE_ROUNDS (round < ROUNDS)
inline count_round(round) { round++; }
#endif

#include "gate_state.pml"

/* --- lease/gate_detach.cpp --- */

/* Gate::Impl::judge(), wait(). With the inode's lock held, so `file` stands still. */
inline judge(i, verdict) {
  d_step {
#ifdef WRONG_FREE_WITHOUT_RECHECK
    verdict = (HAS(fenced, i) && !HAS(cancelled, i) && !stopping -> PROCEED : NONE);
#endif
    forget(i);
    if
    :: verdict == PROCEED
    :: else ->
      if
      :: HAS(cancelled, i) || stopping -> verdict = ERROR;
      :: else ->
        if
        :: !(range[i] & file & PINNED) || policy == defer -> verdict = PROCEED;
        :: else ->
          if
          :: policy == refuse -> verdict = ERROR;
          :: policy == wait && HAS(late, i) -> verdict = (ON_TIMEOUT == defer -> PROCEED : ERROR);
          :: else ->
            verdict = PARKED;
            obstacles[i] = range[i] & file & PINNED;
            watched[i] = ANY_OF(obstacles[i]);
            parked = parked | BIT(i);
            fenced = fenced | BIT(i);
          fi
        fi
      fi
    fi
  }
}

/* The operation as the filesystem tries it, the first time and again: Filesystem::detach_at_gate()
 * between taking the inode's lock and the answer. */
inline try_detach(i, who, verdict, blocks, j) {
  lock_inode(who);
  judge(i, verdict);
  if
  :: atomic { verdict == PROCEED ->
    /* detach_extents(): the new map is committed */
      verdict = NONE;
      blocks = range[i] & file;
      file = file & ~blocks;
    }
    /* Gate::detached(), sort_out() */
    d_step {
      skip;
#if !defined(WRONG_ALL_DETACHED_IS_FREE) && !defined(WRONG_FREE_WITHOUT_RECHECK)
      limbo = limbo | (blocks & PINNED);
      blocks = blocks & ~PINNED;
#endif
    }
    free_blocks(blocks);
    unlock_inode(who);
    end_and_answer(i, j, OK);
  :: atomic { verdict == ERROR -> verdict = NONE; unlock_inode(who); }
    end_and_answer(i, j, FAILED);
  :: atomic { verdict == PARKED -> verdict = NONE; unlock_inode(who); }
  fi
}

/* --- lease/gate_pins.cpp --- */

/* Fences::newest_before(), in Gate::Impl::pass_fences() */
inline find_fence(i, j, found) {
  found = NOBODY;
#ifndef WRONG_NO_FENCE
  j = HOLDERS;
  do
  :: j < N ->
    if
#ifdef WRONG_FENCE_STOPS_OLDER_PINS
    :: HAS(fenced, j) && (range[j] & range[i]) &&
#else
    :: HAS(fenced & before[i], j) && (range[j] & range[i]) &&
#endif
       (found == NOBODY || HAS(before[j], found)) ->
      found = j;
    :: else
    fi
    j++;
  :: else -> break
  od
  j = 0;
#endif
}

/* Gate::admit(), and the filesystem's search for the blocks (Filesystem::pin_once()), which allocates
 * where there are holes. Blocks in limbo stay holes. */
inline admit(i, j, found, verdict) {
  d_step {
    forget(i);
    find_fence(i, j, found);
    if
    :: HAS(cancelled, i) || stopping || (found != NOBODY && HAS(nowait, i)) -> verdict = ERROR;
    :: else ->
      if
      :: found != NOBODY ->
        verdict = PARKED;
        behind[i] = found;
        parked = parked | BIT(i);
      :: else ->
        verdict = PROCEED;
        assert(!(free & IN_USE));
        file = file | (range[i] & free);
        free = free & ~range[i];
      fi
    fi
    found = range[i] & file;
  }
}

/* Gate::pin(), once it is admitted: it asks again, but the inode's lock has been held since admit(),
 * so no fence has been raised. */
inline count_in(i, blocks) {
  d_step {
    if
    :: pins[i] == 0 -> pins[i] = blocks;
    :: else -> second[i] = blocks;
    fi
    device[i] = pins[i] | second[i];
    assert(!(device[i] & free));
    blocks = 0;
  }
}

#ifdef WRONG_PIN_WITHOUT_THE_INODE_LOCK
inline lock_pin(who) { skip; }
inline unlock_pin(who) { skip; }
#else
inline lock_pin(who) { lock_inode(who); }
inline unlock_pin(who) { unlock_inode(who); }
#endif

/* Filesystem::pin_once() */
inline try_pin(i, who, verdict, blocks, j) {
  lock_pin(who);
  admit(i, j, blocks, verdict);
  if
  :: verdict == PROCEED ->
    count_in(i, blocks);
    atomic { verdict = NONE; unlock_pin(who); }
    end_and_answer(i, j, OK);
  :: atomic { verdict == ERROR -> verdict = NONE; blocks = 0; unlock_pin(who); }
    end_and_answer(i, j, FAILED);
  :: atomic { verdict == PARKED -> verdict = NONE; blocks = 0; unlock_pin(who); }
  fi
}

/* Gate::unpin() of one pin, or Gate::drop() of both when the descriptor is closed (its holder may
 * have died), after the device has stopped: Gate::Impl::release(), then finish(). */
inline release(i, first, other, blocks, j) {
  d_step {
    device[i] = (first -> 0 : pins[i]) | (other -> 0 : second[i]);
    blocks = (first -> pins[i] : 0) | (other -> second[i] : 0);
    pins[i] = (first -> 0 : pins[i]);
    second[i] = (other -> 0 : second[i]);
#ifndef WRONG_FIRST_UNPIN_EMPTIES_LIMBO
    blocks = blocks & ~PINNED;
#endif
    blocks = blocks & limbo; /* Limbo::release() */
    limbo = limbo & ~blocks;
    move_watches(j);
  }
  free_blocks(blocks);
}

/* --- who does all this --- */

/* Waits for the answer, or gives up: a signal, or the death of the process. */
inline await(i, impatient) {
  if
  :: answer[i] != NONE
  :: impatient && answer[i] == NONE && !HAS(cancelled, i) ->
    cancel(i);
    answer[i] != NONE;
  fi
}

inline choose_range(i) {
  if
  :: range[i] = 1;
  :: range[i] = 2;
  :: range[i] = 3;
  fi
}

inline choose_patience(impatient) {
#ifdef PATIENT
  impatient = false;
#else
  if
  :: impatient = false;
  :: impatient = true;
  fi
#endif
}

proctype holder(byte me) {
  byte verdict, blocks, j, round;
  bool impatient;
  do
  :: MORE_ROUNDS ->
    atomic {
      count_round(round);
      choose_range(me);
      choose_patience(impatient);
      begin(me, false);
    }
    try_pin(me, me, verdict, blocks, j);
    await(me, impatient);
#ifdef SECOND
    if
    :: atomic { answer[me] == OK ->
      choose_range(me);
#ifndef LIMIT_WAITS_WHILE_IT_HOLDS
      nowait = nowait | BIT(me);
#endif
      impatient = false;
      begin(me, false);
    }
      try_pin(me, me, verdict, blocks, j);
      await(me, impatient);
      nowait = nowait & ~BIT(me);
      if
      :: release(me, true, false, blocks, j);
      :: release(me, false, true, blocks, j);
      :: true
      fi
    :: answer[me] == FAILED
    fi
#endif
    release(me, true, true, blocks, j);
  :: else -> break
  od
}

proctype truncater(byte me) {
  byte verdict, blocks, j, round;
  bool impatient, with_limit;
  do
  :: MORE_ROUNDS ->
    atomic {
      count_round(round);
      choose_range(me);
      choose_patience(impatient);
      choose_patience(with_limit);
      begin(me, with_limit);
      with_limit = false;
    }
    try_detach(me, me, verdict, blocks, j);
    await(me, impatient);
  :: else -> break
  od
}

/* Gate::Impl::run() */
proctype gate_thread() {
  byte verdict, blocks, j, i;
end_idle:
  do
  :: ready != 0 ->
    take_ready(i);
    if
    :: IS_HOLDER(i) -> try_pin(i, GATE, verdict, blocks, j);
    :: else -> try_detach(i, GATE, verdict, blocks, j);
    fi
    i = 0;
  /* wake_due(): whoever's time it is */
  :: atomic { parked & timed & ~late -> wake_due(i) }
#ifdef WRONG_STOP_LEAVES_THE_READY
  :: stopping -> break
#else
  :: ready == 0 && stopping -> break
#endif
  od
}

#ifdef SWITCH
/* Gate::set_options() */
proctype administrator() {
  byte j;
  mtype chosen;
  if
  :: chosen = refuse;
  :: chosen = defer;
  fi
  d_step { policy = chosen; wake_all(j); }
}
#endif

#ifdef UNMOUNT
/* Gate::stop() */
proctype unmount() {
  byte j;
  d_step {
    stopping = true;
#ifndef WRONG_STOP_WAKES_NOBODY
    wake_all(j);
#endif
  }
}
#endif

init {
  byte i = 0;
  atomic {
    do
    :: i < HOLDERS -> run holder(i); i++;
    :: i >= HOLDERS && i < N -> run truncater(i); i++;
    :: else -> break
    od
    i = 0;
    run gate_thread();
#ifdef SWITCH
    run administrator();
#endif
#ifdef UNMOUNT
    run unmount();
#endif
  }
}

/* Every request is answered, although the others come and go without end. */
#ifdef FOREVER
#define OPEN(i) (HAS(begun, i) != 0)
ltl truncate_is_answered { [] (OPEN(HOLDERS) -> <> !OPEN(HOLDERS)) }
ltl pin_is_answered { [] (OPEN(0) -> <> !OPEN(0)) }
#endif
