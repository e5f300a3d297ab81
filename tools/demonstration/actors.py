"""Who takes part: the holder, fio beside it, those who take memory away, and those who get it next."""

import ctypes
import errno
import json
import mmap
import os
import re
import signal
import subprocess
import time

from system import MIB, Unable, interruptions, read_line, spawn, stop

BLOCK = 4096
HELD_SECONDS = 60
FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2

libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
libc.truncate.argtypes = [ctypes.c_char_p, ctypes.c_int64]


class Answer:
    """What a libc function returned, and how long it took."""

    def __init__(self, call, *arguments):
        begin = time.perf_counter()
        failed = call(*arguments) != 0
        self.milliseconds = (time.perf_counter() - begin) * 1000
        self.error = errno.errorcode.get(ctypes.get_errno(), str(ctypes.get_errno())) if failed else None

    def __str__(self):
        return f"{self.error or 'ok'}, {self.milliseconds:.2f} ms"

    def as_json(self):
        return {"errno": self.error, "milliseconds": round(self.milliseconds, 3)}


def punch(path, offset, length):
    file = os.open(path, os.O_RDWR)
    try:
        return Answer(libc.fallocate, file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length)
    finally:
        os.close(file)


def truncate(path, size):
    return Answer(libc.truncate, os.fsencode(path), size)


def reads_as_zeroes(path, offset, length):
    with open(path, "rb") as file:
        file.seek(offset)
        data = file.read(length)
    return len(data) == length and not data.strip(b"\0")


class Holder:
    """daxfs-hold on the first bytes of a file that it makes."""

    def __init__(self, binaries, path, length, log):
        self.command = [os.path.join(binaries, "daxfs-hold"), path, "--length", str(length)]
        self.command += ["--allocate", "--interval-ms", "2"]
        self.log = log
        self.process = None
        self.exit_code = None
        self.checks = 0
        self.foreign = 0

    def start(self):
        """Returns when it holds."""
        with open(self.log, "w", encoding="utf-8") as errors, interruptions.later():
            self.process = spawn(self.command, stdout=subprocess.PIPE, stderr=errors, text=True)
        line = read_line(self.process.stdout, HELD_SECONDS)
        if not line or not line.startswith("held "):
            raise Unable(f"daxfs-hold does not hold: {self.complaint() or line or 'it said nothing'}")

    def complaint(self):
        """What it first said about bytes that are not its own, or why it failed."""
        with open(self.log, encoding="utf-8", errors="replace") as errors:
            return errors.readline().strip()

    def first_foreign(self):
        """Where it first met bytes that are not its own, and what they say."""
        line = self.complaint()
        match = re.search(r"offset (\d+) .*, found ((?:[0-9a-f]{2} ?)+)", line)
        if not match:
            return line
        text = bytes.fromhex(match[2]).decode("latin-1")
        return f"at offset {int(match[1]):,}, in its own memory, it read {text!r}"

    def release(self):
        """Ends the holding; it checks every block a last time."""
        self.process.send_signal(signal.SIGTERM)
        try:
            said, _ = self.process.communicate(timeout=HELD_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise Unable("daxfs-hold does not end after SIGTERM") from error
        self.exit_code = self.process.returncode
        for word in said.split():
            name, _, value = word.partition("=")
            if name in ("checks", "foreign"):
                setattr(self, name, int(value))

    @property
    def intact(self):
        return self.exit_code == 0 and self.foreign == 0

    def stop(self):
        stop(self.process, (signal.SIGTERM, 10), (signal.SIGKILL, 10))
        if self.process:
            self.process.stdout.close()


class Fio:
    """Random writes to a file of its own, read back and checked all the time."""

    def __init__(self, path, size, work):
        self.work = work
        self.output = os.path.join(work, "fio.json")
        self.log = os.path.join(work, "fio.log")
        # A thread, not a process: nothing of it outlives what we start and stop.
        self.common = ["fio", "--name=beside", "--thread", f"--filename={path}", f"--size={size}"]
        self.common += ["--ioengine=psync", "--direct=1"]
        self.process = None
        self.errors = None
        self.writes = 0

    def start(self):
        # Its blocks first, so that it needs none when there are none left.
        done = subprocess.run(
            [*self.common, "--rw=write", "--bs=1M"],
            cwd=self.work,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,
        )
        if done.returncode != 0:
            raise Unable(f"fio cannot write its file: {done.stderr.strip()[-300:]}")
        check = ["--verify=crc32c", "--verify_backlog=512", "--verify_fatal=0", "--verify_state_save=0"]
        endless = ["--time_based", "--runtime=600", "--output-format=json", f"--output={self.output}"]
        command = [*self.common, "--rw=randwrite", "--bs=4k", *check, *endless]
        with open(self.log, "w", encoding="utf-8") as log, interruptions.later():
            self.process = spawn(command, cwd=self.work, stdout=log, stderr=log)

    def finish(self):
        """Ends it and reads what it found."""
        ended_early = self.process.poll() is not None
        stop(self.process, (signal.SIGINT, 30), (signal.SIGKILL, 10))
        try:
            with open(self.output, encoding="utf-8", errors="replace") as output:
                text = output.read()
            # Notes may precede the object.
            job = json.loads(text[text.index("{") :])["jobs"][0]
        except (OSError, ValueError, LookupError) as error:
            with open(self.log, encoding="utf-8", errors="replace") as log:
                raise Unable(f"fio left no result: {log.read().strip()[-300:]}") from error
        self.errors = 1 if job["error"] or ended_early else 0
        self.writes = job["write"]["total_ios"]

    def stop(self):
        stop(self.process, (signal.SIGINT, 10), (signal.SIGKILL, 10))


class Others:
    """Other files: they fill all free space, past the page cache, and know what they wrote."""

    PIECE = MIB
    FILE = 16 * MIB

    def __init__(self, directory):
        self.directory = directory
        self.lengths = {}
        self.buffer = mmap.mmap(-1, self.PIECE)  # page-aligned, as O_DIRECT wants it

    def expected(self, name, offset):
        """Every block says where it belongs."""
        blocks = range(offset, offset + self.PIECE, BLOCK)
        return b"".join(f"{name} at {block:>10}, ".encode().ljust(64, b".") * (BLOCK // 64) for block in blocks)

    def fill(self):
        os.makedirs(self.directory)
        while self.fill_one(f"other-{len(self.lengths):03}"):
            pass
        return sum(self.lengths.values())

    def fill_one(self, name):
        """False when no space was left."""
        path = os.path.join(self.directory, name)
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_DIRECT, 0o644)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                return False
            raise
        length = 0
        try:
            while length < self.FILE:
                self.buffer[:] = self.expected(name, length)
                written = os.pwrite(file, self.buffer, length)
                length += written
                if written < self.PIECE:
                    return False
            return True
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return False
        finally:
            self.lengths[name] = length
            os.close(file)

    def damaged_blocks(self):
        """How many blocks do not hold what was written there."""
        damaged = 0
        for name, length in self.lengths.items():
            file = os.open(os.path.join(self.directory, name), os.O_RDONLY | os.O_DIRECT)
            try:
                for offset in range(0, length, self.PIECE):
                    size = min(self.PIECE, length - offset)
                    got = os.preadv(file, [self.buffer], offset)
                    damaged += count_differing(self.buffer[: min(got, size)], self.expected(name, offset)[:size])
            finally:
                os.close(file)
        return damaged

    def remove(self):
        for name in self.lengths:
            os.unlink(os.path.join(self.directory, name))
        os.rmdir(self.directory)


def count_differing(found, expected):
    if found == expected:
        return 0
    return sum(found[at : at + BLOCK] != expected[at : at + BLOCK] for at in range(0, len(expected), BLOCK))
