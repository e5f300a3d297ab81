"""What happens under one policy, and whether it was what daxfs promises."""

import os
import time
from dataclasses import dataclass, field

import actors
from system import MIB, Mount, cleaning_up, say

HELD = 64 * MIB
PUNCHED = HELD // 2
FIO = 64 * MIB
LEAST_POOL = 384 * MIB  # the default limbo_limit, a quarter, has to hold what is held
BESIDE_SECONDS = 2.5  # the holder goes over its range several times in that


@dataclass(frozen=True)
class Policy:
    """A mount option and what it promises for a detach that meets long-term pins."""

    options: str
    error: str | None  # what punch and truncate fail with
    to_limbo: bool = False
    corrupts: bool = False


POLICIES = {
    "refuse": Policy("pin_policy=refuse", "ETXTBSY"),
    "defer": Policy("pin_policy=defer", None, to_limbo=True),
    "ignore": Policy("pin_policy=ignore,unsafe_demo", None, corrupts=True),
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
    foreign: int = 0
    damaged: int = 0
    others: int = 0  # bytes
    fio_errors: int = 0
    fio_writes: int = 0
    broken: list = field(default_factory=list)  # promises, as sentences

    def expect(self, kept, promise):
        if not kept:
            self.broken.append(promise)


def tell(name, binaries, pool, mountpoint, size, work):
    """Plays the whole story under one policy. Leaves nothing, however it ends."""
    result = Result(name)
    with cleaning_up() as cleanup:
        mount = Mount(binaries, pool, mountpoint, os.path.join(work, "daxfs.log"))
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
    victim = mount.path("buffer")
    holder = actors.Holder(mount.binaries, victim, HELD, os.path.join(work, "hold.log"))
    cleanup.callback(holder.stop)
    holder.start()
    say(f"  fio writes and verifies one file; daxfs-hold has pinned another, {HELD // MIB} MiB, and works in it")

    take_away(mount, policy, victim, result)
    others = fill_up(mount, result)
    release(mount, holder, result)
    look_at(others, result)
    free_again(mount, policy, victim, result)

    fio.finish()
    result.fio_errors, result.fio_writes = fio.errors, fio.writes
    clear(mount, others, [victim, mount.path("fio.data")], empty, result)


def take_away(mount, policy, victim, result):
    result.space["before"] = before = Space.of(mount.status())
    extents = mount.extents(victim)
    result.punch = actors.punch(victim, 0, PUNCHED)
    say(f"  punch a hole of {PUNCHED // MIB} MiB into the pinned range: {result.punch}")
    if result.punch.error is None:
        result.expect(actors.reads_as_zeroes(victim, 0, PUNCHED), "a punched range reads as zeroes")
        result.expect(os.stat(victim).st_size == HELD, "a punch keeps the size")
    result.truncate = actors.truncate(victim, 0)
    say(f"  truncate the pinned file to 0: {result.truncate}")
    if policy.error:
        result.expect(os.stat(victim).st_size == HELD, "a refused truncate leaves the size alone")
        result.expect(mount.extents(victim) == extents, "a refused punch leaves every extent and pin alone")
    else:
        result.expect(os.stat(victim).st_size == 0, "a truncate to 0 leaves size 0")
    result.space["taken"] = taken = Space.of(mount.status())
    freed, kept = taken.free - before.free, taken.limbo - before.limbo
    result.expect(
        (freed, kept) == (HELD if policy.corrupts else 0, HELD if policy.to_limbo else 0),
        f"free grows and limbo grows as the policy says (they grew by {freed} and {kept} bytes)",
    )


def fill_up(mount, result):
    others = actors.Others(mount.path("others"))
    result.others = others.fill()
    result.space["full"] = Space.of(mount.status())
    say(f"  other files fill what is free: {len(others.lengths)} files, {result.others // MIB} MiB")
    time.sleep(BESIDE_SECONDS)
    return others


def release(mount, holder, result):
    limbo = result.space["full"].limbo
    holder.release()
    result.holder_exit, result.holder_checks, result.foreign = holder.exit_code, holder.checks, holder.foreign
    if holder.intact:
        say(f"  the holder lets go: in {holder.checks:,} looks at its blocks it found only its own bytes")
    else:
        say(f"  the holder lets go: FOREIGN BYTES in {holder.foreign:,} of {holder.checks:,} looks at its blocks; the first time")
        say(f"    {holder.first_foreign()}")
    released = mount.settled(lambda status: status["limbo"] == 0 and status["pins"]["long"] == 0)
    result.space["released"] = Space.of(released)
    result.expect(released["limbo"] == 0, "limbo is empty after the release")
    result.expect(released["pins"]["long"] == 0, "no pin outlives its holder")
    result.expect(
        released["free"] == result.space["full"].free + limbo, "what was in limbo is free after the release, to the block"
    )


def look_at(others, result):
    result.damaged = others.damaged_blocks()
    say(f"  the other files: {f'{result.damaged:,} blocks DAMAGED' if result.damaged else 'every block is as it was written'}")


def free_again(mount, policy, victim, result):
    if policy.error is None:
        return
    free = mount.status()["free"]
    result.again = actors.truncate(victim, 0)
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
    result.expect(result.fio_errors == 0 and result.fio_writes > 0, "fio beside it writes and finds no error")
    if policy.corrupts:
        result.expect(
            result.foreign > 0 and result.holder_exit == 3 and result.damaged > 0, "without a gate, corruption is caught"
        )
    else:
        result.expect(result.foreign == 0 and result.holder_exit == 0, "a holder never sees somebody else's bytes")
        result.expect(result.damaged == 0, "no other file is damaged")
