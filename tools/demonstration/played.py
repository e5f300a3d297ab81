"""One position played: five holders, five processes that truncate their files, and other files that take what is free."""

import os
import threading
import time
from dataclasses import dataclass, field

import actors
import positions
from holder import Holder
from system import MIB, Mount, Unable, cleaning_up, say

HELD = 8 * MIB
# limbo_limit, a quarter of it, has to hold what four holders hold.
POOL = 160 * MIB
METADATA = MIB  # more than the names and extent maps of the other files take
BEFORE_SECONDS = 0.4
BRIEF_SECONDS = 0.3
LONG_SECONDS = 2.8  # longer than all timeouts together
PATIENCE_SECONDS = 10
AGAIN_SECONDS = 0.02  # between two looks for free space


@dataclass
class Outcome:
    """What became of one holder and of whoever truncated its file. Seconds since all holders held."""

    kind: positions.Kind
    pin_error: str | None
    asked: float
    answered: float
    error: str | None  # of the truncate
    let_go: float | None = None  # when the holder was asked to end
    until: float | None = None  # when it had unpinned
    told: list = field(default_factory=list)  # (seconds, event, action)
    foreign: int = 0
    again: str | None = None  # a truncate after the release, if the first was refused

    @property
    def blocked(self):
        return self.answered - self.asked


@dataclass
class Played:
    position: positions.Position
    outcomes: list
    damaged: int = 0  # blocks of other files
    reused: int = 0  # bytes that other files got after the first truncate
    broken: list = field(default_factory=list)  # promises, as sentences

    def expect(self, kept, promise):
        if not kept:
            self.broken.append(promise)

    @property
    def end(self):
        return max(max(outcome.answered, outcome.until or 0) for outcome in self.outcomes)


class Filler:
    """Other files take all free space, and whatever becomes free, as soon as it does."""

    def __init__(self, directory):
        self.others = actors.Others(directory)
        self.enough = threading.Event()
        self.thread = threading.Thread(target=self.go_on, daemon=True)
        self.error = None

    def start(self):
        self.others.fill()
        self.thread.start()

    def go_on(self):
        try:
            while not self.enough.wait(AGAIN_SECONDS):
                if os.statvfs(self.others.directory).f_bavail > 0:
                    self.others.fill()
        except OSError as error:
            self.error = error

    @property
    def taken(self):
        return sum(self.others.lengths.values())

    def stop(self):
        self.enough.set()
        if self.thread.is_alive():
            self.thread.join(PATIENCE_SECONDS)


class Pair:
    """A holder, and the process that wants its blocks."""

    def __init__(self, kind, mount, work, cleanup):
        name = kind.name.replace(", ", "-")
        self.kind = kind
        self.path = mount.path(name)
        with open(self.path, "wb") as file:
            file.write(bytes(HELD))
        self.taker = actors.Taker(os.path.join(work, f"taker-{name}.log"))
        cleanup.callback(self.taker.stop)
        self.taker.start()
        program = os.path.join(mount.binaries, "daxfs-hold")
        self.holder = Holder(program, self.path, os.path.join(work, f"hold-{name}.log"), *kind.options, "--length", str(HELD))
        cleanup.callback(self.holder.stop)
        self.held = False
        self.answer = None
        self.let_go_at = None

    def let_go(self):
        self.let_go_at = time.monotonic()
        self.holder.let_go()

    def outcome(self, zero):
        """After both have ended."""
        since = lambda when: None if when is None else when - zero
        outcome = Outcome(
            kind=self.kind,
            pin_error=None if self.held else self.holder.refusal(),
            asked=since(self.answer.begin),
            answered=since(self.answer.end),
            error=self.answer.error,
        )
        if self.held:
            gave_way = self.holder.gave_way()
            released = gave_way or self.holder.first("released").when
            # It says so a little later than it does it. A truncate that waited for it knows better.
            if not outcome.error and (gave_way or self.answer.end >= self.let_go_at):
                released = min(released, self.answer.end)
            outcome.let_go, outcome.until = since(self.let_go_at), since(released)
            outcome.told = [(since(said.when), said.event, said.what.get("action", "")) for said in self.holder.told()]
            outcome.foreign = self.holder.foreign
        return outcome


def play(position, binaries, pool, mountpoint, work, record):
    """Leaves nothing, however it ends."""
    with cleaning_up() as cleanup:
        mount = Mount(binaries, pool, mountpoint, os.path.join(work, "daxfs.log"), record)
        cleanup.callback(mount.stop)
        mount.start(POOL, position.before or position.options)
        with mount.expected_to_live():
            if position.before:
                mount.switch(position.options)
            played = go_through(position, mount, work, cleanup)
        played.expect(mount.alive(), "the daemon lives to the end")
    judge(played)
    narrate(played)
    return played


def go_through(position, mount, work, cleanup):
    pairs = [Pair(kind, mount, work, cleanup) for kind in positions.KINDS]
    for pair in pairs:
        pair.holder.start()
    for pair in pairs:
        pair.held = pair.holder.holds()
    filler = Filler(mount.path("others"))
    cleanup.callback(filler.stop)
    filler.start()
    before = filler.taken

    zero = time.monotonic()
    sleep_until(zero + BEFORE_SECONDS)
    for pair in pairs:
        pair.taker.ask("truncate", pair.path, 0)
    asked = time.monotonic()
    sleep_until(asked + BRIEF_SECONDS)
    for pair in pairs:
        if pair.kind.brief:
            pair.let_go()
    # Who is to be answered without a release is answered before one, also on a slow machine.
    for pair in pairs:
        if position.promises[pair.kind].returns != positions.RELEASED:
            pair.answer = pair.taker.answer_within(PATIENCE_SECONDS)
    sleep_until(asked + LONG_SECONDS)
    for pair in pairs:
        if not pair.kind.brief:
            pair.let_go()
    for pair in pairs:
        pair.holder.wait()
        pair.answer = pair.answer or pair.taker.answer()

    played = Played(position, [pair.outcome(zero) for pair in pairs])
    for pair, outcome in zip(pairs, played.outcomes):
        if outcome.error:
            outcome.again = pair.taker.call("truncate", pair.path, 0).result
    last = mount.settled(lambda status: status["free"] == 0 and status["limbo"] == 0, PATIENCE_SECONDS)
    played.expect(last["limbo"] == 0 and last["pins"]["long"] == 0, "when all holders are gone, limbo is empty and nothing is pinned")
    filler.stop()
    if filler.error:
        raise Unable(f"the other files cannot be written: {filler.error}")
    played.reused = filler.taken - before
    played.damaged = filler.others.damaged_blocks()
    return played


def narrate(played):
    pinned = sum(outcome.pin_error is None for outcome in played.outcomes)
    refused = sum(outcome.error is not None for outcome in played.outcomes)
    longest = max(outcome.blocked for outcome in played.outcomes)
    told = sum(bool(outcome.told) for outcome in played.outcomes)
    foreign = sum(outcome.foreign > 0 for outcome in played.outcomes)
    of = len(played.outcomes)
    slowest = actors.duration(longest)
    say(f"  {pinned} of {of} pins are granted; {of - refused} of {of} truncates succeed; the longest took {slowest};")
    say(f"  {told} of {pinned} holders are told; {foreign or 'none'} of them {'find' if foreign > 1 else 'finds'} foreign bytes")


def sleep_until(when):
    time.sleep(max(0, when - time.monotonic()))


def judge(played):
    for outcome in played.outcomes:
        promise = played.position.promises[outcome.kind]
        # On a machine that stands still for a second, the brief holder is not brief.
        if outcome.kind.brief and outcome.until - outcome.asked > positions.SHORT_TIMEOUT:
            promise = played.position.promises[positions.OVERDUE]
        for kept, text in checks(promise, outcome):
            played.expect(kept, f"{outcome.kind.name}: {text}")
        if not played.position.corrupts:
            played.expect(outcome.foreign == 0, f"{outcome.kind.name}: a holder never sees somebody else's bytes")
    if played.position.corrupts:
        foreign = sum(outcome.foreign for outcome in played.outcomes)
        played.expect(foreign > 0 and played.damaged > 0, "without a gate, corruption is caught")
    else:
        played.expect(played.damaged == 0, "no other file is damaged")
    taken = len(played.outcomes) * HELD
    played.expect(
        played.reused >= taken - METADATA,
        f"what was taken away serves other files in the end ({played.reused} of {taken} bytes)",
    )


def checks(promise, outcome):
    """Pairs of whether it was so, and what was promised."""
    pin, promised_pin = outcome.pin_error or "granted", promise.pin_error or "granted"
    yield pin == promised_pin, f"the pin: {promised_pin} (it was {pin})"
    yield outcome.error == promise.error, f"the truncate: {promise.error or 'ok'} (it was {outcome.error or 'ok'})"
    yield outcome.again in (None, "ok"), f"a truncate after the release: ok (it was {outcome.again})"
    told = ", ".join(event for _, event, _ in outcome.told) or "nothing"
    yield told == (promise.told or "nothing"), f"is told: {promise.told or 'nothing'} (it was told: {told})"
    if outcome.pin_error or outcome.let_go is None:
        return
    blocked = f"(it took {outcome.blocked:.2f} s)"
    if promise.returns == positions.RELEASED:
        yield outcome.answered >= outcome.let_go, f"the truncate returns when the holder releases {blocked}"
    else:
        yield outcome.answered <= outcome.let_go, f"the truncate does not wait for the release {blocked}"
        limit = positions.LIMITS.get(promise.returns, 0)
        yield outcome.blocked >= limit - 0.05, f"the truncate returns {promise.returns} {blocked}"
