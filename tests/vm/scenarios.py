"""What the vm layer passes: for each scenario the machine, what runs in it, and how the outcome is told in a line."""

import dataclasses
import os
import random
import shlex
import time

from machine.guest import Cxl, Guest, Machine, Nvdimm, lacking_for_cxl

HERE = os.path.dirname(os.path.abspath(__file__))
GUEST = os.path.join(HERE, "guest")
WITH_LABEL = 128  # KiB
NVDIMM_MIB = 512
NVDIMM, LABELLED = (NVDIMM_MIB, 0), (NVDIMM_MIB, WITH_LABEL)
SMALL = (48, WITH_LABEL)  # the RDMA tests fill it
DEVICE = (48, 0)  # a pool as large as it, for each mount test
CXL_MIB = 256
RDMA_MODULES = ["rdma_rxe", "ib_uverbs", "dummy", "crc32_generic"]

# Time limits end what hangs, and are long: the machine may be busy. ctest's are a little longer.
QUICK_SECONDS = 1200
LONG_SECONDS = 2900


class Failed(Exception):
    """Why, in a line; the rest is in the output."""


@dataclasses.dataclass
class Work:
    """Where a scenario finds its things."""

    build: str
    source: str
    results: str
    nvdimms: str  # a directory for their contents

    def nvdimm(self, number, mib, label=0):
        return Nvdimm(os.path.join(self.nvdimms, f"nvdimm{number}"), mib, label)

    def machine(self, nvdimms, **more):
        if more.pop("cxl", False):
            more["cxl"] = Cxl(os.path.join(self.nvdimms, "cxl"), CXL_MIB)
        return Machine(self.results, nvdimms, [self.source, self.build], **more)


def in_guest(name):
    return os.path.join(GUEST, name)


def counts_of_steps(results):
    """From the lines that tests/soak/harness.py writes."""
    with open(os.path.join(results, "output"), encoding="utf-8", errors="replace") as output:
        words = [line.split()[0] for line in output if line.split()]
    return words.count("ok"), words.count("FAIL"), words.count("skip")


@dataclasses.dataclass
class Step:
    """One of guest/'s scripts, with a pool in a place (see guest/with_pool) on one of the NVDIMMs."""

    place: str
    nvdimm: int
    script: str
    arguments: tuple = ()

    def command(self, build):
        words = [in_guest("with_pool"), self.place, self.nvdimm, "python3", in_guest(self.script), build]
        return shlex.join(map(str, [*words, *self.arguments]))


class Steps:
    """Steps in one guest. One that fails keeps none from being taken. Of each NVDIMM the MiB and label are given."""

    def __init__(self, nvdimms, steps, seconds=QUICK_SECONDS, **machine):
        self.nvdimms, self.steps, self.seconds, self.machine = nvdimms, steps, seconds, machine

    @property
    def kernel(self):
        return self.machine.get("kernel", "")

    def lacking(self, kernel):
        return lacking_for_cxl(kernel) if self.machine.get("cxl") else ""

    def run(self, work, stream):
        nvdimms = [work.nvdimm(number, *size) for number, size in enumerate(self.nvdimms)]
        script = "".join(f"{step.command(work.build)} || status=1\n" for step in self.steps)
        with Guest(work.machine(nvdimms, **self.machine), ["bash", "-c", f"status=0\n{script}exit $status"]) as guest:
            status = guest.wait(self.seconds, stream)
        if status:
            raise Failed(f"exit status {status} in the guest")
        return counts_of_steps(work.results)


class PowerFailure:
    """Under load the power fails, again and again; each time what was acknowledged must be there.

    A life is one guest: it verifies what the lives before it left, and then changes more."""

    seconds = 400  # a life
    kernel = ""
    most_load_seconds = 3

    def lacking(self, _kernel):
        return ""

    def __init__(self, place, nvdimm, rounds):
        self.place, self.nvdimm, self.rounds = place, nvdimm, rounds

    def run(self, work, stream):
        seed = random.SystemRandom().randrange(1 << 30)
        dice = random.Random(seed)
        stream.write(f"seed {seed}\n".encode())
        machine = work.machine([work.nvdimm(0, *self.nvdimm)])
        for number in range(self.rounds + 1):
            script = ["python3", in_guest("power_failure.py"), work.build, number, dice.randrange(1 << 30)]
            command = [in_guest("with_pool"), self.place, 0, *script]
            loaded = os.path.join(work.results, f"loaded-{number}")
            with Guest(machine, [*map(str, command)]) as guest:
                status = guest.wait(self.seconds, stream, lambda: os.path.exists(loaded))
                if status is not None:
                    raise Failed(f"life {number}: exit status {status} in the guest")
                time.sleep(dice.uniform(0, self.most_load_seconds))
        return self.rounds, 0, 0


# The mount tests for which it matters what the pool lies on, by the names of their files. What is left out takes a minute on an
# emulated CPU: a file is cut to pieces; on a device, which is larger than the pools in files, it is filled for each way to detach.
FILES = ("pin_view", "pin_refuse", "pin_defer", "hold", "mmap", "space", "crash")


def chosen(*but):
    return ",".join(f"[#{name}_test]" + "".join(f'~"{pattern}"' for pattern in but) for name in FILES)


# Where kernels differed: a holder is killed while somebody waits for it.
KILLED = '[#deadlock_test]"a holder that dies*"'
CHOSEN = chosen("*halfway*") + "," + KILLED
# One of each kind of fault that was found from outside: pages that are dirty, requests that are repeated, handles, holders in
# other namespaces and forked ones, replies that are raced, holders that die with I/O in flight. `mount-devdax` has all.
KINDS = (
    "[#dirty_pages_test]",
    '"who repeats what was interrupted*"',
    '"what the clock says*"',
    '"a handle outlives*"',
    '"fsck in another pid namespace*"',
    '"a forked child that maps a pin*"',
    '"nothing of an inode is touched*"',
)
IN_FLIGHT = "[#inflight_test]"
CHOSEN_ON_DEVICE = ",".join([chosen("*halfway*", "every detach*"), *KINDS])


def properties(place, kind, granularity, nvdimm=0):
    return Step(place, nvdimm, "properties.py", (kind, granularity))


def rdma(place, outcome):
    return Step(place, 0, "rdma.py", (outcome,))


def rdma_pair(place):
    return Step(place, 0, "rdma_pair.py")


def mount_tests(place, *selection, nvdimm=0):
    return Step(place, nvdimm, "mount_tests.py", selection)


def users(place, nvdimm=0):
    return Step(place, nvdimm, "users.py", (place,))


RDMA = {"modules": RDMA_MODULES}
# For all that users.py tries.
USERS = {"modules": [*RDMA_MODULES, "brd"], "iommu": True}
ON_EXT4 = [properties("ext4", "fsdax", "cache_line"), rdma("ext4", "refused"), mount_tests("ext4", CHOSEN)]
ON_XFS = [properties("xfs", "fsdax", "byte"), mount_tests("xfs", CHOSEN)]
ON_DEVICE = [
    properties("devdax", "devdax", "cache_line"),
    rdma("devdax", "registered"),
    rdma_pair("devdax"),
    mount_tests("devdax4k", CHOSEN_ON_DEVICE, nvdimm=1),
]
ON_CXL = [properties("cxl", "devdax", "cache_line"), rdma("cxl", "registered")]
# Linux lets io_uring register memory of device DAX from 6.12 on, which is Debian 13's.
FOR_URING = {"kernel": os.environ.get("DAXFS_VM_KERNEL", "").replace("bookworm", "") or "trixie"}
ALL = '~"a daemon that runs out of memory*"'
QUICK_ROUNDS = 2
# From 6.5 on the kernel counts what a killed holder has in flight, so that its grace ends when that is over.
# Before other users of memory: what they leave in the kernel's counts keeps a grace from ending early.
ON_URING = [Step("devdax", 0, "uring.py"), mount_tests("devdax4k", IN_FLIGHT, nvdimm=1), users("devdax")]
# A device, a filesystem with direct access and one without. Small, but with room for what mkfs takes.
FOR_USERS = [DEVICE, (128, 0), (128, 0)]
ALL_USERS = [users("tmpfs"), users("devdax"), users("ext4", 1), users("plain", 2)]
# Linux 6.15 limits how long a request may take; Debian has it in sid.
LIMITED = [mount_tests("devdax4k", "[#request_limit_test]")]
SCENARIOS = {
    "ext4": (Steps([LABELLED], ON_EXT4, **RDMA), "properties, RDMA and mount tests on ext4 -o dax"),
    "xfs": (Steps([NVDIMM], ON_XFS, persistence="cpu"), "properties and mount tests on xfs -o dax, safe caches"),
    "devdax": (Steps([SMALL, DEVICE], ON_DEVICE, **RDMA), "properties, RDMA and mount tests on device DAX"),
    "uring": (
        Steps([SMALL, DEVICE], ON_URING, **FOR_URING, **USERS),
        "io_uring on device DAX, each policy; who may use its memory",
    ),
    "cxl": (Steps([], ON_CXL, cxl=True, **RDMA), "properties and RDMA on CXL memory"),
    "power-ext4": (PowerFailure("ext4", LABELLED, QUICK_ROUNDS), "power failures on ext4 -o dax"),
    "power-devdax": (PowerFailure("devdax", LABELLED, QUICK_ROUNDS), "power failures on device DAX"),
    "users": (Steps(FOR_USERS, ALL_USERS, **USERS), "who may use pinned memory, by the kind of pool"),
    "limits": (Steps([DEVICE], LIMITED, kernel="sid"), "a kernel that limits requests, on device DAX"),
    # Every mount test: long. One has nothing to do with the medium, and takes ten minutes on an emulated CPU.
    "mount-ext4": (Steps([LABELLED], [mount_tests("ext4", ALL)], LONG_SECONDS), "all mount tests on ext4 -o dax"),
    "mount-xfs": (Steps([NVDIMM], [mount_tests("xfs", ALL)], LONG_SECONDS), "all mount tests on xfs -o dax"),
    "mount-devdax": (Steps([DEVICE], [mount_tests("devdax4k", ALL)], LONG_SECONDS), "all mount tests on device DAX"),
}
