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
 *   TICKS              with FOREVER: whose requests (IS_FIRST: one holder's; IS_TRUNCATER) are
 *                      interrupted, and repeated, without end
 *   GRACE              processes of holders die, and leave a device behind that is at work
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
#define IS_TRUNCATER(i) ((i) >= HOLDERS)
#define IS_FIRST(i) ((i) == 0)

#ifdef FOREVER
#ifndef TICKS
#define PATIENT
#endif
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
      :: stopping -> verdict = ERROR;
      :: else ->
        if
        :: !(range[i] & file & PINNED) || policy == defer -> verdict = PROCEED;
        :: else ->
          if
          :: policy == refuse -> verdict = ERROR;
          :: policy == wait && HAS(late, i) -> verdict = (ON_TIMEOUT == defer -> PROCEED : ERROR);
          :: else ->
            fenced = fenced | BIT(i);
            if
            :: HAS(cancelled, i) -> verdict = NOT_NOW;
            :: else ->
              verdict = PARKED;
              obstacles[i] = range[i] & file & PINNED;
              watched[i] = ANY_OF(obstacles[i]);
              parked = parked | BIT(i);
            fi
          fi
        fi
      fi
    fi
  }
}

/* The operation as the filesystem tries it, the first time and again: Detaching::ask()
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
  :: atomic { verdict == NOT_NOW -> verdict = NONE; unlock_inode(who); }
    leave_and_answer(i, j);
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

/* Gate::admit(), and the filesystem's search for the blocks (Pins::pin_once()), which allocates
 * where there are holes. Blocks in limbo stay holes. */
inline admit(i, j, found, verdict) {
  d_step {
    forget(i);
    find_fence(i, j, found);
    if
    :: stopping || (found != NOBODY && HAS(nowait, i)) -> verdict = ERROR;
    :: else ->
      if
      :: found != NOBODY && HAS(cancelled, i) -> verdict = NOT_NOW;
      :: found != NOBODY && !HAS(cancelled, i) ->
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

/* Pins::pin_once() */
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
  :: atomic { verdict == NOT_NOW -> verdict = NONE; blocks = 0; unlock_pin(who); }
    leave_and_answer(i, j);
  :: atomic { verdict == PARKED -> verdict = NONE; blocks = 0; unlock_pin(who); }
  fi
}

/* Gate::Impl::release(), within a d_step; free_blocks() follows, as in finish(). */
inline count_out(i, first, other, blocks, j) {
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

/* Gate::unpin() of one pin, or Gate::drop() of both when the descriptor is closed, after the device
 * has stopped. */
inline release(i, first, other, blocks, j) {
  d_step {
    device[i] = (first -> 0 : pins[i]) | (other -> 0 : second[i]);
    count_out(i, first, other, blocks, j);
  }
  free_blocks(blocks);
}

/* --- src/grace.cpp --- */

/* The last close comes from a process that is ending: Grace::begin(). Its device may be at work, or
 * still be given some. */
inline die(i) {
  if
  :: device[i] = 0;
  :: true
  fi
  leaving = leaving | BIT(i);
  if
  :: d_step { device[i] = pins[i] | second[i]; assert(!(device[i] & free)); }
  :: true
  fi
  gone = gone | BIT(i);
  device[i] = 0;
  !HAS(leaving, i);
}

/* Grace::take_ended(), of one holder. Both of what makes it certain is looked at, one after the
 * other; else the grace lasts longer than the device. */
inline end_grace(i, has_gone, idle, blocks, j) {
#ifdef WRONG_GRACE_LOOKS_AT_PAGES_FIRST
  idle = (IN_USE == 0);
  has_gone = (HAS(gone, i) != 0);
#else
  has_gone = (HAS(gone, i) != 0);
  idle = (IN_USE == 0);
#endif
  if
#ifdef WRONG_DEATH_IS_AN_UNPIN
  :: true ->
#else
  :: (has_gone && idle) || (HAS(gone, i) && !device[i]) ->
#endif
    d_step { count_out(i, true, true, blocks, j); }
    free_blocks(blocks);
    d_step { leaving = leaving & ~BIT(i); gone = gone & ~BIT(i); }
  :: else
  fi
  has_gone = false;
  idle = false;
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

inline choose_patience(me, impatient) {
#ifdef PATIENT
  impatient = false;
#else
  if
  :: impatient = false;
#ifdef TICKS
  :: TICKS(me) -> impatient = true;
#else
  :: impatient = true;
#endif
  fi
#endif
}

inline choose_limit(with_limit) {
#ifdef PATIENT
  with_limit = false;
#elif defined(FOREVER)
  with_limit = false;
#else
  if
  :: with_limit = false;
  :: with_limit = true;
  fi
#endif
}

/* What was interrupted is repeated: without end, or once. Or it is not. */
inline come_back(me, impatient) {
#ifdef FOREVER
  atomic { begin_again(me); choose_patience(me, impatient); }
#else
  if
  :: atomic { true -> begin_again(me); impatient = false; }
  :: away = away | BIT(me);
    /* Its next request takes the same place in the model. */
    atomic { !HAS(left, me) || stopping -> answer[me] = FAILED; }
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
      choose_patience(me, impatient);
      begin(me, false);
    }
    do
    :: answer[me] == NONE ->
      try_pin(me, me, verdict, blocks, j);
      await(me, impatient);
    :: answer[me] == INTERRUPTED -> come_back(me, impatient);
    :: answer[me] == OK || answer[me] == FAILED -> break
    od
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
    if
    :: release(me, true, true, blocks, j);
#ifdef GRACE
    :: die(me);
#endif
    fi
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
      choose_patience(me, impatient);
      choose_limit(with_limit);
      begin(me, with_limit);
      with_limit = false;
    }
    do
    :: answer[me] == NONE ->
      try_detach(me, me, verdict, blocks, j);
      await(me, impatient);
    :: answer[me] == INTERRUPTED -> come_back(me, impatient);
    :: answer[me] == OK || answer[me] == FAILED -> break
    od
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
#ifndef WRONG_PLACE_IS_KEPT_FOR_EVER
  :: atomic { left & away -> forget_left(i, j) }
#endif
#ifdef WRONG_STOP_LEAVES_THE_READY
  :: stopping -> break
#else
  :: ready == 0 && stopping -> break
#endif
  od
}

#ifdef GRACE
/* Grace::run() */
proctype grace() {
  byte blocks, j, i;
  bool has_gone, idle;
end_idle:
  do
  :: HAS(leaving, 0) -> end_grace(0, has_gone, idle, blocks, j);
#if HOLDERS > 1
  :: HAS(leaving, 1) -> end_grace(1, has_gone, idle, blocks, j);
#endif
  od
}
#endif

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
#ifdef GRACE
    run grace();
#endif
#ifdef SWITCH
    run administrator();
#endif
#ifdef UNMOUNT
    run unmount();
#endif
  }
}

/* Every request is answered, although the others come and go without end, and although it is
 * interrupted again and again. */
#ifdef FOREVER
#define OPEN(i) (HAS(wanted, i) != 0)
ltl truncate_is_answered { [] (OPEN(HOLDERS) -> <> !OPEN(HOLDERS)) }
ltl pin_is_answered { [] (OPEN(0) -> <> !OPEN(0)) }
#endif
