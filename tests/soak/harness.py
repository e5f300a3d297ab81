"""What every workload needs: a report, commands with deadlines, and a mount that is always taken down again."""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time

MIB = 1 << 20
BLOCK = 4096
START_SECONDS = 120
STOP_SECONDS = 180


class Failure(Exception):
    """What a step found, in one line."""


class Skip(Exception):
    """What the machine lacks."""


def check(condition, message):
    if not condition:
        raise Failure(message)


def wait_until(condition, seconds, message):
    """`message` may be a function: what to say is known only when it is over."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failure(f"not within {seconds} s: {message() if callable(message) else message}")
        time.sleep(0.02)


class Report:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    @contextlib.contextmanager
    def step(self, name):
        """One line about what happens within. A failure ends the step, not the run."""
        begin = time.monotonic()
        try:
            yield
        except Skip as reason:
            self.skipped += 1
            self.say("skip", name, begin, str(reason))
        except (Failure, OSError, subprocess.SubprocessError) as reason:
            self.failed += 1
            self.say("FAIL", name, begin, str(reason))
        else:
            self.passed += 1
            self.say("ok", name, begin)

    @staticmethod
    def say(outcome, name, begin, reason=""):
        text = f"{outcome:4}  {name} ({time.monotonic() - begin:.1f} s)"
        print(text + (": " + reason if reason else ""), flush=True)


LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG = 1


def die_with_parent():
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Processes:
    """Children, each with a process group of its own, so that ending them ends theirs and nobody else's."""

    def __init__(self):
        self.living = []

    def start(self, command, **how):
        how.setdefault("stdin", subprocess.DEVNULL)
        child = subprocess.Popen(command, start_new_session=True, preexec_fn=die_with_parent, **how)
        self.living.append(child)
        return child

    def run(self, command, seconds=600, status=0, **how):
        """Output of a command that must end in time, and with that status (None: any)."""
        how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **how}
        text = how.pop("input", None)
        if text is not None:
            how["stdin"] = subprocess.PIPE
        child = self.start(command, **how)
        name = " ".join(map(str, command))[:160]
        try:
            out, err = child.communicate(text, timeout=seconds)
        except subprocess.TimeoutExpired:
            self.end(child)
            raise Failure(f"{name}: still running after {seconds} s") from None
        self.living.remove(child)
        if status is not None and child.returncode != status:
            last = " | ".join(((err or "").strip() or (out or "").strip()).splitlines()[-6:])
            raise Failure(f"{name}: exit status {child.returncode}: {last}")
        return out

    def end(self, child):
        if child in self.living:
            self.living.remove(child)
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(30)

    def end_all(self):
        for child in list(self.living):
            self.end(child)


def is_device(path):
    return os.path.exists(path) and stat.S_ISCHR(os.stat(path).st_mode)


class Place:
    """A temporary directory in memory, the programs, and a pool that can be mounted again and again. The pool lies in
    the directory, or is the file or device that is named."""

    def __init__(self, build, quick=False, rounds=None, pool=None, minutes=None):
        self.build = build
        self.source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        self.quick = quick
        self.rounds = rounds
        self.minutes = minutes
        self.report = Report()
        self.processes = Processes()
        base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.directory = tempfile.mkdtemp(prefix="daxfs-soak.", dir=base)
        self.pool = pool or self.path("pool")
        self.mountpoint = self.path("mnt")
        os.mkdir(self.mountpoint)
        self.daemon = None

    def path(self, name):
        return os.path.join(self.directory, name)

    def inside(self, *names):
        return os.path.join(self.mountpoint, *names)

    def program(self, name):
        return os.path.join(self.build, name)

    def run(self, command, **how):
        return self.processes.run(command, **how)

    # --- the pool and its mount ---

    def format(self, mib):
        if is_device(self.pool):
            self.run([self.program("mkfs.daxfs"), "--force", "--quiet", self.pool])
            return
        room = shutil.disk_usage(os.path.dirname(self.pool)).free
        if room < (mib + 64) * MIB:
            raise Skip(f"{os.path.dirname(self.pool)} has {room // MIB} MiB free, the pool takes {mib}")
        self.run([self.program("mkfs.daxfs"), "--force", "--quiet", "--size", f"{mib}M", self.pool])

    def mount(self, options=""):
        with open(self.path("daemon.log"), "ab") as log:
            command = [self.program("daxfs"), self.pool, self.mountpoint, "-f"]
            self.daemon = self.processes.start(
                command + (["-o", options] if options else []),
                stdout=log,
                stderr=log,
                env={**os.environ, "LC_ALL": "C"},
            )
        daemon = self.daemon
        wait_until(lambda: self.mounted() or daemon.poll() is not None, START_SECONDS, "the mount")
        check(daemon.poll() is None, f"daxfs ended with status {daemon.returncode}: {self.log_tail()}")
        os.statvfs(self.mountpoint)

    def mounted(self):
        """Looks at the mount table, not at the mount: a hung server must not hang its test."""
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
            return any(line.split()[4] == self.mountpoint for line in table)

    def log_tail(self):
        with open(self.path("daemon.log"), encoding="utf-8", errors="replace") as log:
            return " | ".join(log.read().strip().splitlines()[-4:])

    def unmount(self):
        """A clean end: the daemon must go by itself, without complaint."""
        daemon, self.daemon = self.daemon, None
        wait_until(self.umount_once, 60, lambda: f"umount {self.mountpoint}: {self.umount_error}")
        try:
            status = daemon.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.processes.end(daemon)
            raise Failure(f"daxfs still runs {STOP_SECONDS} s after its umount") from None
        self.processes.end(daemon)
        check(status == 0, f"daxfs ended with status {status}: {self.log_tail()}")

    umount_error = ""

    def umount_once(self):
        done = subprocess.run(["umount", self.mountpoint], capture_output=True, text=True, check=False)
        self.umount_error = done.stderr.strip()
        return done.returncode == 0 or not self.mounted()

    def kill_daemon(self):
        self.daemon.kill()

    def bury_daemon(self):
        """After kill_daemon(), when nobody has files open there any more."""
        daemon, self.daemon = self.daemon, None
        daemon.wait(STOP_SECONDS)
        self.processes.end(daemon)
        wait_until(self.umount_once, 60, lambda: f"umount {self.mountpoint}: {self.umount_error}")

    @contextlib.contextmanager
    def mounting(self, mib, options=""):
        """A fresh pool, mounted for as long as this lasts."""
        self.format(mib)
        self.mount(options)
        try:
            yield
            self.unmount()
        except BaseException:
            self.abandon()
            raise

    def abandon(self):
        self.processes.end_all()
        if self.mounted():
            subprocess.run(["umount", "-l", self.mountpoint], capture_output=True, check=False)
        self.daemon = None

    def close(self):
        self.abandon()
        shutil.rmtree(self.directory, ignore_errors=True)

    # --- what the mount says ---

    def free(self):
        return os.statvfs(self.mountpoint).f_bfree

    def ask(self, what, path=None):
        return json.loads(self.run([self.program("daxfsctl"), "--json", what, path or self.mountpoint], seconds=120))

    def check_free(self, expected, seconds=60):
        """A file's last close, and so the end of its blocks, reaches the daemon a moment after it."""
        wait_until(
            lambda: self.free() == expected, seconds, lambda: f"{expected} blocks free (there are {self.free()})"
        )

    def empty(self):
        for name in os.listdir(self.mountpoint):
            path = self.inside(name)
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            else:
                os.unlink(path)
