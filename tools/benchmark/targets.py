"""The filesystems that are compared: started, pinned to CPUs, and always unmounted."""

import glob
import gzip
import json
import os
import re
import resource
import select
import shutil
import subprocess
import time

from machine import Unable, notice, output_of

START_SECONDS = 30
STOP_SECONDS = 60
OPEN_FILES = 1 << 20  # passthrough_ll keeps a descriptor for every inode the kernel knows


def raise_open_files():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else max(hard, OPEN_FILES)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    except (OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def mounted(mountpoint):
    """Looks at the mount table, not at the mount: a dead or hung server must not hang the benchmark."""
    escaped = mountpoint.replace("\\", "\\134").replace(" ", "\\040")
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        return any(line.split()[4] == escaped for line in table)


def tail(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as log:
            return " | ".join(log.read().strip().splitlines()[-4:])
    except OSError:
        return ""


class Target:
    """A directory to measure in. `shared_file` is what all I/O goes to."""

    pins = False  # whether the pin ioctls are answered
    held_pins = 0  # how many are to be held beside what is measured

    def __init__(self, name, directory):
        self.name = name
        self.directory = directory
        self.shared_file = os.path.join(directory, "io")
        os.makedirs(directory, exist_ok=True)

    def start(self):
        pass

    def stop(self):
        pass

    def run_on(self, cpus):
        pass

    def trouble(self):
        """Why the server is not well, or ''."""
        return ""

    def path(self, name):
        return os.path.join(self.directory, name)


class Tmpfs(Target):
    pass


class Server(Target):
    """A FUSE server in the foreground, a child of this process."""

    def __init__(self, name, mountpoint, command):
        super().__init__(name, mountpoint)
        self.command = command
        self.process = None
        self.log = mountpoint + ".log"
        self.cpus = None

    def start(self):
        with open(self.log, "wb") as log:
            # A session of its own: Ctrl-C goes to the benchmark, which then unmounts in order.
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=raise_open_files,
            )
        deadline = time.monotonic() + START_SECONDS
        while not mounted(self.directory):
            if self.process.poll() is not None:
                raise Unable(f"{self.name} did not start (exit status {self.process.returncode}): {tail(self.log)}")
            if time.monotonic() > deadline:
                raise Unable(f"{self.name} did not mount within {START_SECONDS} s: {tail(self.log)}")
            time.sleep(0.01)

    def stop(self):
        self.unmount()
        if self.process is None:
            return
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            notice(
                f"{self.name} is still running {STOP_SECONDS} s after its unmount: killing process {self.process.pid}"
            )
            self.process.kill()
            self.process.wait()
        self.process = None
        self.unmount()

    def unmount(self):
        if mounted(self.directory):
            if subprocess.run(["umount", self.directory], capture_output=True, check=False).returncode != 0:
                subprocess.run(["umount", "-l", self.directory], capture_output=True, check=False)
        elif self.process:
            self.process.terminate()

    def run_on(self, cpus):
        cpus = set(cpus)
        if cpus == self.cpus or self.trouble():
            return
        # A thread that was started meanwhile has the affinity of its parent: look until all are right.
        moved = True
        while moved:
            moved = False
            for task in os.listdir(f"/proc/{self.process.pid}/task"):
                try:
                    if os.sched_getaffinity(int(task)) != cpus:
                        os.sched_setaffinity(int(task), cpus)
                        moved = True
                except ProcessLookupError:
                    pass
        self.cpus = cpus

    def trouble(self):
        status = self.process.poll() if self.process else None
        return "" if status is None else f"{self.name} ended with status {status}: {tail(self.log)}"


class NullFuse(Server):
    pins = True

    def __init__(self, mountpoint, build):
        super().__init__("null", mountpoint, [os.path.join(build, "null-fuse"), mountpoint])
        self.shared_file = os.path.join(mountpoint, "null")


class PassthroughLl(Server):
    def __init__(self, mountpoint, source, binary, options):
        os.makedirs(source, exist_ok=True)
        words = f"source={source}" + ("," + options if options else "")
        super().__init__("passthrough_ll", mountpoint, [binary, "-f", "-o", words, mountpoint])


class Daxfs(Server):
    """A daxfs over a pool file of its own, with so many pins held beside what is measured."""

    pins = True

    def __init__(self, name, mountpoint, build, pool, size, options, held_pins):
        command = [os.path.join(build, "daxfs"), pool, mountpoint, "-f"]
        super().__init__(name, mountpoint, command + (["-o", options] if options else []))
        self.mkfs = [os.path.join(build, "mkfs.daxfs"), "--size", str(size), pool]
        self.pool = pool
        self.held_pins = held_pins
        self.client = os.path.join(build, "bench-client")
        self.holder = None

    def start(self):
        made = subprocess.run(self.mkfs, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            raise Unable(f"mkfs.daxfs failed: {made.stderr.strip() or made.stdout.strip()}")
        super().start()

    def waiting(self):
        """How many requests are parked at the gate."""
        with open(self.path(".daxfs/status"), encoding="utf-8") as status:
            return json.load(status)["waiting"]

    def hold(self, path, pins, seconds):
        self.holder = subprocess.Popen(
            [self.client, "hold", "--file", path, "--pins", str(pins)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        if not select.select([self.holder.stdout], [], [], seconds)[0]:
            raise Unable(f"{self.name}: taking {pins} pins did not end within {seconds} s")
        if b"held" not in self.holder.stdout.readline():
            raise Unable(f"{self.name}: could not take {pins} pins {tail(self.log)}")

    def stop(self):
        if self.holder:
            self.holder.stdin.close()
            try:
                self.holder.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.holder.kill()
                self.holder.wait()
            self.holder = None
        super().stop()
        if os.path.exists(self.pool):
            os.unlink(self.pool)


def example_sources(folder):
    """The directory with libfuse's examples: as installed, or from the package where /usr/share/doc is left out."""
    installed = "/usr/share/doc/libfuse3-dev/examples"
    if glob.glob(os.path.join(installed, "passthrough_ll.c*")):
        return installed
    if not shutil.which("apt-get"):
        return None
    subprocess.run(["apt-get", "-qq", "download", "libfuse3-dev"], cwd=folder, capture_output=True, check=False)
    for package in glob.glob(os.path.join(folder, "libfuse3-dev_*.deb")):
        subprocess.run(["dpkg-deb", "-x", package, folder], check=False)
        os.unlink(package)
    unpacked = folder + installed
    return unpacked if glob.glob(os.path.join(unpacked, "passthrough_ll.c*")) else None


def build_passthrough_ll(build):
    """Compiles libfuse's own example, unchanged. The path of the program, or None."""
    folder = os.path.join(build, "passthrough_ll.d")
    binary = os.path.join(folder, "passthrough_ll")
    if os.path.exists(binary):
        return binary
    os.makedirs(folder, exist_ok=True)
    examples = example_sources(folder)
    if not examples:
        notice("libfuse's example passthrough_ll.c is not in /usr/share/doc/libfuse3-dev nor in the package: left out")
        return None
    for path in glob.glob(os.path.join(examples, "passthrough_ll.c*")) + glob.glob(os.path.join(examples, "*.h*")):
        opened = gzip.open if path.endswith(".gz") else open
        with opened(path, "rb") as source, open(
            os.path.join(folder, re.sub(r"\.gz$", "", os.path.basename(path))), "wb"
        ) as copy:
            shutil.copyfileobj(source, copy)
    flags = output_of(["pkg-config", "--cflags", "--libs", "fuse3"]).split()
    compiled = subprocess.run(
        [
            "cc",
            "-O2",
            "-DHAVE_FALLOCATE",
            "-DHAVE_COPY_FILE_RANGE",
            os.path.join(folder, "passthrough_ll.c"),
            "-o",
            binary,
        ]
        + flags,
        capture_output=True,
        text=True,
        check=False,
    )
    if compiled.returncode != 0:
        notice(f"passthrough_ll does not compile, left out: {compiled.stderr.strip().splitlines()[-1:]}")
        return None
    return binary
