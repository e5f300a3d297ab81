/* The state of the gate's model, and its smallest steps: those of the parked requests, of begin() to
 * end(), of fences and of locks. gate.pml includes it, and says what it is all about. */

/* --- whose the blocks are --- */
byte file = ALL;
byte free = 0;
byte limbo = 0; /* lease/limbo.h */

/* --- lease/pin_counts.h, pin_table.h: what each holder's two pins cover --- */
byte pins[4];   /* array of the most holders, so that PINNED is one expression */
byte second[4];
#define PINNED (pins[0] | pins[1] | pins[2] | second[0] | second[1] | second[2])
/* What the holders' devices write to: never a block that may be somebody else's. */
byte device[4];
#define IN_USE (device[0] | device[1] | device[2])
/* src/grace.h: the holders in grace, and those of them whose processes have gone. */
byte leaving = 0;
byte gone = 0;

/* --- requests: lease/ticket.h, parked_requests.h, fences.h --- */
byte begun = 0;
byte before[N];    /* Ticket::arrival, as the set of the older requests that have not ended */
byte parked = 0;   /* ParkedRequests::parked_ */
byte ready = 0;    /* ParkedRequests::ready_ */
byte fenced = 0;   /* Fences */
byte range[N];
byte behind[N];    /* Ticket::behind, of a parked pin: the request whose fence stops it */
byte obstacles[N]; /* Ticket::obstacles of a parked detach, and which of them it watches */
byte watched[N];
byte cancelled = 0;
byte timed = 0; /* those whose wait has a limit */
byte late = 0;  /* and for whom it has passed */
byte nowait = 0; /* pins that would rather fail than wait */
byte left = 0; /* Repeats: those that were interrupted; their places, and fences, are kept */
byte away = 0; /* their clients have ended, or come back too late */
byte answer[N];
#define NONE 0
#define OK 1
#define FAILED 2 /* ETXTBSY, EAGAIN, EINTR by an unmount: nothing has changed */
#define INTERRUPTED 3 /* EINTR: nothing has changed, and it may be repeated */
byte wanted = 0; /* those who have not been answered for good */

mtype = { wait, refuse, defer };
mtype policy = wait; /* GateOptions::pin_policy */
bool stopping = false;

/* --- verdicts --- */
#define PROCEED 1
#define ERROR 2
#define PARKED 3
#define NOT_NOW 4 /* it would have to wait, but was interrupted */

/* The inode's lock. std::shared_mutex promises no order; where starvation is looked for, the model
 * gives it one, since it is held for a moment only and starving there is not the gate's doing. */
#ifdef FOREVER
chan inode_lock = [N + 1] of { byte };
inline lock_inode(who) { inode_lock!who; inode_lock?[eval(who)]; }
inline unlock_inode(who) { inode_lock?eval(who); }
#else
bool inode_locked = false;
inline lock_inode(who) { atomic { !inode_locked; inode_locked = true; } }
inline unlock_inode(who) { inode_locked = false; }
#endif

/* GateHooks::free_blocks, and the allocator: blocks that are free can be given to anybody at once. */
inline free_blocks(blocks) {
  d_step {
    assert(!(blocks & IN_USE));
    assert(!(blocks & (file | free | limbo))); /* nor were they somebody's, or freed already */
    free = free | blocks;
    blocks = 0;
  }
}

/* --- lease/parked_requests.cpp; within a d_step --- */

/* ParkedRequests::wake() */
inline wake(w) {
  parked = parked & ~BIT(w);
  ready = ready | BIT(w);
  obstacles[w] = 0;
  watched[w] = 0;
  behind[w] = NOBODY;
}

/* ParkedRequests::forget() */
inline forget(i) {
  parked = parked & ~BIT(i);
  ready = ready & ~BIT(i);
  obstacles[i] = 0;
  watched[i] = 0;
  behind[i] = NOBODY;
}

/* One block of the set. */
#define ANY_OF(set) ((set) & 1 -> 1 : (set) & 2)

/* ParkedRequests::unpinned(): a watch moves on to another obstacle, or there is none. */
inline move_watches(j) {
  j = HOLDERS;
  do
  :: j < N ->
    if
#ifndef WRONG_UNPIN_WAKES_NOBODY
    :: HAS(parked, j) && !(watched[j] & PINNED) ->
      if
      :: obstacles[j] & PINNED -> watched[j] = ANY_OF(obstacles[j] & PINNED);
      :: else -> wake(j);
      fi
#endif
    :: else
    fi
    j++;
  :: else -> break
  od
  j = 0;
}

/* ParkedRequests::wake_behind() */
inline wake_behind(i, j) {
  j = 0;
  do
  :: j < HOLDERS ->
    if
#ifndef WRONG_FENCE_WAKES_NOBODY
    :: HAS(parked, j) && behind[j] == i -> wake(j);
#endif
    :: else
    fi
    j++;
  :: else -> break
  od
  j = 0;
}

/* ParkedRequests::wake_all() */
inline wake_all(j) {
  j = 0;
  do
  :: j < N ->
    if
    :: HAS(parked, j) -> wake(j);
    :: else
    fi
    j++;
  :: else -> break
  od
  j = 0;
}

/* ParkedRequests::take_ready(): the oldest. */
inline take_ready(i) {
  d_step {
    i = 0;
    do
    :: HAS(ready, i) && !(before[i] & ready) -> break
    :: else -> i++;
    od
    ready = ready & ~BIT(i);
  }
}

/* ParkedRequests::wake_due(), for one whose time may be up. */
inline wake_due(i) {
  if
  :: HAS(parked & timed & ~late, HOLDERS) -> i = HOLDERS;
#if DETACHES > 1
  :: HAS(parked & timed & ~late, HOLDERS + 1) -> i = HOLDERS + 1;
#endif
  fi
  late = late | BIT(i);
  wake(i);
  i = 0;
}

/* --- lease/gate.cpp --- */

/* Gate::begin(). Whether it will be interrupted, and whether its wait has a limit, is settled here:
 * only so is one seen that waits for ever when nobody helps it. */
inline begin(i, with_limit) {
  d_step {
    before[i] = begun;
    begun = begun | BIT(i);
    cancelled = cancelled & ~BIT(i);
    late = late & ~BIT(i);
    timed = (with_limit -> timed | BIT(i) : timed & ~BIT(i));
    answer[i] = NONE;
    wanted = wanted | BIT(i);
  }
}

/* The same request again, after it has been interrupted: Gate::Impl::take_place(). */
inline begin_again(i) {
#ifdef WRONG_REPEAT_IS_NEW
  begin(i, HAS(timed, i) != 0);
#else
  d_step {
    assert(HAS(left, i));
    left = left & ~BIT(i);
    cancelled = cancelled & ~BIT(i);
    answer[i] = NONE;
  }
#endif
}

/* Gate::end(), with lift_fence(); within a d_step. */
inline end(i, j) {
  forget(i);
  fenced = fenced & ~BIT(i);
  wake_behind(i, j);
  begun = begun & ~BIT(i);
  j = 0;
  do
  :: j < N -> before[j] = before[j] & ~BIT(i); j++;
  :: else -> break
  od
  j = 0;
  before[i] = 0;
}

/* The program answers before it ends the request. Here the answer comes last, as the client's next
 * request takes the same place. */
inline end_and_answer(i, j, what) {
  d_step {
    end(i, j);
    range[i] = 0;
    wanted = wanted & ~BIT(i);
    answer[i] = what;
  }
}

/* Gate::Impl::interrupt(), and Gate::end(): the place is kept for the repetition. */
inline leave_and_answer(i, j) {
  d_step {
#ifdef WRONG_REPEAT_IS_NEW
    end(i, j);
#else
    left = left | BIT(i);
#ifdef WRONG_FENCE_OF_THE_INTERRUPTED_GOES
    fenced = fenced & ~BIT(i);
    wake_behind(i, j);
#endif
#endif
    answer[i] = INTERRUPTED;
  }
}

/* Repeats::look(): of one who is away. */
inline forget_left(i, j) {
  d_step {
    i = 0;
    do
    :: HAS(left & away, i) -> break
    :: else -> i++;
    od
    end(i, j);
    range[i] = 0;
    wanted = wanted & ~BIT(i);
    left = left & ~BIT(i);
    away = away & ~BIT(i);
    i = 0;
  }
}

/* Gate::cancel() */
inline cancel(i) {
  d_step {
    cancelled = cancelled | BIT(i);
    if
    :: HAS(parked, i) -> wake(i);
    :: else
    fi
  }
}
