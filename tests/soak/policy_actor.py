"""One of those who meet at the gate, for load_policies.py: a holder that works on what it pinned, or one who takes
blocks away. Works until its standard input ends; then says in one line of JSON what it did.

    policy_actor.py hold|detach DIRECTORY POOL NUMBER OF_HOLDERS SEED

Each holder has a stripe of every file to itself: nobody else writes there. So what it finds in pinned blocks is what it
has put there, whatever has become of the file."""

import errno
import fcntl
import json
import mmap
import os
import random
import select
import signal
import struct
import sys
import time

from ack_ops import punch
from held_file import ANSWER, EXTENT, EXTENTS_PER_CALL, SAW_FOREIGN
from harness import BLOCK

FILES = 4
STRIPE = 12  # blocks
PIN_SHORT, PIN_WRITE, PIN_ALLOCATE, PIN_NOWAIT = 1, 2, 4, 8
LEASE_EXCLUSIVE, LEASE_NOWAIT = 1, 2
RANGE = struct.Struct("=QQIIQ")  # struct daxfs_pin_args and daxfs_lease_args
EVENT_SIZE = 48


def ioc(direction, number, size):
    return (direction << 30) | (size << 16) | (0xDA << 8) | number


PIN, UNPIN = ioc(3, 1, RANGE.size), ioc(1, 2, 8)
PIN_EXTENTS = ioc(3, 3, ANSWER.size + EXTENTS_PER_CALL * EXTENT.size)
LEASE, UNLEASE = ioc(3, 7, RANGE.size), ioc(1, 8, 8)
NEXT_EVENT = ioc(2, 9, EVENT_SIZE)


def attempt(allowed, call, *arguments):
    """The errno of a call, which must be 0 or allowed."""
    try:
        call(*arguments)
    except OSError as error:
        if error.errno not in allowed:
            raise
        return error.errno
    return 0


class Actor:
    def __init__(self, directory, pool, number, holders, seed):
        self.directory, self.number, self.holders = directory, number, holders
        self.dice = random.Random(seed)
        self.counts = {}
        fd = os.open(pool, os.O_RDWR)
        self.pool = mmap.mmap(fd, os.fstat(fd).st_size)
        os.close(fd)

    def count(self, what):
        self.counts[what] = self.counts.get(what, 0) + 1

    def file(self):
        return os.path.join(self.directory, f"file{self.dice.randrange(FILES)}")

    # --- a holder ---

    def take(self, request, fd, first, count, flags):
        args = bytearray(RANGE.pack(first * BLOCK, count * BLOCK, flags, 0, 0))
        allowed = (errno.EAGAIN, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSPC, errno.EBADF)
        error = attempt(allowed, fcntl.ioctl, fd, request, args)
        if error:
            self.count(errno.errorcode[error])
            return None
        return RANGE.unpack(args)[4]

    def pinned_places(self, fd, pin):
        buffer = bytearray(ANSWER.size + EXTENTS_PER_CALL * EXTENT.size)
        ANSWER.pack_into(buffer, 0, pin, 0, 0, 0, 0, 0)
        fcntl.ioctl(fd, PIN_EXTENTS, buffer)
        places = []
        for i in range(ANSWER.unpack_from(buffer)[4]):
            _, pool, length, _, _ = EXTENT.unpack_from(buffer, ANSWER.size + i * EXTENT.size)
            places += range(pool, pool + length, BLOCK)
        return places

    def stamp(self, index):
        return struct.pack("=IIII", self.number, self.serial, index, 0xDAF5DAF5) * (BLOCK // 16)

    def verify(self, places):
        for index, place in enumerate(places):
            if self.pool[place : place + BLOCK] != self.stamp(index):
                sys.stderr.write(f"foreign bytes at {place}: {bytes(self.pool[place:place + 32])!r}\n")
                self.report()
                os._exit(SAW_FOREIGN)

    def hold(self):
        dice = self.dice
        try:
            fd = os.open(self.file(), os.O_RDWR)
        except OSError as error:
            if error.errno != errno.ESTALE:  # as in detach()
                raise
            return
        try:
            first = self.number * STRIPE + dice.randrange(STRIPE)
            count = dice.randrange(1, self.number * STRIPE + STRIPE - first + 1)
            lease = None
            if dice.random() < 0.7:
                flags = LEASE_EXCLUSIVE if dice.random() < 0.1 else 0
                lease = self.take(LEASE, fd, first, count, flags | (LEASE_NOWAIT if dice.random() < 0.3 else 0))
            flags = PIN_WRITE | PIN_ALLOCATE
            flags |= (PIN_SHORT if dice.random() < 0.2 else 0) | (PIN_NOWAIT if dice.random() < 0.3 else 0)
            pin = self.take(PIN, fd, first, count, flags)
            if pin is not None:
                self.work_on(fd, pin, count)
                self.count("pins")
                if dice.random() < 0.7:
                    fcntl.ioctl(fd, UNPIN, struct.pack("=Q", pin))
                    if lease is not None:
                        # Its time may have been up.
                        attempt((errno.ENOENT,), fcntl.ioctl, fd, UNLEASE, struct.pack("=Q", lease))
        finally:
            os.close(fd)

    def work_on(self, fd, pin, count):
        self.serial = self.dice.randrange(1 << 32)
        places = self.pinned_places(fd, pin)
        if len(places) != count:
            raise RuntimeError(f"{len(places)} blocks pinned, not {count}")
        for index, place in enumerate(places):
            self.pool[place : place + BLOCK] = self.stamp(index)
        poll = select.poll()
        poll.register(fd, select.POLLPRI)
        end = time.monotonic() + self.dice.choice([0, 0.01, 0.05, 0.2])
        obeys = self.dice.random() < 0.8
        while time.monotonic() < end:
            self.verify(places)
            asked = poll.poll(5)
            if asked and attempt((errno.EAGAIN,), fcntl.ioctl, fd, NEXT_EVENT, bytearray(EVENT_SIZE)) == 0:
                self.count("asked")
                if obeys:
                    break
        self.verify(places)

    # --- one who takes blocks away ---

    def detach(self):
        dice, path = self.dice, self.file()
        blocks = self.holders * STRIPE
        kind = dice.choice(["punch", "punch", "truncate", "O_TRUNC", "rename"])
        # ESTALE: the file was found under its name, and then replaced by another one (docs/decisions.md).
        allowed = (errno.ETXTBSY, errno.ENOENT, errno.ENOSPC, errno.ESTALE)
        if kind == "punch":
            first = dice.randrange(blocks)
            error = attempt(allowed, self.punch, path, first, dice.randrange(1, blocks - first + 1))
        elif kind == "truncate":
            error = attempt(allowed, os.truncate, path, dice.randrange(blocks) * BLOCK)
        elif kind == "O_TRUNC":
            error = attempt(allowed, self.open_truncating, path)
        else:
            error = attempt(allowed, self.replace, path)
        self.count(errno.errorcode[error] if error else "detaches")

    @staticmethod
    def punch(path, first, count):
        fd = os.open(path, os.O_RDWR)
        try:
            punch(fd, first * BLOCK, count * BLOCK)
        finally:
            os.close(fd)

    @staticmethod
    def open_truncating(path):
        os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))

    def replace(self, path):
        new = f"{path}.{os.getpid()}"
        try:
            with open(new, "wb", buffering=0) as file:
                for block in self.dice.sample(range(self.holders * STRIPE), 10):
                    os.pwrite(file.fileno(), b"\x5a" * BLOCK, block * BLOCK)
            os.rename(new, path)
        except OSError:
            os.unlink(new)
            raise

    def report(self):
        print(json.dumps(self.counts), flush=True)


def main():
    role, directory, pool, number, holders, seed = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    actor = Actor(directory, pool, int(number), int(holders), int(seed))
    act = actor.hold if role == "hold" else actor.detach
    while not select.select([sys.stdin], [], [], 0)[0]:
        act()
        if role == "detach":
            time.sleep(actor.dice.random() * 0.01)
    actor.report()


if __name__ == "__main__":
    main()
