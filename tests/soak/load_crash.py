"""The daemon is killed under load, again and again: what was acknowledged is there, and no block is lost."""

import mmap
import os
import random
import signal
import subprocess
import sys
import time

from ack_log import AckLog
from harness import BLOCK, Failure, check, wait_until
from pool_reader import PoolReader

POOL_MIB = 1024
HERE = os.path.dirname(os.path.abspath(__file__))
ROUNDS, QUICK_ROUNDS = 50, 6
ROUNDS_KEPT = 5


class Writer(AckLog):
    """One ack_writer, its directory, and its log beside the mount."""

    def __init__(self, place, name, profile, seed):
        super().__init__(f"{name}, {profile} {seed}", place.inside(name), place.path(name + ".log"))
        os.mkdir(self.directory)
        self.place = place
        self.process = self.start([profile, self.directory, self.log, str(seed)])

    def start(self, words):
        return self.place.processes.start(
            [sys.executable, os.path.join(HERE, "ack_writer.py"), *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def status(self):
        """Its exit status, once it has ended, and what it said."""
        try:
            _, error = self.process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            self.place.processes.end(self.process)
            raise Failure(f"{self.name}: hangs after the daemon was killed") from None
        self.place.processes.end(self.process)
        return self.process.returncode, error

    def wait(self):
        status, said = self.status()
        # A store to a mapping whose filesystem is gone is SIGBUS.
        check(status in (0, -signal.SIGBUS), f"{self.name}: ended with {status}: {said.strip()[-300:]}")


def start_fio(place, direct):
    words = ["--rw=randwrite", "--bsrange=4k-256k", "--size=24m", "--numjobs=2", "--time_based", "--runtime=600"]
    engine = "libaio" if direct else "psync"
    return place.processes.start(
        ["fio", "--name=load", f"--directory={place.mountpoint}", f"--ioengine={engine}", f"--direct={direct}"]
        + ["--iodepth=8", "--fallocate=none", "--unlink=0", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=place.directory,
    )


def blocks_of_files(root):
    """What stat says that they take, directories included."""
    blocks = {}
    for where, directories, files in os.walk(root):
        for name in [".", *directories, *files]:
            status = os.lstat(os.path.join(where, name))
            blocks[status.st_ino] = status.st_blocks * 512 // BLOCK
    return sum(blocks.values())


def load_and_kill(place, number, dice):
    """Load of one kind, and the end of the daemon in the middle of it."""
    with_fio = number % 2 == 0
    profiles = ["data", "data", "names"] if with_fio else ["names", "names", "names", "data"]
    writers = [Writer(place, f"r{number}w{i}", p, dice.randrange(1 << 30)) for i, p in enumerate(profiles)]
    fio = start_fio(place, direct=number // 2 % 2) if with_fio else None
    wait_until(lambda: all(w.acknowledged() > 20 for w in writers), 120, "acknowledgements")
    time.sleep(dice.uniform(0, 1.5))
    check(place.daemon.poll() is None, f"the daemon died by itself: {place.log_tail()}")
    place.kill_daemon()
    for writer in writers:
        writer.wait()
    if fio:
        try:
            fio.wait(120)
        except subprocess.TimeoutExpired:
            raise Failure("fio hangs after the daemon was killed") from None
        finally:
            place.processes.end(fio)
    place.bury_daemon()
    return writers


def interrupted_mount(place, dice):
    """The recovery itself is killed."""
    with open(place.path("daemon.log"), "ab") as log:
        command = [place.program("daxfs"), place.pool, place.mountpoint, "-f"]
        place.daemon = place.processes.start(command, stdout=log, stderr=log)
    time.sleep(dice.uniform(0, 0.05))
    place.kill_daemon()
    daemon, place.daemon = place.daemon, None
    daemon.wait(120)
    place.processes.end(daemon)
    if place.mounted():
        wait_until(place.umount_once, 60, lambda: place.umount_error)


def check_orphaned_mapping(place):
    """Nobody may be told that bytes are safe which the daemon never got."""
    fd = os.open(place.inside("mapped"), os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(fd, bytes(BLOCK), 0)
        os.fsync(fd)
        view = mmap.mmap(fd, BLOCK)
        view[0] = 1
        place.kill_daemon()
        place.daemon.wait(120)
        for what, sync in ("msync", view.flush), ("fsync", lambda: os.fsync(fd)):
            try:
                sync()
            except OSError:
                continue
            raise Failure(f"{what} acknowledged a page that nobody could write any more")
        view.close()
    finally:
        os.close(fd)
    place.bury_daemon()
    place.mount()
    os.unlink(place.inside("mapped"))


def check_space(place, empty):
    """Three ways of counting must agree: statfs, the files' own numbers, and what the pool says to another reader."""
    reader = PoolReader(place.pool)
    in_pool, used = reader.count(), empty - place.free()
    check(used == in_pool, f"{used} blocks are not free, in the pool {in_pool} belong to somebody")
    of_files = blocks_of_files(place.mountpoint)
    check(of_files == reader.file_blocks, f"files take {of_files} blocks, in the pool {reader.file_blocks}")


def check_pool(place):
    """What fsck.daxfs says about a pool that was unmounted in good order."""
    fsck = place.program("fsck.daxfs")
    if os.path.exists(fsck):
        place.run([fsck, "-n", place.pool])


def run(place):
    rounds = place.rounds or (QUICK_ROUNDS if place.quick else ROUNDS)
    seed = random.SystemRandom().randrange(1 << 30)
    dice = random.Random(seed)
    kept = []
    acknowledged = 0
    place.format(POOL_MIB)
    place.mount()
    empty = place.free()
    with place.report.step("crash: no acknowledgement without a daemon"):
        check_orphaned_mapping(place)
    for number in range(rounds):
        load = "metadata" if number % 2 else "fio"
        with place.report.step(f"crash: kill -9 under {load}, round {number + 1} of {rounds} (seed {seed})"):
            fresh = load_and_kill(place, number, dice)
            kept += fresh
            if number % 3 == 0:
                interrupted_mount(place, dice)
            place.mount()
            for writer in kept:
                writer.verify()
            acknowledged += sum(writer.acknowledged() for writer in fresh)
            check_space(place, empty)
            if dice.random() < 0.2:
                place.unmount()
                check_pool(place)
                place.mount()
                check_space(place, empty)
            if number % ROUNDS_KEPT == ROUNDS_KEPT - 1:
                place.empty()
                place.check_free(empty)
                place.unmount()
                check_pool(place)
                place.mount()
                check(place.free() == empty, f"{place.free()} blocks are free after a remount, not {empty}")
                kept = []
        if place.report.failed:
            keep_evidence(place, kept)
            break
    with place.report.step(f"crash: {acknowledged} acknowledged changes were there; all space is free again"):
        place.empty()
        place.check_free(empty)
        place.unmount()


def keep_evidence(place, kept):
    """The pool as it was found, and the logs: for whoever looks for the cause."""
    where = f"{place.directory}.evidence"
    os.mkdir(where)
    for path in [place.pool, place.path("daemon.log"), *(writer.log for writer in kept)]:
        place.run(["cp", "--sparse=always", path, where])
    print(f"      pool and logs are kept in {where}", flush=True)
