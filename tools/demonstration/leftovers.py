"""What a demo that was killed has left: the next one recognises it and takes it away.

Each demo writes down what it makes before it makes it, in a file of its own; its children carry a mark in their environment."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time

RECORDS = "/run/daxfs-demo"
MARK = "DAXFS_DEMO"
PATIENCE_SECONDS = 10


def started(pid):
    """When a process began, in the kernel's ticks since the boot, or None if there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            # The command, in brackets, may have spaces and brackets of its own.
            return int(file.read().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def boot():
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


class Record:
    """What this demo has made so far."""

    def __init__(self, pool, mountpoint):
        self.what = {"pid": os.getpid(), "started": started(os.getpid()), "boot": boot(), "pool": pool}
        self.what |= {"mountpoint": mountpoint, "made_mountpoint": False, "work": None}
        self.path = os.path.join(RECORDS, f"{os.getpid()}.json")
        os.environ[MARK] = mark(self.what)
        os.makedirs(RECORDS, mode=0o700, exist_ok=True)
        self.write()

    def note(self, **more):
        self.what |= more
        self.write()

    def write(self):
        # Whoever is killed meanwhile leaves the old one.
        with open(self.path + ".new", "w", encoding="utf-8") as file:
            json.dump(self.what, file)
        os.replace(self.path + ".new", self.path)

    def close(self):
        forget(self.path)


def forget(path):
    for name in (path, path + ".new"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
    with contextlib.suppress(OSError):  # others' are in it
        os.rmdir(RECORDS)


def mark(what):
    return f"{what['boot']}-{what['pid']}-{what['started']}"


def source_of(mountpoint):
    """What is mounted there, or None."""
    escaped = mountpoint.replace("\\", "\\134").replace(" ", "\\040")
    source = None
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            words = line.split()
            if words[4] == escaped:
                source = words[words.index("-") + 2].replace("\\040", " ").replace("\\134", "\\")
    return source


def marked(what):
    """Process ids of its children and theirs."""
    wanted = f"{MARK}={mark(what)}".encode()
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
            if wanted in file.read().split(b"\0"):
                found.append(int(name))
    return found


def is_daemon(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", encoding="utf-8") as file:
        return file.read().strip() == "daxfs"
    return False


def end(pids, number, seconds):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    deadline = time.monotonic() + seconds
    while any(started(pid) is not None for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)


def unmount(mountpoint, *options):
    with contextlib.suppress(subprocess.TimeoutExpired):
        command = ["umount", *options, mountpoint]
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=PATIENCE_SECONDS)


def take_away(what):
    """What one demo has left. Names of it, for people."""
    taken = []
    processes = marked(what)
    end([pid for pid in processes if not is_daemon(pid)], signal.SIGKILL, PATIENCE_SECONDS)
    if source_of(what["mountpoint"]) == what["pool"]:
        unmount(what["mountpoint"])
        taken.append(f"the mount on {what['mountpoint']}")
    end(marked(what), signal.SIGTERM, PATIENCE_SECONDS)
    end(marked(what), signal.SIGKILL, PATIENCE_SECONDS)
    if source_of(what["mountpoint"]) == what["pool"]:
        unmount(what["mountpoint"], "-l")
    if processes:
        taken.append(f"{len(processes)} processes")
    if os.path.isfile(what["pool"]):
        os.unlink(what["pool"])
        taken.append(what["pool"])
    if what["work"] and os.path.isdir(what["work"]):
        shutil.rmtree(what["work"], ignore_errors=True)
        taken.append(what["work"])
    if what["made_mountpoint"]:
        with contextlib.suppress(OSError):  # somebody uses it
            os.rmdir(what["mountpoint"])
    return taken


def clear(say):
    """Of all demos that are no more."""
    try:
        names = [name for name in os.listdir(RECORDS) if name.endswith(".json")]
    except OSError:
        return
    for name in names:
        path = os.path.join(RECORDS, name)
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
            with open(path, encoding="utf-8") as file:
                what = json.load(file)
            if what["boot"] == boot() and started(what["pid"]) == what["started"]:
                continue
            taken = take_away(what)
            say(f"demo: an earlier one (process {what['pid']}) was killed; taken away: {', '.join(taken) or 'nothing was left'}")
        forget(path)
