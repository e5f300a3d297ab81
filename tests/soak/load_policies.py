"""Many holders, and many who take blocks away, on a few files, while policies are switched at random."""

import collections
import fcntl
import json
import os
import random
import struct
import subprocess
import sys
import time

from harness import Failure, check
from held_file import SAW_FOREIGN
from load_pins import check_quiet, end_filler, start_filler
from policy_actor import FILES, ioc

POOL_MIB = 48
MINUTES, QUICK_MINUTES = 10, 1
HOLDERS, DETACHERS, FILLERS = 6, 4, 2
IGNORE_SECONDS = 60
HERE = os.path.dirname(os.path.abspath(__file__))
POLICY = struct.Struct("=II4000s")  # struct daxfs_policy_args


def switch(place, text):
    directory = os.open(place.mountpoint, os.O_RDONLY)
    try:
        fcntl.ioctl(directory, ioc(3, 11, POLICY.size), bytearray(POLICY.pack(len(text), 0, text.encode())))
    finally:
        os.close(directory)


def some_policy(dice):
    """A safe one, under which nobody waits for long."""
    return ",".join(
        (
            "pin_policy=" + dice.choice(["refuse", "defer", "wait", "break"]),
            "on_timeout=" + dice.choice(["refuse", "defer"]),
            "longterm=" + dice.choice(["allow", "allow", "lease", "forbid"]),
            *(f"{name}_timeout={dice.choice([1, 20, 300])}ms" for name in ("wait", "break", "short")),
            f"limbo_limit={dice.choice([0, 2, 25])}%",
        )
    )


class Actors:
    def __init__(self, place, dice):
        self.place, self.dice = place, dice
        self.roles = [("hold", i) for i in range(HOLDERS)] + [("detach", i) for i in range(DETACHERS)]
        self.children = [self.start(*role) for role in self.roles]
        self.deaths = 0

    def start(self, role, number):
        words = [role, self.place.mountpoint, self.place.pool, number, HOLDERS, self.dice.randrange(1 << 30)]
        return self.place.processes.start(
            [sys.executable, os.path.join(HERE, "policy_actor.py"), *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def failures(self):
        return [child for child in self.children if child.poll() is not None]

    def kill_one(self):
        """A holder, or one who may be waiting; another takes its place."""
        i = self.dice.randrange(len(self.children))
        child = self.children[i]
        child.kill()
        child.communicate(timeout=120)
        check(child.returncode in (-9, 0), f"{self.roles[i]}: exit status {child.returncode}")
        self.place.processes.end(child)
        self.children[i] = self.start(*self.roles[i])
        self.deaths += 1

    def end(self):
        """What they did, and their exit statuses and complaints."""
        counts, ends = collections.Counter(), []
        for child in self.children:
            try:
                out, error = child.communicate("", timeout=120)
            except subprocess.TimeoutExpired:
                raise Failure("an actor did not end: a request hangs") from None
            finally:
                self.place.processes.end(child)
            ends.append((child.returncode, error.strip()[-400:]))
            if out:
                counts.update(json.loads(out))
        return counts, ends


def make_files(place):
    for i in range(FILES):
        open(place.inside(f"file{i}"), "wb").close()


def storm(place, seconds, dice):
    place.mount("short_timeout=50ms")
    empty = place.free()
    make_files(place)
    fillers = [start_filler(place, f"fill{i}", dice.randrange(1 << 30)) for i in range(FILLERS)]
    actors = Actors(place, dice)
    switches = 0
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end and not actors.failures():
            switch(place, some_policy(dice))
            switches += 1
            time.sleep(dice.uniform(0.05, 1))
            if dice.random() < 0.1:
                actors.kill_one()
    finally:
        switch(place, "defer,longterm=allow,limbo_limit=25%")
        counts, ends = actors.end()
        for filler in fillers:
            end_filler(place, filler)
    for status, error in ends:
        check(status == 0, f"an actor ended with {status}: {error}")
    for name in os.listdir(place.mountpoint):
        # Left behind by those who were killed.
        if name.startswith("file") and name.count("."):
            os.unlink(place.inside(name))
    for i in range(FILES):
        os.truncate(place.inside(f"file{i}"), 0)
    check_quiet(place, empty)
    place.unmount()
    place.run([place.program("fsck.daxfs"), "-n", place.pool])
    return {**counts, "switches": switches, "killed": actors.deaths}


def ignored(place, dice):
    """The same with pin_policy=ignore must be seen, or the rest has proved nothing."""
    place.mount("pin_policy=ignore,unsafe_demo,short_timeout=1ms")
    make_files(place)
    fillers = [start_filler(place, f"fill{i}", dice.randrange(1 << 30)) for i in range(FILLERS)]
    actors = Actors(place, dice)
    end = time.monotonic() + IGNORE_SECONDS
    while time.monotonic() < end and not actors.failures():
        time.sleep(0.1)
    _, ends = actors.end()
    for filler in fillers:
        # It sees holders write into its files, and says so; that is not its fault.
        place.processes.end(filler)
    check(any(status == SAW_FOREIGN for status, _ in ends), f"nobody has seen foreign bytes: {ends}")
    place.unmount()


def run(place):
    minutes = place.minutes or (QUICK_MINUTES if place.quick else MINUTES)
    seed = random.SystemRandom().randrange(1 << 30)
    for name, work in (
        (f"{minutes} minutes of switched policies", lambda dice: storm(place, minutes * 60, dice)),
        ("ignore, and the holders see the corruption", lambda dice: ignored(place, dice)),
    ):
        place.format(POOL_MIB)
        counts = None
        with place.report.step(f"policies: {name} (seed {seed})"):
            try:
                counts = work(random.Random(seed))
            except BaseException:
                place.abandon()
                raise
        if counts:
            print("      " + ", ".join(f"{what} {n}" for what, n in sorted(counts.items())), flush=True)
