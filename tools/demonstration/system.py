"""The machine and the mount: what the demo needs, and a daxfs that always goes away again."""

import contextlib
import json
import os
import select
import signal
import stat
import subprocess
import sys
import time

MIB = 1 << 20
START_SECONDS = 30
STOP_SECONDS = 30
COMMAND_SECONDS = 60
SPARE = 16 * MIB  # beside the pool: logs, and what others take meanwhile


class Unable(Exception):
    """The demo cannot go on, and the text says why and what helps."""


def say(text):
    print(text, flush=True)


class Interruptions:
    """Ctrl-C and its like end the demo as an exception does: whoever made something takes it away."""

    def __init__(self):
        self.held = False
        self.pending = None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self.arrive)

    def arrive(self, number, _frame):
        if self.held:
            self.pending = self.pending or number
            return
        self.held = True  # once is enough
        print("demo: interrupted, cleaning up", file=sys.stderr, flush=True)
        raise SystemExit(128 + number)

    @contextlib.contextmanager
    def later(self):
        """Between making something and knowing it, and while taking it away, nothing must come."""
        before, self.held = self.held, True
        try:
            yield
        finally:
            self.held = before
        if self.pending and not self.held:
            self.arrive(self.pending, None)


interruptions = Interruptions()


@contextlib.contextmanager
def cleaning_up():
    """A stack of callbacks that run at the end, whatever that is, and run to their end."""
    stack = contextlib.ExitStack()
    try:
        yield stack
    finally:
        with interruptions.later():
            stack.close()


def spawn(command, **how):
    """A child in a session of its own, so that Ctrl-C reaches it through us alone. Call it within later()."""
    how.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.Popen(command, start_new_session=True, **how)


def mounted(mountpoint):
    """Looks at the mount table, not at the mount: a dead or hung server must not hang the demo."""
    escaped = mountpoint.replace("\\", "\\134").replace(" ", "\\040")
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        return any(line.split()[4] == escaped for line in table)


def available_memory():
    with open("/proc/meminfo", encoding="ascii") as table:
        for line in table:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return 1 << 62


def what_is_missing(pool, mountpoint, size):
    """One line for each thing that keeps the demo from running here."""
    missing = []
    if os.geteuid() != 0:
        missing.append("root: mounting takes it; run for instance sudo tools/demo")
    try:
        if not stat.S_ISCHR(os.stat("/dev/fuse").st_mode):
            raise FileNotFoundError
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except PermissionError:
        missing.append("the right to open /dev/fuse: in a container, start it with --device /dev/fuse --cap-add SYS_ADMIN")
    except OSError:
        missing.append("/dev/fuse: run modprobe fuse; in a container, start it with --device /dev/fuse --cap-add SYS_ADMIN")
    if os.path.lexists(pool):
        missing.append(f"a name for the pool: {pool} exists, and the demo overwrites nothing; give another with --pool")
    missing += missing_space(os.path.dirname(pool), size)
    if mounted(mountpoint):
        missing.append(f"a free mount point: something is mounted on {mountpoint}; umount it, or give another with --mountpoint")
    elif os.path.isdir(mountpoint):
        if os.listdir(mountpoint):
            missing.append(f"an empty mount point: {mountpoint} has entries; give another with --mountpoint")
    elif os.path.lexists(mountpoint):
        missing.append(f"a directory to mount on: {mountpoint} is none; give another with --mountpoint")
    return missing


def missing_space(directory, size):
    need = size + SPARE
    if not os.path.isdir(directory):
        return [f"{directory}: no such directory; give a place for the pool with --pool FILE"]
    status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    if free < need:
        help_ = (
            f"enlarge it with mount -o remount,size={2 * need // MIB}M {directory} (containers: --shm-size), "
            if directory == "/dev/shm"
            else ""
        )
        return [
            f"space: the pool needs {need // MIB} MiB, {directory} has {free // MIB} MiB; {help_}"
            "or give another place with --pool FILE"
        ]
    if directory == "/dev/shm" and available_memory() < need:
        return [
            f"memory: the pool needs {need // MIB} MiB, {available_memory() // MIB} MiB are available; "
            "free some, or put the pool on a disk with --pool FILE"
        ]
    return []


def read_line(stream, seconds):
    """The next line of a child's output, or None if it ends or says nothing for so long."""
    if not select.select([stream], [], [], seconds)[0]:
        return None
    return stream.readline() or None


def stop(process, *signals_and_seconds):
    """Sends one signal after the other until the process, a child of ours, has ended. None: just waits."""
    for number, seconds in signals_and_seconds:
        if process is None or process.poll() is not None:
            return
        if number:
            process.send_signal(number)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue


class Mount:
    """A fresh pool, mounted with one policy."""

    def __init__(self, binaries, pool, mountpoint, log, record):
        self.binaries = binaries
        self.pool = pool
        self.mountpoint = mountpoint
        self.daemon = None
        self.log = log
        self.record = record  # of what is made, for the next demo if this one is killed
        self.made_mountpoint = False
        self.answered = False

    def run(self, *words):
        return self.run_anywhere(os.path.join(self.binaries, words[0]), *words[1:])

    def run_anywhere(self, *command):
        words = [os.path.basename(command[0]), *command[1:]]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise Unable(f"{' '.join(words)}: no answer after {COMMAND_SECONDS} s") from error
        if done.returncode != 0:
            raise Unable(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def start(self, size, options):
        say(f"  $ mkfs.daxfs --size {size // MIB}M {self.pool}")
        # Anything else there was ruled out before; this is the pool of the policy before.
        if os.path.lexists(self.pool):
            os.unlink(self.pool)
        self.run("mkfs.daxfs", "--quiet", "--size", str(size), self.pool)
        if not os.path.isdir(self.mountpoint):
            with interruptions.later():
                self.record.note(made_mountpoint=True)
                os.makedirs(self.mountpoint)
                self.made_mountpoint = True
        say(f"  $ daxfs {self.pool} {self.mountpoint} -o {options}")
        # In the foreground, as a child, so that its end can be waited for.
        command = [os.path.join(self.binaries, "daxfs"), "-f", self.pool, self.mountpoint, "-o", options]
        with open(self.log, "w", encoding="utf-8") as log, interruptions.later():
            self.daemon = spawn(command, stdout=subprocess.PIPE, stderr=log)
        while not mounted(self.mountpoint) and read_line(self.daemon.stdout, START_SECONDS) is not None:
            pass
        if not mounted(self.mountpoint):
            raise Unable(f"daxfs did not mount: {self.trouble()}")
        self.answered = True

    def switch(self, options):
        """To other options, live."""
        settings = options.split(",")
        say(f"  $ daxfsctl policy {self.mountpoint} set {' '.join(settings)}")
        self.run("daxfsctl", "policy", self.mountpoint, "set", *settings)

    def trouble(self):
        """What the daemon said last, and how it ended."""
        try:
            # What has closed its output ends in a moment.
            words = [f"exit status {self.daemon.wait(2)}"]
        except subprocess.TimeoutExpired:
            words = ["still running"]
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return " | ".join(log.read().strip().splitlines()[-4:] + words)

    def alive(self):
        return self.daemon.poll() is None

    @contextlib.contextmanager
    def expected_to_live(self):
        """Whatever goes wrong within, the death of the daemon is the reason if it died."""
        try:
            yield
        except (Unable, OSError) as error:
            if self.alive() and not isinstance(error, ConnectionAbortedError):
                raise
            raise Unable(f"the daemon is gone: {self.trouble()} ({error})") from error

    def status(self):
        return json.loads(self.run("daxfsctl", "status", "--json", self.mountpoint))

    def settled(self, holds, seconds=5):
        """The status once holds(status), or the last one: what follows a close takes its time."""
        end = time.monotonic() + seconds
        status = self.status()
        while not holds(status) and time.monotonic() < end:
            time.sleep(0.02)
            status = self.status()
        return status

    def extents(self, path):
        return json.loads(self.run("daxfsctl", "extents", "--json", path))

    def reads(self, path, length):
        """Whether the beginning of a file can be read, and is not empty. Another process reads: if it hangs, we do not."""
        try:
            done = subprocess.run(
                ["head", "-c", str(length), path], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=10
            )
        except subprocess.TimeoutExpired:
            return False
        return len(done.stdout) == length and bool(done.stdout.strip(b"\0"))

    def path(self, name):
        return os.path.join(self.mountpoint, name)

    def unmount(self):
        """As its user would: what is in the pool then is all that there is."""
        self.run_anywhere("umount", self.mountpoint)
        stop(self.daemon, (None, STOP_SECONDS))

    def is_clean(self):
        done = subprocess.run(
            [os.path.join(self.binaries, "fsck.daxfs"), "-n", self.pool], stdin=subprocess.DEVNULL, capture_output=True,
            check=False, timeout=COMMAND_SECONDS)
        return done.returncode == 0

    def stop(self):
        """Takes everything away that start() made, whatever state it is in."""
        if mounted(self.mountpoint) and not quietly("umount", self.mountpoint):
            # Somebody else is in there; they may stay, the mount point is free.
            quietly("umount", "-l", self.mountpoint)
        if self.daemon:
            # After an unmount it has something to finish. One that never answered has nothing, and is not waited for.
            finishing = self.answered and not mounted(self.mountpoint)
            stop(self.daemon, (None, STOP_SECONDS if finishing else 0), (15, 10), (9, 10))
            self.daemon.stdout.close()
            self.daemon = None
        if mounted(self.mountpoint):  # it was about to be
            quietly("umount", "-l", self.mountpoint)
        if os.path.lexists(self.pool):
            os.unlink(self.pool)
        if self.made_mountpoint and not mounted(self.mountpoint):
            os.rmdir(self.mountpoint)
            self.made_mountpoint = False


def quietly(*command):
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
