"""Holders that work on their pins while files are punched, truncated and replaced, and the free space is reused."""

import os
import random
import select
import signal
import subprocess
import sys
import threading
import time

from ack_ops import punch
from harness import BLOCK, MIB, Failure, check, wait_until
from held_file import SAW_FOREIGN, HeldFile, Holder

POOL_MIB = 96
ROUND_SECONDS = 30
ROUNDS, QUICK_ROUNDS = 20, 2
HERE = os.path.dirname(os.path.abspath(__file__))
HELD_FILES = 3
FILLERS = 2


def start_filler(place, name, seed):
    directory = place.inside(name)
    os.mkdir(directory)
    words = [os.path.join(HERE, "filler.py"), directory, str(seed)]
    return place.processes.start([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def end_filler(place, filler):
    if filler.poll() is None:
        filler.terminate()
    try:
        _, error = filler.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        raise Failure("a filler did not end within 120 s of its signal") from None
    finally:
        place.processes.end(filler)
    check(filler.returncode == 0, f"a filler ended with {filler.returncode}: {error.strip()[-300:]}")


def run_threads(files, seconds):
    """Runs each file's loop in a thread; raises the first failure."""
    deadline = time.monotonic() + seconds
    failures = []

    def work(file):
        try:
            file.run(deadline)
        except Exception as failure:  # handed on to whoever waits
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(file,), daemon=True) for file in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()) + 300)
    if failures:
        raise Failure(f"{type(failures[0]).__name__}: {failures[0]}")
    check(not any(thread.is_alive() for thread in threads), "a detach or a holder hangs")


def storm(place, policy, seed, seconds):
    place.mount(f"pin_policy={policy},short_timeout=50")
    empty = place.free()
    dice = random.Random(seed)
    fillers = [start_filler(place, f"fill{i}", dice.randrange(1 << 30)) for i in range(FILLERS)]
    files = [HeldFile(place, f"held{i}", policy, dice.randrange(1 << 30)) for i in range(HELD_FILES)]
    try:
        run_threads(files, seconds)
    finally:
        for filler in fillers:
            end_filler(place, filler)
    check_quiet(place, empty)
    place.unmount()
    return [sum(getattr(file, what) for file in files) for what in ("detaches", "refusals", "deaths")]


def check_quiet(place, empty):
    """Nobody holds anything any more."""
    status = {}

    def is_quiet():
        status.update(place.ask("status"))
        return status["pins"]["long"] == status["pins"]["short"] == status["limbo"] == status["waiting"] == 0

    wait_until(is_quiet, 60, lambda: f"no pins, nothing in limbo: {status}")
    check(not place.ask("pins") and not place.ask("limbo"), "pins or limbo are listed, though there are none")
    place.empty()
    place.check_free(empty)


def ignored(place):
    """With pin_policy=ignore the same must be seen by the holder, or the other rounds have proved nothing."""
    place.mount("pin_policy=ignore,unsafe_demo")
    path = place.inside("held")
    file = HeldFile(place, "held", "ignore", 1)
    file.write_in_pieces(path)
    holder = Holder(place, path, 10, 100, short=False, engine="mmap")
    check(holder.wait_until_held(), "the holder found no space")
    fd = os.open(path, os.O_RDWR)
    punch(fd, 0, file.BLOCKS * BLOCK)
    os.close(fd)
    fill_up(place)
    seen, _, _ = select.select([holder.child.stderr], [], [], 120)
    check(seen, "the holder has seen nothing of the files that got its blocks")
    holder.child.send_signal(signal.SIGTERM)
    status = holder.child.wait(120)
    error = holder.child.stderr.read()
    place.processes.end(holder.child)
    check(status == SAW_FOREIGN and "foreign" in error, f"the holder ended with {status}: {error[-300:]}")
    place.unmount()


def fill_up(place):
    try:
        with open(place.inside("filler"), "wb", buffering=0) as file:
            while file.write(b"\xa5" * MIB) > 0:
                pass
    except OSError:
        pass  # full: that was the aim


def run(place):
    rounds = place.rounds or (QUICK_ROUNDS if place.quick else ROUNDS)
    seed = random.SystemRandom().randrange(1 << 30)
    for number in range(rounds):
        policy = ("refuse", "defer")[number % 2]
        place.format(POOL_MIB)
        counts = None
        with place.report.step(f"pins: {policy}, round {number + 1} of {rounds} (seed {seed + number})"):
            try:
                counts = storm(place, policy, seed + number, ROUND_SECONDS)
            except BaseException:
                place.abandon()
                raise
        if counts:
            print("      {} detaches, {} refused, {} holders killed".format(*counts), flush=True)
        if place.report.failed:
            break
    place.format(POOL_MIB)
    with place.report.step("pins: ignore, and the holder sees the corruption"):
        ignored(place)
