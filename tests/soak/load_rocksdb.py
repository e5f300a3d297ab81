"""RocksDB: the daemon is killed under synced puts and deletes, flushes and compactions, and while the store recovers; every
call that has returned is there."""

import os
import random
import re
import struct
import subprocess

from engines import CACHES, figures, kill_after, rounds_of, status_of
from harness import Skip, check

POOL_MIB = 384
ROUNDS, QUICK_ROUNDS = 30, 3  # in each mode of the cache
MODES = "plain", "direct", "mmap"
HERE = os.path.dirname(os.path.abspath(__file__))
FAILED = 3
FIGURES_MIB = 640


def acknowledged(path):
    with open(path, "rb") as file:
        return sum(struct.unpack("4Q", file.read(32)))


def kill_round(place, program, mode, options, dice):
    store, acks = place.inside(mode), place.path(f"acks-{mode}")
    with open(place.path("writer.log"), "wb") as log:
        writer = place.processes.start([program, "fill", mode, store, acks, "600"], stdout=log, stderr=log)
    kill_after(place, dice.uniform(0.3, 2))
    status = status_of(writer, 120, "the writer")
    place.processes.end(writer)
    # A table that was mapped ends its reader with SIGBUS.
    check(status == FAILED or status < 0, f"the writer ended with {status}")
    place.bury_daemon()
    place.mount(options)
    if dice.random() < 0.4:
        verifier = place.processes.start([program, "verify", mode, store, acks], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        kill_after(place, dice.uniform(0, 0.3))
        status_of(verifier, 120, "the recovery")
        place.processes.end(verifier)
        place.bury_daemon()
        place.mount(options)
    place.run([program, "verify", mode, store, acks])


def soak(place, program, cache, dice, seed):
    options = f"cache={cache}"
    rounds = rounds_of(place, ROUNDS, QUICK_ROUNDS)
    with place.mounting(POOL_MIB, options):
        empty = place.free()
        for number in range(rounds):
            mode = MODES[number % len(MODES)]
            with place.report.step(f"rocksdb: {cache}, {mode}: kill -9, {number + 1} of {rounds} (seed {seed})"):
                kill_round(place, program, mode, options, dice)
            if place.report.failed:
                raise Skip("the rounds after a failure")
        told = sum(acknowledged(place.path(f"acks-{mode}")) for mode in MODES[:rounds])
        with place.report.step(f"rocksdb: {cache}: {told} calls were there; fsck; all space is free again"):
            check(told > 20 * rounds, "hardly anything was written")
            place.unmount()
            place.run([place.program("fsck.daxfs"), "-n", place.pool])
            place.mount(options)
            place.empty()
            place.check_free(empty)
    for mode in MODES[:rounds]:
        os.unlink(place.path(f"acks-{mode}"))


def measure(place, count):
    """db_bench: keys of 16 bytes, values of 100."""

    def once(directory):
        common = ["db_bench", f"--db={directory}/db", "--compression_type=none", "--threads=1"]
        said = place.run([*common, "--benchmarks=fillrandom,readrandom", f"--num={count}"])
        said += place.run([*common, "--benchmarks=fillsync", f"--num={count // 20}", "--use_existing_db=0"])
        return {
            f"db_bench {found[1]}, operations": float(found[2])
            for found in re.finditer(r"^(fillrandom|readrandom|fillsync)\s*:.*?(\d+) ops/sec", said, re.M)
        }

    return once


def run(place):
    program = place.path("rocksdb_writer")
    source = os.path.join(HERE, "rocksdb_writer.c")
    place.run(["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", program, source, "-lrocksdb"])
    seed = random.SystemRandom().randrange(1 << 30)
    dice = random.Random(seed)
    for cache in CACHES:
        soak(place, program, cache, dice, seed)
    with place.report.step("rocksdb: figures"):
        figures(place, measure(place, 20000 if place.quick else 100000), FIGURES_MIB, 1 if place.quick else 3)
