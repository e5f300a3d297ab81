"""What happens under one policy, and whether it was what daxfs promises."""

import os
import time
from dataclasses import dataclass, field

import actors
from holder import Holder
from system import MIB, Mount, cleaning_up, say

HELD = 32 * MIB
PUNCHED = HELD // 2
FIO = 32 * MIB
LEAST_POOL = 192 * MIB  # the default limbo_limit, a quarter, has to hold what is held
BESIDE_SECONDS = 2.0  # the holder goes over its range several times in that


@dataclass(frozen=True)
class Policy:
    """A mount option and what it promises for a detach that meets long-term pins."""

    options: str
    error: str | None = None  # what punch and truncate fail with
    waits: bool = False  # they return when the holder has released
    leased: bool = False  # the holder has a lease, and gives way when it is told
    to_limbo: bool = False
    corrupts: bool = False

    @property
    def frees(self):
        """Whether the blocks are free once both calls have returned."""
        return self.error is None and not self.to_limbo


POLICIES = {
    "refuse": Policy("pin_policy=refuse", error="ETXTBSY"),
    "defer": Policy("pin_policy=defer", to_limbo=True),
    "wait": Policy("pin_policy=wait", waits=True),
    "break": Policy("pin_policy=break", leased=True),
    "ignore": Policy("pin_policy=ignore,unsafe_demo", corrupts=True),
}


@dataclass
class Space:
    free: int
    limbo: int

    @staticmethod
    def of(status):
        return Space(status["free"], status["limbo"])

    def __str__(self):
        return f"{self.free / MIB:.0f} / {self.limbo / MIB:.0f}"


@dataclass
class Result:
    policy: str
    punch: actors.Answer = None
    truncate: actors.Answer = None
    again: actors.Answer = None  # the truncate, after the release, if it was refused before
    space: dict = field(default_factory=dict)  # moment -> Space
    holder_exit: int = None
    holder_checks: int = 0
    told: list = field(default_factory=list)  # reasons, as the holder heard them
    foreign: int = 0
    damaged: int = 0
    others: int = 0  # bytes
    fio_errors: int = 0
    fio_writes: int = 0
    broken: list = field(default_factory=list)  # promises, as sentences

    def expect(self, kept, promise):
        if not kept:
            self.broken.append(promise)


def tell(name, binaries, pool, mountpoint, size, work, record):
    """Plays the whole story under one policy. Leaves nothing, however it ends."""
    result = Result(name)
    with cleaning_up() as cleanup:
        mount = Mount(binaries, pool, mountpoint, os.path.join(work, "daxfs.log"), record)
        cleanup.callback(mount.stop)
        mount.start(size, POLICIES[name].options)
        with mount.expected_to_live():
            play(mount, POLICIES[name], work, cleanup, result)
        result.expect(mount.alive(), "the daemon lives to the end")
    judge(POLICIES[name], result)
    return result


def play(mount, policy, work, cleanup, result):
    empty = Space.of(mount.status())
    fio = actors.Fio(mount.path("fio.data"), FIO, work)
    cleanup.callback(fio.stop)
    fio.start()
    taker = actors.Taker(os.path.join(work, "taker.log"))
    cleanup.callback(taker.stop)
    taker.start()
    victim = mount.path("buffer")
    holder = hold(mount, policy, victim, work, cleanup)
    say(f"  fio writes and verifies one file; daxfs-hold has pinned another, {HELD // MIB} MiB, and works in it")
    if policy.leased:
        say("    and has a lease: it will be told when somebody wants the blocks")

    take_away(mount, policy, victim, taker, holder, result)
    others = fill_up(mount, policy, result)
    release(mount, policy, victim, taker, holder, result)
    look_at(others, result)
    free_again(mount, policy, victim, taker, result)

    fio.finish()
    result.fio_errors, result.fio_writes = fio.errors, fio.writes
    clear(mount, others, [victim, mount.path("fio.data")], empty, result)


def hold(mount, policy, victim, work, cleanup):
    """Two pins, so that the holder can give one back and keep the other."""
    options = ["--allocate", "--length", str(HELD // 2), "--count", "2", "--interval-ms", "2", *(["--lease"] if policy.leased else [])]
    holder = Holder(os.path.join(mount.binaries, "daxfs-hold"), victim, os.path.join(work, "hold.log"), *options)
    cleanup.callback(holder.stop)
    holder.start()
    holder.must_hold()
    return holder


def take_away(mount, policy, victim, taker, holder, result):
    result.space["before"] = before = Space.of(mount.status())
    extents = mount.extents(victim)
    taker.ask("punch", victim, 0, PUNCHED)
    if policy.waits:
        taker.ask("truncate", victim, 0)
        say(f"  punch a hole of {PUNCHED // MIB} MiB into the pinned range, then truncate the file to 0: the punch waits")
        look_while_waiting(mount, victim, result)
    else:
        result.punch = taker.answer()
        say(f"  punch a hole of {PUNCHED // MIB} MiB into the pinned range: {result.punch}")
        if policy.leased:
            hear(holder, 1, result)
        if result.punch.error is None:
            result.expect(actors.reads_as_zeroes(victim, 0, PUNCHED), "a punched range reads as zeroes")
            result.expect(os.stat(victim).st_size == HELD, "a punch keeps the size")
        result.truncate = taker.call("truncate", victim, 0)
        say(f"  truncate the pinned file to 0: {result.truncate}")
        if policy.leased:
            hear(holder, 2, result)
    if policy.error or policy.waits:
        verb = "refused" if policy.error else "waiting"
        result.expect(os.stat(victim).st_size == HELD, f"a {verb} truncate leaves the size alone")
        result.expect(mount.extents(victim) == extents, f"a {verb} punch leaves every extent and pin alone")
    else:
        result.expect(os.stat(victim).st_size == 0, "a truncate to 0 leaves size 0")
    result.space["taken"] = taken = Space.of(mount.status())
    freed, kept = taken.free - before.free, taken.limbo - before.limbo
    result.expect(
        (freed, kept) == (HELD if policy.frees and not policy.waits else 0, HELD if policy.to_limbo else 0),
        f"free grows and limbo grows as the policy says (they grew by {freed} and {kept} bytes)",
    )


def look_while_waiting(mount, victim, result):
    waiting = mount.settled(lambda status: status["waiting"] == 1)["waiting"]
    result.expect(waiting == 1, f"the punch is parked, and daxfsctl status says so (it says waiting: {waiting})")
    result.expect(
        mount.reads(victim, actors.BLOCK), "the file can be read while a punch of it waits, and shows what the holder wrote"
    )


def hear(holder, count, result):
    """What the holder was told by the last of so many calls, and did about it."""
    told = holder.told(count)
    if len(told) != count:
        return
    said = told[-1].what
    result.told.append(said["reason"])
    say(f"    the holder was told ({said['reason']}, {said.get('seconds_left', 0):.0f} s to go) and gave the blocks back")


def fill_up(mount, policy, result):
    others = actors.Others(mount.path("others"))
    result.others = others.fill()
    result.space["full"] = Space.of(mount.status())
    meanwhile = ", while the punch still waits" if policy.waits else ""
    say(f"  other files fill what is free: {len(others.lengths)} files, {result.others // MIB} MiB{meanwhile}")
    time.sleep(BESIDE_SECONDS)
    return others


def release(mount, policy, victim, taker, holder, result):
    limbo = result.space["full"].limbo
    holder.let_go()
    holder.wait()
    result.expect(policy.leased or not holder.told(), "who has no lease is told nothing")
    result.holder_exit, result.holder_checks, result.foreign = holder.exit_code, holder.checks, holder.foreign
    how = "has given way and ended" if policy.leased else "lets go"
    if holder.intact:
        say(f"  the holder {how}: in {holder.checks:,} looks at its blocks it found only its own bytes")
    else:
        say(f"  the holder {how}: FOREIGN BYTES in {holder.foreign:,} of {holder.checks:,} looks at its blocks; the first time")
        say(f"    {holder.first_foreign()}")
    if policy.waits:
        result.punch, result.truncate = taker.answer(), taker.answer()
        say(f"  now the punch returns: {result.punch}; and the truncate behind it: {result.truncate}")
        result.expect(os.stat(victim).st_size == 0, "a truncate to 0 leaves size 0")
    released = mount.settled(lambda status: status["limbo"] == 0 and status["pins"]["long"] == 0)
    result.space["released"] = Space.of(released)
    result.expect(released["limbo"] == 0, "limbo is empty after the release")
    result.expect(released["pins"]["long"] == 0, "no pin outlives its holder")
    result.expect(
        released["free"] == result.space["full"].free + limbo + (HELD if policy.waits else 0),
        "what was in limbo, or waited for, is free after the release, to the block",
    )


def look_at(others, result):
    result.damaged = others.damaged_blocks()
    say(f"  the other files: {f'{result.damaged:,} blocks DAMAGED' if result.damaged else 'every block is as it was written'}")


def free_again(mount, policy, victim, taker, result):
    if policy.error is None:
        return
    free = mount.status()["free"]
    result.again = taker.call("truncate", victim, 0)
    say(f"  truncate once more, now that nobody holds it: {result.again}")
    result.expect(result.again.error is None, "without pins a truncate succeeds")
    result.expect(mount.status()["free"] - free == HELD, "that truncate frees the blocks, to the block")


def clear(mount, others, files, empty, result):
    others.remove()
    for path in files:
        os.unlink(path)
    last = Space.of(mount.settled(lambda status: status["free"] == empty.free))
    result.expect(
        last == empty, f"with all files deleted, all space is back ({last.free} of {empty.free} bytes, limbo {last.limbo})"
    )


def judge(policy, result):
    for what, answer in (("punch", result.punch), ("truncate", result.truncate)):
        result.expect(
            answer.error == policy.error, f"{what} under a pin: {policy.error or 'ok'} (it was {answer.error or 'ok'})"
        )
    told = ["punch", "truncate"] if policy.leased else []
    result.expect(result.told == told, f"the holder of a lease is told of each request (told: {', '.join(result.told) or 'nothing'})")
    if policy.waits:
        result.expect(result.punch.seconds >= BESIDE_SECONDS, "the punch waits until the holder releases")
    result.expect(result.fio_errors == 0 and result.fio_writes > 0, "fio beside it writes and finds no error")
    if policy.corrupts:
        result.expect(
            result.foreign > 0 and result.holder_exit == 3 and result.damaged > 0, "without a gate, corruption is caught"
        )
    else:
        result.expect(result.foreign == 0 and result.holder_exit == 0, "a holder never sees somebody else's bytes")
        result.expect(result.damaged == 0, "no other file is damaged")
