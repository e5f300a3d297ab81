"""gluster_session.py PROGRAMS DIRECTORY CACHE ROUNDS SEED: a volume of three replicas, each brick on a daxfs mount of its own
in a network and mount namespace of its own, and its client. Run in namespaces that end with it.
Prints what it found; exit status 1 with a line on standard error when something is not as it must be."""

import collections
import errno
import fcntl
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree

NODES = 3
POOL_MIB = 160
VOLUME = "replicas"
SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN


def fail(message):
    print(message, file=sys.stderr, flush=True)
    sys.exit(1)


def run(*words, seconds=120, status=0):
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL, check=False)
    except subprocess.TimeoutExpired:
        fail(f"{' '.join(words)}: still running after {seconds} s")
    if status is not None and done.returncode != status:
        fail(f"{' '.join(words)}: {done.returncode}: {(done.stderr or done.stdout).strip()[-400:]}")
    return done.stdout


def until(condition, seconds, message):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            fail(f"not within {seconds} s: {message() if callable(message) else message}")
        time.sleep(0.1)


class Node:
    """A network namespace with an address on the bridge, and a mount namespace with glusterd's directories."""

    def __init__(self, number):
        self.number, self.address = number, f"10.97.0.{number}"
        self.directory = os.path.join(DIRECTORY, f"node{number}")
        self.brick, self.pool = os.path.join(self.directory, "brick"), os.path.join(self.directory, "pool")
        os.makedirs(self.brick)
        self.keeper = subprocess.Popen(["unshare", "--net", "--mount", "sleep", "infinity"])
        until(lambda: self.apart("net") and self.apart("mnt"), 10, "the namespaces")
        self.enter = ["nsenter", f"--net=/proc/{self.keeper.pid}/ns/net", f"--mount=/proc/{self.keeper.pid}/ns/mnt"]
        run("ip", "link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", str(self.keeper.pid))
        run("ip", "link", "set", f"v{number}", "master", "br0", "up")
        self.inside("ip", "addr", "add", f"{self.address}/24", "dev", "eth0")
        for device in "lo", "eth0":
            self.inside("ip", "link", "set", device, "up")
        for place in "/var/lib/glusterd", "/var/log/glusterfs", "/run":
            own = os.path.join(self.directory, place.strip("/").replace("/", "-"))
            os.makedirs(own)
            self.inside("mount", "--bind", own, place)
        self.inside("mkdir", "-p", "/run/gluster")
        if OF_KERNEL:
            run("truncate", "-s", f"{POOL_MIB}M", self.pool)
            run("mkfs.ext4", "-q", "-F", self.pool)
        else:
            run(f"{PROGRAMS}/mkfs.daxfs", "--quiet", "--size", f"{POOL_MIB}M", self.pool)
        self.daemon = None
        self.mount()

    def apart(self, kind):
        try:
            return os.readlink(f"/proc/{self.keeper.pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
        except OSError:
            return False

    def inside(self, *words, **how):
        return run(*self.enter, *words, **how)

    def start(self, *words, log):
        with open(os.path.join(self.directory, log), "ab") as out:
            return subprocess.Popen([*self.enter, *words], stdout=out, stderr=out, stdin=subprocess.DEVNULL)

    def mount(self):
        """nsenter without a process namespace executes the program: the child is the daemon itself."""
        if OF_KERNEL:
            self.inside("mount", "-o", "loop", self.pool, self.brick)
            return
        self.daemon = self.start(f"{PROGRAMS}/daxfs", self.pool, self.brick, "-f", "-o", f"cache={CACHE}", log="daxfs.log")
        until(lambda: self.mounted() or self.daemon.poll() is not None, 60, "the brick's mount")
        if self.daemon.poll() is not None:
            fail(f"node {self.number}: daxfs ended with {self.daemon.returncode}")

    def mounted(self):
        with open(f"/proc/{self.keeper.pid}/mountinfo", encoding="utf-8") as table:
            return any(line.split()[4] == self.brick for line in table)

    def kill_daemon(self):
        if OF_KERNEL:
            fd = os.open(f"/proc/{self.keeper.pid}/root{self.brick}", os.O_RDONLY)
            fcntl.ioctl(fd, SHUTDOWN, b"\1\0\0\0")  # with its journal written: what was acknowledged is there
            os.close(fd)
            return
        if self.daemon.poll() is not None:
            fail(f"node {self.number}: the daemon died by itself")
        self.daemon.kill()
        self.daemon.wait(60)

    def remount(self):
        """The brick's process has descriptors of the dead mount: it is ended, and started anew over the new one."""
        for pid in self.brick_processes():
            os.kill(pid, signal.SIGKILL)
        if OF_KERNEL:
            until(lambda: self.inside("umount", self.brick, status=None) == "" and not self.mounted(), 60, "umount")
        else:
            self.inside("umount", "--lazy", self.brick)
        self.mount()
        gluster("volume", "start", VOLUME, "force")
        until(lambda: bricks_online() == NODES, 60, "the brick comes back")
        until(lambda: connected() == NODES, 60, "the client connects to the brick again")

    def brick_processes(self):
        ours = os.readlink(f"/proc/{self.keeper.pid}/ns/net")
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
                if words[0].endswith(b"glusterfsd") and os.readlink(f"/proc/{name}/ns/net") == ours:
                    yield int(name)
            except OSError:
                pass

    def policy(self, value):
        self.inside(f"{PROGRAMS}/daxfsctl", "policy", self.brick, "set", f"pin_policy={value}")


def gluster(*words, **how):
    return NODE[0].inside("gluster", "--mode=script", *words, **how)


def bricks_online():
    text = gluster("volume", "status", VOLUME, "--xml", status=None)
    try:
        found = xml.etree.ElementTree.fromstring(text)
    except xml.etree.ElementTree.ParseError:
        return -1
    nodes = [node for node in found.iter("node") if node.findtext("path", "").endswith("/data")]
    return sum(node.findtext("status") == "1" for node in nodes)


def connected():
    """With how many bricks the client itself is connected. The next one must not die before."""
    count = 0
    for number in range(NODES):
        with open(f"{CLIENT}/.meta/graphs/active/{VOLUME}-client-{number}/private", encoding="utf-8") as file:
            count += "connected = 1" in file.read()
    return count


def to_heal():
    """How many entries wait for the heal, on all bricks; -1: a brick does not answer."""
    lines = [line for line in gluster("volume", "heal", VOLUME, "info", status=None).splitlines() if "Number of entries:" in line]
    counts = [line.split(":")[1].strip() for line in lines]
    return sum(map(int, counts)) if len(counts) == NODES and all(map(str.isdigit, counts)) else -1


def healed():
    gluster("volume", "heal", VOLUME, status=None)
    until(lambda: to_heal() == 0, 240, lambda: "heal: " + gluster("volume", "heal", VOLUME, "info", status=None)[-600:])


def write(path, data):
    with open(path, "wb") as file:
        file.write(data)
        os.fsync(file.fileno())


class Load(threading.Thread):
    """Writes, syncs, renames and removes files through the client; knows what must be there. While a brick's filesystem is
    dead and its process is not, a call can fail now and then (on ext4, too): it is counted, and repeated."""

    def __init__(self, dice):
        super().__init__(daemon=True)
        self.dice, self.files, self.error, self.done = dice, {}, None, 0
        self.over, self.errors = threading.Event(), collections.Counter()

    def run(self):
        try:
            while not self.over.is_set():
                self.step()
                self.done += 1
        except OSError as error:
            self.error = error

    def insist(self, change, *words):
        deadline, repeated = time.monotonic() + 60, False
        while True:
            try:
                return change(*words)
            except OSError as error:
                if repeated and error.errno == errno.ENOENT and change is not write:
                    return None  # the call that failed has done it
                if time.monotonic() > deadline or error.errno == errno.ENOENT:
                    raise
                self.errors[errno.errorcode[error.errno]] += 1
                repeated = True
                time.sleep(0.1)

    def step(self):
        name = f"f{self.dice.randrange(60)}"
        path, kind = os.path.join(CLIENT, name), self.dice.random()
        if kind < 0.15 and name in self.files:
            self.insist(os.unlink, path)
            del self.files[name]
        elif kind < 0.3 and name in self.files:
            other = f"f{self.dice.randrange(60)}"
            self.insist(os.rename, path, os.path.join(CLIENT, other))
            self.files[other] = self.files.pop(name)
        else:
            data = self.dice.randbytes(self.dice.randrange(1, 100000))
            self.insist(write, path, data)
            self.files[name] = hashlib.sha256(data).hexdigest()

    def stop(self):
        self.over.set()
        self.join(120)
        if self.is_alive():
            fail("the client hangs")
        if self.error:
            fail(f"the client saw {self.error} for a minute: two of three bricks were there all the time")

    def check(self, root):
        there = {name for name in os.listdir(root) if name.startswith("f") and name[1:].isdigit()}
        if there != set(self.files):
            fail(f"{root}: other names: {sorted(there ^ set(self.files))}")
        for name, digest in self.files.items():
            with open(os.path.join(root, name), "rb") as file:
                if hashlib.sha256(file.read()).hexdigest() != digest:
                    fail(f"{root}/{name}: other contents")


def through(node):
    """A brick as this process can look at it."""
    return f"/proc/{node.keeper.pid}/root{node.brick}/data"


def build():
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "br0", "type", "bridge")
    run("ip", "addr", "add", "10.97.0.100/24", "dev", "br0")
    run("ip", "link", "set", "br0", "up")
    # The client keeps its log, and what else it needs, to itself.
    for place in "/var/log/glusterfs", "/run":
        run("mount", "-t", "tmpfs", "none", place)
    NODE.extend(Node(number + 1) for number in range(NODES))
    for node in NODE:
        node.start("glusterd", "-N", log="glusterd.log")
    for node in NODE:
        until(lambda: "Number of Peers" in node.inside("gluster", "peer", "status", status=None), 60, "glusterd")
    for node in NODE[1:]:
        gluster("peer", "probe", node.address)
    until(lambda: gluster("peer", "status").count("Peer in Cluster (Connected)") == NODES - 1, 60, "the peers")
    gluster("volume", "create", VOLUME, "replica", "3", *(f"{node.address}:{node.brick}/data" for node in NODE))
    for name, value in ("network.ping-timeout", "5"), ("cluster.heal-timeout", "5"), ("storage.health-check-interval", "2"):
        gluster("volume", "set", VOLUME, name, value)
    gluster("volume", "start", VOLUME)
    until(lambda: bricks_online() == NODES, 60, "the bricks")
    os.mkdir(CLIENT)
    run("glusterfs", "--volfile-server=" + NODE[0].address, "--volfile-id=" + VOLUME, "--direct-io-mode=disable", CLIENT)
    until(lambda: os.path.ismount(CLIENT), 60, "the client's mount")


def kill_rounds(rounds, dice):
    for number in range(rounds):
        node = dice.choice(NODE)
        load.over.clear()
        time.sleep(dice.uniform(1, 3))
        node.kill_daemon()
        before = load.done
        until(lambda: load.done > before + 20 or load.error, 60, "the load goes on with two bricks")
        node.remount()
        healed()
    load.stop()
    healed()
    load.check(CLIENT)
    for node in NODE:
        load.check(through(node))
    print(f"{rounds} deaths of a brick's daemon, {load.done} changes, healed, three equal copies; errors {dict(load.errors)}", flush=True)


def pinned(policy):
    """A file that one brick has pinned is cut through the volume."""
    node, name = NODE[1], f"pinned-{policy}"
    path = os.path.join(CLIENT, name)
    write(path, b"x" * 65536)
    healed()
    for other in NODE:
        other.policy(policy)
    log = f"hold-{policy}.log"
    holder = node.start(f"{PROGRAMS}/daxfs-hold", f"{node.brick}/data/{name}", "--length", "64K", log=log)
    until(lambda: b"held" in open(os.path.join(node.directory, log), "rb").read(), 30, "the holder")
    cut = subprocess.Popen(["truncate", "-s", "0", path], stderr=subprocess.PIPE, text=True)
    try:
        said = cut.communicate(timeout=8)[1].strip() or "ok"
    except subprocess.TimeoutExpired:
        said = "waits"
    sizes = [os.path.getsize(os.path.join(through(other), name)) for other in NODE]
    gluster("volume", "heal", VOLUME, status=None)
    time.sleep(6)  # a heal that can be done is done by then: heal-timeout is 5 s
    entries = to_heal() if said != "waits" else -1
    holder.send_signal(signal.SIGTERM)
    holder.wait(30)
    if cut.wait(60) != 0 and said == "waits":
        fail(f"{policy}: the cut failed after the release: {cut.stderr.read()}")
    healed()
    after = [os.path.getsize(os.path.join(through(other), name)) for other in NODE]
    print(f"pinned {policy}: the client: {said}; sizes {sizes}; to heal {entries}; after the release {after}", flush=True)
    return said, sizes, entries, after


PROGRAMS, DIRECTORY, CACHE = sys.argv[1:4]
OF_KERNEL = CACHE == "ext4"  # the same with bricks on ext4, which is shut down instead
CLIENT = os.path.join(DIRECTORY, "client")
NODE = []
DICE = random.Random(int(sys.argv[5]))
build()
load = Load(random.Random(DICE.random()))
load.start()
kill_rounds(int(sys.argv[4]), DICE)
for tried in () if OF_KERNEL else ("refuse", "defer", "wait"):
    pinned(tried)
