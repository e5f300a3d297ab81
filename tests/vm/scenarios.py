"""What the vm layer passes: for each scenario the machine, what runs in it, and how the outcome is told in a line."""

import dataclasses
import os
import random
import time
import xml.etree.ElementTree

from machine.guest import Guest, Machine, Nvdimm

HERE = os.path.dirname(os.path.abspath(__file__))
GUEST = os.path.join(HERE, "guest")
WITH_LABEL = 128  # KiB
RDMA_MODULES = ["rdma_rxe", "ib_uverbs", "dummy"]

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
        return Machine(self.results, nvdimms, [self.source, self.build], **more)


def run(machine, seconds, stream, *words):
    """Runs one command in one guest; its exit status must be 0."""
    with Guest(machine, [*map(str, words)]) as guest:
        status = guest.wait(seconds, stream)
    if status:
        raise Failed(f"exit status {status} in the guest")


def in_guest(name):
    return os.path.join(GUEST, name)


def counts_of_steps(results):
    """From the lines that tests/soak/harness.py writes."""
    with open(os.path.join(results, "output"), encoding="utf-8", errors="replace") as output:
        words = [line.split()[0] for line in output if line.split()]
    return words.count("ok"), words.count("FAIL"), words.count("skip")


def counts_of_ctest(results):
    suite = xml.etree.ElementTree.parse(os.path.join(results, "mount_tests.xml")).getroot()
    total, failed, skipped = (int(suite.get(name)) for name in ("tests", "failures", "skipped"))
    return total - failed - skipped, failed, skipped


class MountTests:
    """The mount tests, whose pools lie at a place."""

    seconds = 900

    def __init__(self, place, label, *ctest_options):
        self.place, self.label, self.ctest_options = place, label, ctest_options

    def run(self, work, stream):
        # The guest puts memory over it: it cannot make the directory.
        os.makedirs(os.path.join(work.build, "Testing"), exist_ok=True)
        machine = work.machine([work.nvdimm(0, 512, self.label)])
        command = [in_guest("with_pool"), self.place, 0, in_guest("mount_tests"), work.build, *self.ctest_options]
        run(machine, self.seconds, stream, *command)
        return counts_of_ctest(work.results)


class Properties:
    """What a mount is like on fsdax and on device DAX, and a device that writes to pinned memory."""

    seconds = 400

    def run(self, work, stream):
        nvdimms = [work.nvdimm(0, 512, WITH_LABEL), work.nvdimm(1, 192)]
        machine = work.machine(nvdimms, modules=RDMA_MODULES)
        run(machine, self.seconds, stream, in_guest("properties"), work.build)
        return counts_of_steps(work.results)


class SafeCaches:
    """A machine whose power failure spares the CPU's caches: nothing need be flushed."""

    seconds = 200

    def run(self, work, stream):
        machine = work.machine([work.nvdimm(0, 512)], persistence="cpu")
        words = ["python3", in_guest("properties.py"), work.build, "fsdax", "byte"]
        run(machine, self.seconds, stream, in_guest("with_pool"), "ext4", 0, *words)
        return counts_of_steps(work.results)


class PowerFailure:
    """Under load the power fails, again and again; each time what was acknowledged must be there.

    A life is one guest: it verifies what the lives before it left, and then changes more."""

    seconds = 300  # a life
    most_load_seconds = 3

    def __init__(self, place, label, rounds):
        self.place, self.label, self.rounds = place, label, rounds

    def run(self, work, stream):
        seed = random.SystemRandom().randrange(1 << 30)
        dice = random.Random(seed)
        stream.write(f"seed {seed}\n".encode())
        machine = work.machine([work.nvdimm(0, 512, self.label)])
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


QUICK_ROUNDS = 3
SCENARIOS = {
    "mount-ext4": (MountTests("ext4", WITH_LABEL), "mount tests on ext4 -o dax, NVDIMM with label"),
    "mount-xfs": (MountTests("xfs", 0), "mount tests on xfs -o dax, NVDIMM without label"),
    "mount-devdax": (MountTests("devdax4k", 0), "mount tests on device DAX, NVDIMM without label"),
    "properties": (Properties(), "granularity, MAP_SYNC, huge pages and RDMA on fsdax and device DAX"),
    "safe-caches": (SafeCaches(), "granularity byte where a power failure spares the caches"),
    "power-ext4": (PowerFailure("ext4", WITH_LABEL, QUICK_ROUNDS), "power failures on ext4 -o dax"),
    "power-devdax": (PowerFailure("devdax", WITH_LABEL, QUICK_ROUNDS), "power failures on device DAX"),
}
