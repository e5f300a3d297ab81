"""What is measured, on which targets, and what daxfs is to reach."""

from dataclasses import dataclass, field

import clients

FEW_PINS = 10
MANY_PINS = 100_000
HUGE_PINS = 1_000_000
MANY_EXTENTS = 100_000
WAITERS = 64
HOLDER_BLOCKS = 1 << 18  # at most 1 GiB under the held pins; more pins than blocks overlap


def held(pins):
    """The name of the daxfs that stands beside with so many pins held."""
    return f"daxfs+{pins}"


@dataclass
class Goal:
    """A ratio of two targets' values. Rates: at least `floor` and `aim`; costs: at most."""

    target: str
    peer: str
    peer_case: str = ""  # the same case if empty
    peer_words: str = ""  # what is different about it
    floor: float | None = None
    aim: float | None = None


@dataclass
class Case:
    key: str
    what: str
    targets: list
    unit: str  # "kops" and "GB/s": rates, more is better; "us": costs, less is better
    goals: list = field(default_factory=list)
    jobs: int = 1
    direct: bool = False
    group: str = ""  # cases of one group are measured by one run of the client

    @property
    def costs(self):
        return self.unit == "us"

    def value(self, sample):
        if self.unit == "GB/s":
            return sample["bytes_per_s"] / 1e9
        if self.unit == "kops":
            return sample["ops_per_s"] / 1e3
        return sample["p50_us"]  # a mean would follow the few operations during which something else ran


class IoCase(Case):
    """Reads or writes one file in place."""

    def __init__(self, write, random, direct, jobs):
        size = "4k" if random else "1m"
        mode = "direct" if direct else "cached"
        super().__init__(
            key=f"{size}-{'write' if write else 'read'}-{mode}-{jobs}",
            what=f"{'4 KiB random' if random else '1 MiB sequential'} {'write' if write else 'read'}, {mode}",
            targets=["daxfs", "null", "passthrough_ll", "tmpfs"],
            unit="kops" if random else "GB/s",
            jobs=jobs,
            direct=direct,
        )
        self.write, self.random = write, random
        if random:
            self.goals = [Goal("daxfs", "null", floor=0.85 if direct else None, aim=0.95 if direct else None)]
        else:
            self.goals = [Goal("daxfs", "passthrough_ll", floor=1.0, aim=1.3)]

    def run(self, run, target, cpus):
        measure = clients.fio if run.options.fio else clients.io
        return {self.key: measure(run, target, self, cpus)}


class MetaCase(Case):
    def __init__(self, operation):
        super().__init__(
            key=f"meta-{operation}",
            what={"create": "create + write 4 KiB + close"}.get(operation, operation),
            targets=["daxfs", "null", "passthrough_ll", "tmpfs"],
            unit="kops",
            # The null server shows how much of a shortfall is FUSE's, with permissions checked.
            goals=[
                Goal("daxfs", "passthrough_ll", floor=1.0, aim=1.3),
                Goal("daxfs", "null"),
                Goal("null", "passthrough_ll"),
            ],
            group="meta",
        )

    def run(self, run, target, cpus):
        parts = clients.run(run, cpus, "meta", "--dir", target.directory, "--files", str(run.options.files))
        return {f"meta-{operation}": part for operation, part in parts.items()}


class PinCase(Case):
    def __init__(self, beside):
        super().__init__(
            key="pin",
            what="pin + unpin (null: two null ioctls)",
            targets=["daxfs", *map(held, beside), "null"],
            unit="us",
            goals=[Goal("daxfs", "null", aim=1.3)]
            + [Goal(held(pins), held(FEW_PINS), floor=1.3) for pins in beside if pins > FEW_PINS]
            + [Goal(held(pins), "daxfs", aim=1.3) for pins in beside],
        )

    def run(self, run, target, cpus):
        path = target.shared_file if target.name == "null" else target.path("pinned")
        return {self.key: clients.run(run, cpus, "pin", "--file", path, "--seconds", str(run.options.seconds))}


class PunchCase(Case):
    def __init__(self, beside, many_extents):
        super().__init__(
            key="punch-extents" if many_extents else "punch",
            what=f"punch 4 KiB, file of {MANY_EXTENTS:,} extents"
            if many_extents
            else "punch 4 KiB, file of 10 extents",
            targets=["daxfs", "passthrough_ll", "tmpfs"]
            if many_extents
            else ["daxfs", *map(held, beside), "null", "passthrough_ll", "tmpfs"],
            unit="us",
        )
        self.file = "many-extents" if many_extents else "few-extents"
        if many_extents:
            self.goals = [Goal("daxfs", "daxfs", peer_case="punch", peer_words="few extents", aim=1.5)]
        else:
            self.goals = [Goal(held(pins), held(FEW_PINS), floor=1.5) for pins in beside if pins > FEW_PINS]
            self.goals += [Goal(held(pins), "daxfs", aim=1.5) for pins in beside]

    def run(self, run, target, cpus):
        path = target.shared_file if target.name == "null" else target.path(self.file)
        return {
            self.key: clients.run(run, cpus, "punch", "--sparse", "--file", path, "--seconds", str(run.options.seconds))
        }


class WaitCase(Case):
    """Somebody else's file, while requests wait at the gate and while none does."""

    def __init__(self, waiters):
        super().__init__(
            key=f"beside-{waiters}-waiting",
            what=f"4 KiB random read, direct, 99th percentile, while {waiters or 'no'} punches of other files wait",
            targets=["daxfs"],
            unit="us",
            group="waiting",
        )
        self.random, self.direct, self.write = True, True, False
        if waiters:
            self.goals = [Goal("daxfs", "daxfs", peer_case="beside-0-waiting", peer_words="none waiting", aim=1.1)]

    def value(self, sample):
        return sample["p99_us"]

    def run(self, run, target, cpus):
        alone = clients.io(run, target, self, cpus)
        with clients.waiting(run, target, WAITERS):
            beside = clients.io(run, target, self, cpus)
        return {"beside-0-waiting": alone, f"beside-{WAITERS}-waiting": beside}


def all_cases(beside):
    cases = [
        IoCase(write, random, direct, jobs)
        for random in (True, False)
        for direct in (True, False)
        for write in (False, True)
        for jobs in (1, 2)
    ]
    cases += [MetaCase(operation) for operation in ("create", "stat", "rename", "unlink")]
    cases += [PinCase(beside), PunchCase(beside, False), PunchCase(beside, True)]
    cases += [WaitCase(0), WaitCase(WAITERS)]
    return cases


def prepare(run, target, cases):
    """Makes the files that the cases work on."""
    keys = {case.key for case in cases if target.name in case.targets}
    if target.name == "null":
        return
    if any(isinstance(case, (IoCase, WaitCase)) for case in cases if case.key in keys):
        clients.fill(run, target.shared_file, run.options.region // 4096)
    if "pin" in keys and target.pins:
        clients.fill(run, target.path("pinned"), 1024)
    if any(isinstance(case, PunchCase) for case in cases if case.key in keys):
        clients.fill(run, target.path("few-extents"), 10, sparse=True)
    if "punch-extents" in keys:
        clients.fill(run, target.path("many-extents"), MANY_EXTENTS, sparse=True)


def hold(run, target, pins):
    path = target.path("held")
    clients.fill(run, path, min(pins, HOLDER_BLOCKS))
    target.hold(path, pins, seconds=60 + pins // 1000)


def held_pool_size(pins):
    return (min(pins, HOLDER_BLOCKS) * 4096 * 5) // 4 + (256 << 20)


def memory_needed(options, daxfs, beside, cases):
    """Bytes that a run writes to the tmpfs, at most."""
    keys = {case.key for case in cases}
    one = options.files * 4096 + (64 << 20)
    if any(isinstance(case, (IoCase, WaitCase)) for case in cases):
        one += options.region
    if "punch-extents" in keys:
        one += MANY_EXTENTS * 4096
    return 3 * one + (sum(held_pool_size(pins) for pins in beside) if daxfs else 0)
