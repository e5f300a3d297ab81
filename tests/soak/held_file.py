"""A file in many pieces, a holder on it, and everything that takes blocks away: each answer is known in advance."""

import errno
import fcntl
import os
import random
import select
import struct
import subprocess
import threading
import time

from ack_ops import punch
from harness import BLOCK, Failure, check, wait_until

SAW_FOREIGN = 3
EXTENTS_PER_CALL = 500
ANSWER = struct.Struct("=QQQQII")  # struct daxfs_extents_args, before the extents
EXTENT = struct.Struct("=QQQII")
IOC_EXTENTS = (3 << 30) | ((ANSWER.size + EXTENTS_PER_CALL * EXTENT.size) << 16) | (0xDA << 8) | 4


def block_map(fd, blocks):
    """File block -> (pool block, pins over its extent), for the first `blocks` blocks of the file."""
    found = {}
    cursor = 0
    while True:
        buffer = bytearray(ANSWER.size + EXTENTS_PER_CALL * EXTENT.size)
        ANSWER.pack_into(buffer, 0, 0, 0, blocks * BLOCK, cursor, 0, 0)
        fcntl.ioctl(fd, IOC_EXTENTS, buffer)
        *_, cursor, count, more = ANSWER.unpack_from(buffer)
        for i in range(count):
            offset, pool, length, _, pins = EXTENT.unpack_from(buffer, ANSWER.size + i * EXTENT.size)
            for block in range(length // BLOCK):
                found[offset // BLOCK + block] = (pool // BLOCK + block, pins)
        if not more:
            return found


class Holder:
    """daxfs-hold --verify on a range of blocks."""

    def __init__(self, place, path, first, count, short, engine):
        self.place = place
        self.first, self.count = first, count
        words = ["--offset", str(first * BLOCK), "--length", str(count * BLOCK), "--allocate", "--verify", "--json"]
        words += ["--engine", engine]
        self.child = place.processes.start(
            [place.program("daxfs-hold"), path, *words, "--interval-ms", "3"] + (["--short"] if short else []),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_until_held(self):
        ready, _, _ = select.select([self.child.stdout], [], [], 120)
        line = self.child.stdout.readline() if ready else "nothing within 120 s"
        if '"held"' in line:
            return True
        status = self.child.wait(30) if not line else None
        error = self.child.stderr.read() if not line else ""
        self.place.processes.end(self.child)
        # The fillers can leave no room for its holes.
        check(status is not None and f'"errno":{errno.ENOSPC}' in error, f"holder did not hold: {line} {error[-300:]}")
        return False

    def end(self, mortal):
        """After SIGTERM, or after its death; either way it must not have seen anybody else's bytes."""
        if not mortal:
            self.child.terminate()
        try:
            _, error = self.child.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            raise Failure("a holder did not end within 120 s of its signal") from None
        finally:
            self.place.processes.end(self.child)
        said = " | ".join(error.strip().splitlines()[:3])
        check("foreign" not in error and self.child.returncode != SAW_FOREIGN, f"a holder saw: {said}")
        check(self.child.returncode == (-9 if mortal else 0), f"holder: exit status {self.child.returncode}: {said}")


class HeldFile:
    BLOCKS = 160

    def __init__(self, place, name, policy, seed):
        self.place, self.policy = place, policy
        self.path = place.inside(name)
        self.dice = random.Random(seed)
        self.content = {}  # file block -> the byte that fills it; missing: not known
        self.size = 0  # in blocks
        self.detaches = self.refusals = self.deaths = 0

    def run(self, deadline):
        while time.monotonic() < deadline:
            self.write_in_pieces(self.path)
            self.hold_and_detach()

    # --- the file ---

    def fill_byte(self):
        return self.dice.randrange(1, 256)

    def write_in_pieces(self, path):
        """Blocks in random order: next to nothing of the file is contiguous."""
        order = list(range(self.BLOCKS))
        self.dice.shuffle(order)
        content = {}
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            os.ftruncate(fd, self.BLOCKS * BLOCK)
            for block in order:
                byte = self.fill_byte()
                if self.write_block(fd, block, byte):
                    content[block] = byte
        finally:
            os.close(fd)
        self.size, self.content = self.BLOCKS, content

    @staticmethod
    def write_block(fd, block, byte):
        try:
            return os.pwrite(fd, bytes([byte]) * BLOCK, block * BLOCK) == BLOCK
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return False

    def verify_some(self, fd):
        for block in self.dice.sample(sorted(self.content), min(8, len(self.content))):
            data = os.pread(fd, BLOCK, block * BLOCK)
            if data != bytes([self.content[block]]) * BLOCK:
                raise Failure(f"{self.path}, block {block}: {data[:32]!r} instead of byte {self.content[block]}")

    # --- the holder ---

    def hold_and_detach(self):
        count = self.dice.choice([1, 3, 40, 100])
        first = self.dice.randrange(self.BLOCKS - count + 1)
        holder = Holder(
            self.place, self.path, first, count, self.dice.random() < 0.2, self.dice.choice(["mmap", "io_uring"])
        )
        if not holder.wait_until_held():
            return
        for block in range(first, first + count):
            self.content.pop(block, None)
        fd = os.open(self.path, os.O_RDWR)
        try:
            blocks = block_map(fd, self.BLOCKS)
        finally:
            os.close(fd)
        pinned = {block: blocks[block][0] for block in range(first, first + count)}
        check(all(blocks[block][1] > 0 for block in pinned), f"{self.path}: an extent shows no pin")
        mortal = self.dice.random() < 0.5
        # Death comes at any moment, so from here on both answers are right.
        killer = threading.Timer(self.dice.uniform(0, 1), holder.child.kill) if mortal else None
        if killer:
            killer.start()
            self.deaths += 1
        try:
            for _ in range(self.dice.randrange(1, 8)):
                self.detach(pinned, mortal)
        finally:
            if killer:
                killer.join()
            holder.end(mortal)
        pid = holder.child.pid
        wait_until(
            lambda: all(pin["pid"] != pid for pin in self.place.ask("pins")), 60, "the end of an ended holder's pins"
        )

    # --- taking blocks away ---

    def detach(self, pinned, mortal):
        dice = self.dice
        kind = dice.choice(["punch", "punch", "punch", "truncate", "trunc", "rename"])
        first, end = 0, self.BLOCKS
        if kind == "punch":
            first = dice.randrange(self.BLOCKS)
            end = min(self.BLOCKS, first + dice.choice([1, 2, 30, self.BLOCKS]))
        elif kind == "truncate":
            first = dice.randrange(self.BLOCKS)
        fd = os.open(self.path, os.O_RDWR)
        try:
            before, blocks = os.fstat(fd), block_map(fd, self.BLOCKS)
            in_the_way = {b for b, pool in pinned.items() if first <= b < end and blocks.get(b, (0,))[0] == pool}
            # Rename puts another file in this one's place, which keeps its blocks for as long as it is open.
            error = self.attempt(kind, fd, first, end)
            expected = errno.ETXTBSY if self.policy == "refuse" and in_the_way else 0
            what = f"{self.path}: {kind} of blocks {first} to {end}, {len(in_the_way)} of them pinned"
            check(error == expected or (mortal and error == 0), f"{what}: errno {error}, not {expected}")
            self.detaches += 1
            if error:
                self.refusals += 1
                after = os.fstat(fd)
                # The end of a holder, which may come meanwhile, is a modification.
                times = () if mortal else ("st_mtime_ns", "st_ctime_ns")
                for name in "st_size", "st_blocks", *times:
                    same = getattr(before, name) == getattr(after, name)
                    check(same, f"{what}: refused, but {name} has changed")
                now = {b: pool for b, (pool, _) in block_map(fd, self.BLOCKS).items()}
                check(now == {b: pool for b, (pool, _) in blocks.items()}, f"{what}: refused, but blocks have moved")
                return
            if kind == "rename":
                return
            left = block_map(fd, self.BLOCKS)
            check(not any(first <= block < end for block in left), f"{what}: blocks are left there")
            if self.policy == "defer" and in_the_way and not mortal:
                self.check_limbo({pinned[block] for block in in_the_way}, what)
            self.after_detach(kind, fd, first, end)
        finally:
            os.close(fd)

    def attempt(self, kind, fd, first, end):
        other = self.path + ".new"
        try:
            if kind == "punch":
                punch(fd, first * BLOCK, (end - first) * BLOCK)
            elif kind == "truncate":
                os.ftruncate(fd, first * BLOCK)
            elif kind == "trunc":
                os.close(os.open(self.path, os.O_WRONLY | os.O_TRUNC))
            else:
                size, content = self.size, self.content
                self.write_in_pieces(other)
                try:
                    os.rename(other, self.path)
                except OSError:
                    self.size, self.content = size, content
                    os.unlink(other)
                    raise
        except OSError as error:
            if error.errno != errno.ETXTBSY:
                raise
            return error.errno
        return 0

    def check_limbo(self, pool_blocks, what):
        for run in self.place.ask("limbo"):
            if run["pins"] > 0:
                start = run["pool_offset"] // BLOCK
                pool_blocks -= set(range(start, start + run["length"] // BLOCK))
        check(not pool_blocks, f"{what}: {len(pool_blocks)} pinned blocks are not in limbo")

    def after_detach(self, kind, fd, first, end):
        """Zeroes where blocks were; then, sometimes, new bytes, which the holder must not see."""
        if kind != "punch":
            check(os.fstat(fd).st_size == first * BLOCK, f"{self.path}: size {os.fstat(fd).st_size} after {kind}")
            os.ftruncate(fd, self.BLOCKS * BLOCK)
        for block in range(first, end):
            self.content[block] = 0
        if self.dice.random() < 0.5:
            for block in self.dice.sample(range(first, end), min(20, end - first)):
                byte = self.fill_byte()
                if self.write_block(fd, block, byte):
                    self.content[block] = byte
        self.verify_some(fd)
