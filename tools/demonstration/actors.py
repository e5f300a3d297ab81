"""Who takes part beside the holder: fio, those who take memory away, and those who get it next."""

import errno
import json
import mmap
import os
import signal
import subprocess
import sys

from system import MIB, Unable, interruptions, read_line, spawn, stop

BLOCK = 4096
TAKER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "taker.py")
ANSWER_SECONDS = 60


class Answer:
    """What a system call returned, and how long it took."""

    def __init__(self, error, begin, end):
        self.error = error  # the errno's name, or None
        self.begin = begin  # CLOCK_MONOTONIC
        self.end = end

    @property
    def seconds(self):
        return self.end - self.begin

    @property
    def result(self):
        return self.error or "ok"

    @property
    def took(self):
        return duration(self.seconds)

    def __str__(self):
        return f"{self.result}, {self.took}"

    def as_json(self):
        return {"errno": self.error, "milliseconds": round(self.seconds * 1000, 3)}


def duration(seconds):
    if seconds >= 1:
        return f"{seconds:.2f} s"
    milliseconds = seconds * 1000
    digits = 0 if milliseconds >= 100 else 1 if milliseconds >= 10 else 2
    return f"{milliseconds:.{digits}f} ms"


class Taker:
    """Somebody who takes memory away: a process that does one system call after the other, as it is asked."""

    def __init__(self, log):
        self.log = log
        self.process = None

    def start(self):
        command = [sys.executable, "-I", "-S", TAKER]
        with open(self.log, "w", encoding="utf-8") as errors, interruptions.later():
            # Bytes, unbuffered: select() must see what there is.
            self.process = spawn(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, bufsize=0)
        if not read_line(self.process.stdout, ANSWER_SECONDS):
            raise Unable(self.trouble("does not start"))

    def trouble(self, what):
        with open(self.log, encoding="utf-8", errors="replace") as errors:
            return f"the process that takes memory away {what}: {errors.read().strip()[-300:]}"

    def ask(self, *request):
        """Does not wait for the answer."""
        self.process.stdin.write((json.dumps(request) + "\n").encode())

    def answer(self):
        answer = self.answer_within(ANSWER_SECONDS)
        if answer:
            return answer
        raise Unable(self.trouble(f"has no answer after {ANSWER_SECONDS} s"))

    def answer_within(self, seconds):
        """None if there is none by then."""
        line = read_line(self.process.stdout, seconds)
        if not line:
            return None
        said = json.loads(line)
        return Answer(said["errno"], said["begin"], said["end"])

    def call(self, *request):
        self.ask(*request)
        return self.answer()

    def stop(self):
        # While it waits in a system call, a signal ends that.
        stop(self.process, (signal.SIGTERM, 10), (signal.SIGKILL, 10))
        if self.process:
            self.process.stdin.close()
            self.process.stdout.close()


def reads_as_zeroes(path, offset, length):
    with open(path, "rb") as file:
        file.seek(offset)
        data = file.read(length)
    return len(data) == length and not data.strip(b"\0")


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
        # Leaves the processor to the others: it is there to verify, not to be fast.
        check.append("--rate_iops=5000")
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
        os.makedirs(self.directory, exist_ok=True)
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
