"""The positions of the discussion "dax: truncate vs. DMA" (October 2017, and the RFCs of 2019), as mount options, and what each
promises to the same five holders."""

from dataclasses import dataclass

SHORT_TIMEOUT = 1.0
BREAK_TIMEOUT = 1.5


@dataclass(frozen=True)
class Kind:
    """A holder: how it pins, and when it lets go."""

    name: str
    explained: str
    options: tuple
    brief: bool = False  # lets go soon after somebody wants its blocks; the others much later


LONG = Kind("long", "a long-term pin", ())
LEASED = Kind("long, lease", "a long-term pin with a layout lease; gives way when told", ("--lease",))
DEAF = Kind("long, lease, deaf", "the same, but ignores what it is told", ("--lease", "--ignore-breaks"))
SHORT = Kind("short", "a short-term pin, given back soon", ("--short",), brief=True)
OVERDUE = Kind("short, overdue", "a pin that calls itself short-term, and stays", ("--short",))
KINDS = (LONG, LEASED, DEAF, SHORT, OVERDUE)

# When the truncate returns.
AT_ONCE = "at once"
RELEASED = "when the holder releases"
SHORT_TIME = "after short_timeout"
BREAK_TIME = "after break_timeout"
BOTH_TIMES = "after short_timeout and break_timeout"
LIMITS = {SHORT_TIME: SHORT_TIMEOUT, BREAK_TIME: BREAK_TIMEOUT, BOTH_TIMES: SHORT_TIMEOUT + BREAK_TIMEOUT}


@dataclass(frozen=True)
class Promise:
    """What becomes of one holder and of the process that truncates its file."""

    returns: str = AT_ONCE
    error: str | None = None  # of the truncate
    pin_error: str | None = None  # of the pin; then there is no holder
    told: str | None = None  # "break": give way; "changed": it has happened


@dataclass(frozen=True)
class Position:
    who: str
    says: str
    options: str
    promises: dict  # Kind -> Promise
    corrupts: bool = False
    before: str | None = None  # what the mount was before it was switched live to these options


def promises(long, leased, deaf, overdue, short=Promise(RELEASED)):
    return {LONG: long, LEASED: leased, DEAF: deaf, SHORT: short, OVERDUE: overdue}


REFUSED = Promise(error="ETXTBSY")
FORBIDDEN = Promise(pin_error="EOPNOTSUPP")
WITHOUT_LEASE = Promise(pin_error="EPERM")
GOES_AHEAD = Promise(told="changed")
GIVES_WAY = Promise(told="break")
IGNORES = Promise(BREAK_TIME, error="ETXTBSY", told="break")
WAITS = Promise(RELEASED)

FORBID_AND_WAIT = "longterm=forbid,pin_policy=wait"
LEASE_AND_BREAK = f"longterm=lease,pin_policy=break,break_timeout={BREAK_TIMEOUT * 1000:.0f}ms"

POSITIONS = (
    Position(
        "Dan Williams",
        "wait until the pages are idle",
        "pin_policy=wait",
        promises(WAITS, WAITS, WAITS, WAITS),
    ),
    Position(
        "Dave Chinner",
        "truncate proceeds, the blocks stay allocated until the references go",
        "pin_policy=defer",
        promises(Promise(), GOES_AHEAD, GOES_AHEAD, Promise(SHORT_TIME)),
    ),
    Position(
        "Christoph Hellwig, stage 1",
        "long-term references to DAX blocks are prohibited",
        "longterm=forbid",
        promises(FORBIDDEN, FORBIDDEN, FORBIDDEN, Promise(SHORT_TIME, error="ETXTBSY")),
    ),
    Position(
        "Christoph Hellwig, long run",
        "holders take a lease, and give way when it is broken",
        LEASE_AND_BREAK,
        promises(WITHOUT_LEASE, GIVES_WAY, IGNORES, Promise(BOTH_TIMES, error="ETXTBSY")),
    ),
    Position(
        "Jan Kara, steps 1 and 2",
        "forbid long-term references, wait for short-term ones",
        FORBID_AND_WAIT,
        promises(FORBIDDEN, FORBIDDEN, FORBIDDEN, WAITS),
    ),
    Position(
        "Jan Kara, step 3",
        "notify holders, and allow long-term references again",
        LEASE_AND_BREAK,
        promises(WITHOUT_LEASE, GIVES_WAY, IGNORES, Promise(BOTH_TIMES, error="ETXTBSY")),
        before=FORBID_AND_WAIT,
    ),
    Position(
        "the RFCs of 2019",
        "a long-term pin needs a lease; truncating pinned blocks fails",
        "longterm=lease,pin_policy=refuse",
        promises(WITHOUT_LEASE, REFUSED, REFUSED, Promise(SHORT_TIME, error="ETXTBSY")),
    ),
    Position(
        "no answer",
        "truncate frees the blocks, whoever uses them",
        "pin_policy=ignore,unsafe_demo",
        promises(Promise(), GOES_AHEAD, GOES_AHEAD, Promise(SHORT_TIME)),
        corrupts=True,
    ),
)
