"""The daemon is killed again and again, under everything at once: changes whose acknowledgement is logged, holders of
whom some outlive several daemons, and others who take the blocks away under a random policy. After each death the
pool is checked offline, mounted, and checked again: nothing acknowledged is missing, no holder has seen a foreign
byte, and free space + limbo + what somebody owns = the pool."""

import errno
import json
import os
import random
import signal
import subprocess
import time

import ack_writer
import filler
import load_crash
import policy_actor
from forked import Forked
from harness import BLOCK, Failure, check, wait_until
from held_file import SAW_FOREIGN
from load_crash import keep_evidence
from load_policies import some_policy
from policy_actor import FILES, STRIPE
from pool_reader import PoolReader

POOL_MIB = 192
ROUNDS, QUICK_ROUNDS = 1000, 10
ROUNDS_KEPT = 4  # so long what was acknowledged is checked anew after each further death
STRIPES = 8  # of each file: the first ones are the actors', each other one has at most one holder
ACTORS = 2
MOST_HOLDERS = 5
FILLER_FILES = 40
IGNORE_ROUNDS = 40
WAIT = 120
# What those are told whose filesystem goes away.
GONE = tuple(os.strerror(code) for code in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, errno.ENODEV, errno.EINTR))


class Holder:
    """A daxfs-hold on a stripe of one of the files. Goes on over the death of the daemon."""

    def __init__(self, place, file, stripe, dice):
        self.place, self.where, self.rounds = place, (file, stripe), 0
        self.said = place.path(f"hold{file}.{stripe}")
        first = dice.randrange(STRIPE)
        count = dice.randrange(1, STRIPE - first + 1)
        words = ["--offset", str((stripe * STRIPE + first) * BLOCK), "--length", str(count * BLOCK), "--allocate"]
        words += dice.choice([[], ["--verify"], ["--lease"], ["--lease", "--ignore-breaks"]])
        with open(self.said, "wb") as out:
            self.child = place.processes.start(
                [place.program("daxfs-hold"), place.inside(f"file{file}"), *words, "--json", "--interval-ms", "3"],
                stdout=out,
                stderr=out,
            )

    def output(self):
        with open(self.said, encoding="utf-8", errors="replace") as out:
            return out.read()

    def check_end(self, expected):
        """It has ended. Whoever held something may have given way, or been told to end."""
        said, status = self.output(), self.child.returncode
        self.place.processes.end(self.child)
        check('"event":"foreign"' not in said and status != SAW_FOREIGN, f"a holder saw foreign bytes: {said[-600:]}")
        allowed = (0, *expected) if '"held"' in said else (0, 1, *expected)
        check(status in allowed, f"a holder ended with {status}: {said[-400:]}")

    def end(self, how):
        self.child.send_signal(how)
        try:
            self.child.wait(WAIT)
        except subprocess.TimeoutExpired:
            raise Failure(f"a holder does not end: {self.output()[-300:]}") from None
        self.check_end((-how,) if how == signal.SIGKILL else ())


class Holders:
    def __init__(self, place, dice):
        self.place, self.dice = place, dice
        self.living = []
        self.outlived = self.killed = 0

    def add_some(self):
        taken = {holder.where for holder in self.living}
        places = [(f, s) for f in range(FILES) for s in range(ACTORS, STRIPES) if (f, s) not in taken]
        for file, stripe in self.dice.sample(places, max(0, MOST_HOLDERS - len(self.living))):
            self.living.append(Holder(self.place, file, stripe, self.dice))

    def look(self):
        """Those who have ended by themselves are told apart from those who should not have."""
        for holder in [h for h in self.living if h.child.poll() is not None]:
            self.living.remove(holder)
            holder.check_end(())

    def end_some(self, how, chance):
        for holder in [h for h in self.living if self.dice.random() < chance]:
            self.living.remove(holder)
            holder.end(how)
            self.killed += how == signal.SIGKILL

    def outlive(self):
        self.look()
        for holder in self.living:
            holder.rounds += 1
        self.outlived += len(self.living)


class Writer(load_crash.Writer):
    def start(self, words):
        return Forked(ack_writer.main, words, self.log + ".out")

    def status(self):
        return self.process.wait(WAIT)


class Load:
    """What is started anew after each mount, and ends with the daemon."""

    def __init__(self, place, number, dice):
        def seed():
            return dice.randrange(1 << 30)

        self.writers, self.others = [], []
        try:
            for i, profile in enumerate(("data", "names")):
                self.writers.append(Writer(place, f"r{number}w{i}", profile, seed()))
            for role, numbers in (("hold", range(ACTORS)), ("detach", range(2))):
                for i in numbers:
                    words = [role, place.mountpoint, place.pool, i, STRIPES, seed()]
                    self.others.append(Forked(policy_actor.main, words, place.path(f"{role}{i}.out")))
            directory = place.inside(f"r{number}fill")
            os.mkdir(directory)
            self.others.append(Forked(filler.main, [directory, seed(), FILLER_FILES], place.path("fill.out")))
        except BaseException:
            self.abandon()
            raise

    def abandon(self):
        for child in [writer.process for writer in self.writers] + self.others:
            child.end()

    def is_busy(self):
        return all(writer.acknowledged() > 5 for writer in self.writers)

    def wait(self):
        waiting = [writer.wait for writer in self.writers] + [lambda o=o: self.wait_for(o) for o in self.others]
        failure = None
        for wait in waiting:
            try:
                wait()
            except Failure as found:
                failure = failure or found
        if failure:
            raise failure

    @staticmethod
    def wait_for(child):
        status, said = child.wait(WAIT)
        name = os.path.basename(child.log)
        check("foreign" not in said and status != SAW_FOREIGN, f"{name} saw foreign bytes: {said[-400:]}")
        last = said.splitlines()[-1] if said else ""
        check(status == 0 or any(text in last for text in GONE), f"{name} ended with {status}: {said[-400:]}")


def make_files(place):
    for i in range(FILES):
        with open(place.inside(f"file{i}"), "ab"):
            pass


def take_down(place):
    """After the death of the daemon. Holders have files open in the dead mount, and so does nobody else."""
    daemon, place.daemon = place.daemon, None
    daemon.wait(WAIT)
    place.processes.end(daemon)
    while place.mounted():
        place.run(["umount", "--lazy", place.mountpoint])


def safe_options(dice):
    policy = some_policy(dice)
    if dice.random() < 0.7:
        # Else few of the holders get anything.
        policy = policy.replace("longterm=forbid", "longterm=allow").replace("longterm=lease", "longterm=allow")
    # What the writers acknowledge was synced, so each mode has to keep it.
    return f"{policy},cache={dice.choice(['through', 'through', 'writeback', 'none'])}"


def check_scrub(place):
    """What a scrub says that finds nothing; others end with exit status 4."""
    command = [place.program("daxfsctl"), "scrub", "--json", place.mountpoint]
    scrub = json.loads(place.run(command, seconds=WAIT, status=None))
    check(scrub["clean"], f"scrub: {scrub['found']} findings: {scrub['findings'][:3]}")
    return scrub


def check_mounted(place, empty):
    """Each block is in one place: as the daemon says, as its scrub says, and as the pool shows another reader."""
    scrub = check_scrub(place)
    where = {name: scrub[name] for name in ("free", "limbo", "owned", "total")}
    check(where["free"] + where["limbo"] + where["owned"] == where["total"], f"blocks are missing: {where}")
    status = place.ask("status")
    used = empty - (status["free"] + status["limbo"]) // BLOCK
    in_pool = PoolReader(place.pool).count()
    check(used == in_pool, f"{used} blocks are neither free nor in limbo, in the pool {in_pool} belong to somebody")


def one_round(place, number, dice, holders, kept, empty, options=safe_options):
    make_files(place)
    load = Load(place, number, dice)
    try:
        holders.add_some()
        wait_until(load.is_busy, WAIT, "acknowledgements")
        end = time.monotonic() + dice.uniform(0, 0.6)
        while time.monotonic() < end:
            if dice.random() < 0.1:
                holders.end_some(signal.SIGKILL, 0.2)
            if dice.random() < 0.1:
                check_scrub(place)
            time.sleep(dice.uniform(0, 0.1))
        check(place.daemon.poll() is None, f"the daemon died by itself: {place.log_tail()}")
    except BaseException:
        load.abandon()
        raise
    place.kill_daemon()
    holders.end_some(signal.SIGKILL, 0.2)
    load.wait()
    take_down(place)
    holders.end_some(dice.choice([signal.SIGKILL, signal.SIGTERM]), 0.2)
    holders.outlive()
    place.run([place.program("fsck.daxfs"), "-n", place.pool])
    place.mount(options(dice))
    check_mounted(place, empty)
    kept += load.writers
    for writer in kept:
        writer.verify()
    return sum(writer.acknowledged() for writer in load.writers)


def all_is_given_back(place, holders, empty):
    """Nobody holds anything any more: what is left goes with its file, and the pool is as it was in the beginning."""
    holders.end_some(signal.SIGTERM, 1)

    def is_quiet():
        status = place.ask("status")
        return status["pins"]["long"] == status["limbo"] == 0

    wait_until(is_quiet, WAIT, lambda: f"no pins, nothing in limbo: {place.ask('status')}")
    place.empty()
    place.check_free(empty)
    check_scrub(place)
    place.unmount()
    place.run([place.program("fsck.daxfs"), "-n", place.pool])
    place.mount()


def ignored(place, dice):
    """The same with pin_policy=ignore must be seen, or the rest has proved nothing."""

    def options(_):
        return "pin_policy=ignore,unsafe_demo,short_timeout=1ms"

    place.format(POOL_MIB)
    place.mount(options(dice))
    holders, empty = Holders(place, dice), place.free()
    try:
        for number in range(IGNORE_ROUNDS):
            one_round(place, number, dice, holders, [], empty, options)
    except (Failure, OSError) as seen:
        # By a holder or a filler; or in what a holder has written into: what was acknowledged, or metadata.
        signs = ("saw foreign bytes", "acknowledged", "neither before nor after", "scrub:", "fsck.daxfs")
        check(any(sign in str(seen) for sign in signs) or getattr(seen, "errno", 0) == errno.EUCLEAN, str(seen))
        print(f"      {str(seen)[:160]}", flush=True)
        return
    finally:
        place.abandon()
    raise Failure(f"nobody has seen foreign bytes in {IGNORE_ROUNDS} rounds")


def run(place):
    rounds = place.rounds or (QUICK_ROUNDS if place.quick else ROUNDS)
    seed = random.SystemRandom().randrange(1 << 30)
    dice = random.Random(seed)
    holders = Holders(place, dice)
    kept, acknowledged, begin = [], 0, time.monotonic()
    place.format(POOL_MIB)
    place.mount()
    empty = place.free()
    for number in range(rounds):
        with place.report.step(f"kill: round {number + 1} of {rounds} (seed {seed})"):
            acknowledged += one_round(place, number, dice, holders, kept, empty)
            if number % ROUNDS_KEPT == ROUNDS_KEPT - 1:
                all_is_given_back(place, holders, empty)
                kept.clear()
        if place.report.failed:
            keep_evidence(place, kept)
            break
    print(
        f"      {acknowledged} acknowledged changes, {holders.outlived} times a holder outlived the daemon, "
        f"{holders.killed} holders killed, {(time.monotonic() - begin) / (number + 1):.1f} s a round",
        flush=True,
    )
    with place.report.step("kill: all space is free again in the end"):
        all_is_given_back(place, holders, empty)
        place.unmount()
    with place.report.step("kill: with ignore the corruption is seen"):
        ignored(place, dice)
