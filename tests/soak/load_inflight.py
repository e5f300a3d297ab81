"""Holders that die while requests of theirs are in flight: io_uring reads and writes between pinned memory and a device
that answers late. Others take the blocks away and fill the pool at once. No byte of the device may come into another
file, no byte of another file may go to the device, and all space is free again in the end."""

import errno
import json
import mmap
import os
import random
import signal
import subprocess
import threading
import time

from ack_ops import punch
from harness import MIB, Failure, check, wait_until

POOL_MIB = 16
ROUNDS, QUICK_ROUNDS = 500, 10
UNSAFE_ROUNDS = 40
REQUESTS = 8
HELD = REQUESTS * 128 * 1024
POLICIES = ("refuse", "defer", "wait", "break")
GRACE = 30  # seconds; the device takes less than one
WAIT = 120


def compile_program(place, name, sources, packages):
    program = place.path(name)
    flags = place.run(["pkg-config", "--cflags", "--libs", *packages]).split()
    sources = [os.path.join(place.source, source) for source in sources]
    common = ["-O2", "-Wall", "-Wextra", "-Werror", "-I", place.source, "-o", program]
    if any(source.endswith(".cpp") for source in sources):
        objects = place.path(name + ".o")
        place.run(["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-I", place.source, "-c", "-o", objects, sources[0]])
        place.run(["c++", "-std=c++20", *common, objects, *sources[1:], *flags])
    else:
        place.run(["cc", *common, *sources, *flags])
    return program


def make_directory(place):
    os.makedirs(os.path.dirname(held_path(place)), exist_ok=True)


def held_path(place):
    return place.inside("dir", "held")


class SlowDevice:
    """slow_file.c on a directory of its own."""

    def __init__(self, place, program):
        self.place, self.directory = place, place.path("slow")
        os.mkdir(self.directory)
        self.path = os.path.join(self.directory, "device")
        self.server = place.processes.start(
            [program, self.directory, str(REQUESTS)], stdout=subprocess.PIPE, text=True
        )
        self.foreign = 0
        self.await_word("ready")

    def await_word(self, word):
        """Its requests have deadlines by themselves: whoever is waited for lives, or the run has failed before."""
        for line in self.server.stdout:
            if line.startswith("foreign"):
                self.foreign += 1
            elif line.strip() == word:
                return
            else:
                break
        raise Failure(f"the slow device says something else than {word}")

    def answer(self):
        self.server.send_signal(signal.SIGUSR1)

    def end(self):
        subprocess.run(["umount", "-l", self.directory], capture_output=True, check=False)
        self.place.processes.end(self.server)


class Victims:
    """Files that take every block that becomes free, and know what is in them."""

    def __init__(self, place, number):
        self.place, self.number = place, number
        self.buffer = mmap.mmap(-1, MIB)  # aligned, for O_DIRECT: no page cache hides what a device has done
        line = f"victim of round {number} ".ljust(63, ".").encode() + b"\n"
        self.buffer[:] = line * (MIB // 64)
        self.files = []
        self.open_next()

    def open_next(self):
        path = self.place.inside(f"victim{len(self.files)}")
        self.files.append([path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600), 0])

    def fill(self):
        """Until there is no space. Each time in a file of its own: extents of all sizes."""
        file = self.files[-1]
        while True:
            try:
                file[2] += os.pwrite(file[1], self.buffer, file[2])
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                break
        if file[2] != 0:
            self.open_next()

    def damaged(self):
        """How many MiB of them are not what was written."""
        read, wanted, found = mmap.mmap(-1, MIB), memoryview(self.buffer), 0
        for _, fd, size in self.files:
            for at in range(0, size, MIB):
                length = min(MIB, size - at)
                check(os.preadv(fd, [memoryview(read)[:length]], at) == length, "a victim is shorter than it was")
                found += memoryview(read)[:length] != wanted[:length]
        return found

    def remove(self):
        for path, fd, _ in self.files:
            os.close(fd)
            os.unlink(path)


class Detacher(threading.Thread):
    """Takes the blocks of the holder's file away, again and again until it succeeds."""

    def __init__(self, place, dice):
        super().__init__(daemon=True)
        # In a directory of their own: the kernel locks it while a rename waits.
        self.path, self.other = held_path(place), place.inside("dir", "other")
        self.kind = dice.choice(["punch", "truncate", "trunc", "rename"])
        self.succeeded_at, self.refused, self.failure = None, 0, None
        if self.kind == "rename":
            os.close(os.open(self.other, os.O_WRONLY | os.O_CREAT, 0o600))

    def detach(self):
        if self.kind == "rename":
            os.rename(self.other, self.path)
        elif self.kind == "truncate":
            os.truncate(self.path, 0)
        elif self.kind == "trunc":
            os.close(os.open(self.path, os.O_WRONLY | os.O_TRUNC))
        else:
            fd = os.open(self.path, os.O_RDWR)
            try:
                punch(fd, 0, HELD)
            finally:
                os.close(fd)

    def run(self):
        deadline = time.monotonic() + WAIT
        while self.succeeded_at is None:
            try:
                self.detach()
                self.succeeded_at = time.monotonic()
            except OSError as error:
                self.refused += 1
                if error.errno != errno.ETXTBSY or time.monotonic() > deadline:
                    self.failure = error
                    return
                time.sleep(0.002)


class Inflight:
    def __init__(self, place, slow, holder, policy, dice):
        self.place, self.slow, self.holder, self.policy, self.dice = place, slow, holder, policy, dice
        self.safe = True
        self.damaged = 0

    def status(self):
        with open(self.place.inside(".daxfs", "status"), encoding="utf-8") as file:
            return json.load(file)

    def start_holder(self):
        self.form = self.dice.choice(["kill", "kill", "kill", "terminate", "exit", "exec", "child"])
        words = [held_path(self.place), self.slow.path, str(REQUESTS), "child" if self.form == "child" else "plain"]
        self.child = self.place.processes.start(
            [self.holder, *words, *(["lease"] if self.policy == "break" else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        said = self.child.stdout.readline().split()
        check(len(said) == 2 and said[0] == "submitted", f"the holder says {said}")
        return int(said[1])

    def end_holder(self, process):
        if self.form in ("exit", "exec"):
            self.child.stdin.write("x" if self.form == "exit" else "e")
            self.child.stdin.flush()
        else:
            os.kill(process, signal.SIGTERM if self.form == "terminate" else signal.SIGKILL)

    def round(self, number):
        process = self.start_holder()
        try:
            self.slow.await_word("held")
            self.meanwhile(process, number)
        finally:
            self.place.processes.end(self.child)
            self.child.stdin.close()
            self.child.stdout.close()

    def meanwhile(self, process, number):
        detacher, victims = Detacher(self.place, self.dice), Victims(self.place, number)
        self.end_holder(process)
        detacher.start()
        end = time.monotonic() + self.dice.uniform(0, 0.05)
        while True:
            victims.fill()
            if time.monotonic() > end:
                break
            time.sleep(0.002)
        done = detacher.succeeded_at is not None
        limbo = self.status()["limbo"]
        answered_at = time.monotonic()
        self.slow.answer()
        detacher.join(WAIT)
        check(not detacher.is_alive() and not detacher.failure, f"{detacher.kind}: {detacher.failure or 'hangs'}")
        self.slow.await_word("idle")
        self.place_is_quiet(victims)
        if self.safe and self.policy == "defer":
            # What is renamed over keeps its blocks until the holder has closed it.
            expected = (0, HELD) if detacher.kind == "rename" or not done else (HELD,)
            check(limbo in expected, f"{detacher.kind}: {limbo} bytes in limbo while the device is at work")
        elif self.safe:
            check(detacher.succeeded_at > answered_at, f"{detacher.kind} of a {self.form}: done before the device was")
        damaged = victims.damaged()
        self.damaged += damaged
        check(
            not self.safe or damaged + self.slow.foreign == 0,
            f"{detacher.kind} of a {self.form}: foreign bytes in {damaged} MiB of others' files, "
            f"{self.slow.foreign} requests wrote others' bytes to the device",
        )
        victims.remove()
        os.unlink(held_path(self.place))

    def place_is_quiet(self, victims):
        status = {}

        def is_quiet():
            victims.fill()
            status.update(self.status())
            return status["pins"]["long"] == status["limbo"] == 0

        wait_until(is_quiet, WAIT, lambda: f"no pins, nothing in limbo: {status}")
        victims.fill()


def soak(place, slow, holder, policy, rounds, dice):
    place.mount(f"pin_policy={policy},exit_grace={GRACE}s")
    make_directory(place)
    empty, load = place.free(), Inflight(place, slow, holder, policy, dice)
    begin = time.monotonic()
    for number in range(rounds):
        load.round(number)
        place.check_free(empty)
    place.unmount()
    place.run([place.program("fsck.daxfs"), "-n", place.pool])
    print(f"      {policy}: {rounds} rounds, {(time.monotonic() - begin) / rounds:.2f} s each", flush=True)


def unsafe(place, slow, holder, dice):
    """Without the grace foreign bytes must be seen, or the rest has proved nothing."""
    place.mount("pin_policy=wait,exit_grace=0")
    make_directory(place)
    load = Inflight(place, slow, holder, "wait", dice)
    load.safe = False
    for number in range(UNSAFE_ROUNDS):
        load.round(number)
        if load.damaged and slow.foreign:
            break
    place.unmount()
    print(f"      {load.damaged} MiB of others' files and {slow.foreign} requests damaged in {number + 1} rounds", flush=True)
    check(load.damaged and slow.foreign, f"nobody has seen foreign bytes in {UNSAFE_ROUNDS} rounds")


def run(place):
    rounds = place.rounds or (QUICK_ROUNDS if place.quick else ROUNDS)
    seed = random.SystemRandom().randrange(1 << 30)
    client = [f"client/{name}.cpp" for name in ("pins", "maps", "leases")]
    slow_program = compile_program(place, "slow_file", ["tests/soak/slow_file.c"], ["fuse3"])
    holder = compile_program(place, "inflight_holder", ["tests/soak/inflight_holder.c", *client], ["liburing"])
    slow = SlowDevice(place, slow_program)
    try:
        place.format(POOL_MIB)
        for policy in POLICIES:
            with place.report.step(f"inflight: {policy}, {rounds} holders die with requests in flight (seed {seed})"):
                soak(place, slow, holder, policy, rounds, random.Random(f"{seed} {policy}"))
            if place.report.failed:
                place.abandon()
                return
        with place.report.step("inflight: with exit_grace=0 the corruption is seen"):
            unsafe(place, slow, holder, random.Random(seed))
    finally:
        slow.end()
