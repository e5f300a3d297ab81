"""fio's jobs of tools/fio beside a holder, one policy after the other: what punches cost, and whether anybody was harmed."""

import json
import os
import subprocess
import threading
from dataclasses import dataclass, field

import drawing
from actors import duration
from holder import Holder
from story import POLICIES
from system import MIB, Mount, Unable, cleaning_up, interruptions, say, spawn, stop

JOBS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "fio")
POOL = 256 * MIB
ROUND_SECONDS = 0.5  # how long the holder keeps a pin before it takes it anew
START_SECONDS = 20  # what fio may take beside its jobs
LOOK_SECONDS = 0.1


@dataclass
class Latency:
    median: float
    p99: float
    most: float

    @staticmethod
    def of(job):
        times = job["clat_ns"]
        percentile = times.get("percentile", {})
        return Latency(*(nanoseconds / 1e9 for nanoseconds in (
            percentile.get("50.000000", 0), percentile.get("99.000000", 0), times.get("max", 0))))

    def as_json(self):
        return {name: round(value * 1e6, 1) for name, value in (("median_us", self.median), ("p99_us", self.p99), ("max_us", self.most))}


@dataclass
class Result:
    policy: str
    punches: int = 0
    refused: int = 0
    punch: Latency = None
    verified: int = 0  # reads and writes of the other file
    verified_latency: Latency = None  # of its writes
    errors: int = 0  # fio's, in the other files
    limbo: int = 0  # the most that was seen, in bytes
    rounds: int = 0
    told: int = 0
    checks: int = 0
    foreign: int = 0
    clean: bool = False
    broken: list = field(default_factory=list)  # promises, as sentences

    def expect(self, kept, promise):
        if not kept:
            self.broken.append(promise)

    def as_json(self):
        out = {name: value for name, value in vars(self).items() if not isinstance(value, Latency)}
        return out | {"punch": self.punch.as_json(), "verified_write": self.verified_latency.as_json()}


class LimboWatch:
    """The most that was in limbo at any look."""

    def __init__(self, mount):
        self.mount = mount
        self.most = 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.over.wait(LOOK_SECONDS):
            try:
                self.most = max(self.most, self.mount.status()["limbo"])
            except Unable:
                return  # whoever works on the mount finds out why

    def stop(self):
        self.over.set()
        self.thread.join()


def tell(name, options, work, record):
    """Runs one policy's job on a fresh pool. Leaves nothing, however it ends."""
    result = Result(name)
    policy = POLICIES[name]
    with cleaning_up() as cleanup:
        mount = Mount(options.build, options.pool, options.mountpoint, os.path.join(work, "daxfs.log"), record)
        cleanup.callback(mount.stop)
        mount.start(POOL, policy.options)
        with mount.expected_to_live():
            play(mount, policy, name, options.seconds, work, cleanup, result)
        result.expect(mount.alive(), "the daemon lives to the end")
        mount.unmount()
        result.clean = mount.is_clean()
    judge(policy, result)
    return result


def play(mount, policy, name, seconds, work, cleanup, result):
    # Long enough for fio, whose start takes its time; it is told to end then.
    rounds = int((seconds + START_SECONDS) / ROUND_SECONDS)
    words = ["--allocate", "--length", "4M", "--count", "4", "--seconds", str(seconds + START_SECONDS), "--rounds", str(rounds)]
    words += ["--lease"] if policy.leased else []
    say(f"  $ daxfs-hold {mount.path('buffer')} {' '.join(words)} &")
    holder = Holder(os.path.join(mount.binaries, "daxfs-hold"), mount.path("buffer"), os.path.join(work, "hold.log"), "--interval-ms", "2", *words)
    cleanup.callback(holder.stop)
    holder.start()
    holder.must_hold()
    watch = LimboWatch(mount)
    cleanup.callback(watch.stop)
    jobs = run_fio(mount, name, seconds, work, cleanup)
    watch.stop()
    result.limbo = watch.most
    holder.let_go()
    holder.wait()
    result.rounds, result.checks, result.foreign = holder.total("rounds"), holder.checks, holder.foreign
    result.told = len(holder.told())
    count(jobs, result)
    last = mount.settled(lambda status: status["limbo"] == 0 and status["pins"]["long"] == 0)
    result.expect(last["limbo"] == 0 and last["pins"]["long"] == 0, "nothing is pinned or in limbo once the holder has let go")


def run_fio(mount, name, seconds, work, cleanup):
    output = os.path.join(work, "fio.json")
    say(f"  $ DAXFS={mount.mountpoint} SECONDS={seconds} fio tools/fio/{name}.fio")
    command = ["fio", "--output-format=json", f"--output={output}", os.path.join(JOBS, f"{name}.fio")]
    environment = os.environ | {"DAXFS": mount.mountpoint, "SECONDS": str(seconds)}
    log = os.path.join(work, "fio.log")
    with open(log, "w", encoding="utf-8") as errors, interruptions.later():
        process = spawn(command, cwd=work, env=environment, stdout=errors, stderr=errors)
    cleanup.callback(stop, process, (15, 10), (9, 10))
    try:
        process.wait(seconds + START_SECONDS)
        with open(output, encoding="utf-8", errors="replace") as file:
            text = file.read()
        # Notes may precede the object.
        return {job["jobname"]: job for job in json.loads(text[text.index("{") :])["jobs"]}
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        with open(log, encoding="utf-8", errors="replace") as said:
            raise Unable(f"fio left no result: {said.read().strip()[-300:] or error}") from error


def count(jobs, result):
    punches, verified = jobs["punches"], jobs["verified"]
    result.punches, result.refused = punches["trim"]["total_ios"], punches.get("total_err") or 0
    result.punch = Latency.of(punches["trim"])
    result.verified = verified["read"]["total_ios"] + verified["write"]["total_ios"]
    result.verified_latency = Latency.of(verified["write"])
    result.errors = sum(max(job.get("total_err") or 0, job["error"] != 0) for job in (verified, jobs["refill"]))


def judge(policy, result):
    result.expect(result.punches > 0, "fio punches")
    if policy.corrupts:
        # A holder may have written into the filesystem's own blocks, too.
        result.expect(result.foreign > 0, "without a gate, corruption is caught")
        return
    result.expect(result.clean, "fsck.daxfs finds the pool clean")
    result.expect(result.errors == 0 and result.verified > 0, "the verified file is right, and its I/O goes on")
    result.expect(result.foreign == 0 and result.checks > 0, "a holder never sees somebody else's bytes")
    result.expect((result.refused > 0) == bool(policy.error), f"punches of pinned blocks: {policy.error or 'ok'}")
    result.expect((result.told > 0) == policy.leased, "the holder of a lease is told, and nobody else")
    if policy.waits:
        result.expect(result.punch.most > ROUND_SECONDS / 4, "a punch waits for the holder's round")
    if policy.to_limbo:
        result.expect(result.limbo > 0, "punched blocks wait in limbo")


ROWS = [
    ("punches of 64 KiB", lambda r: f"{r.punches:,}"),
    ("    refused", lambda r: f"{r.refused:,}" if r.refused else "-"),
    ("    median", lambda r: duration(r.punch.median)),
    ("    longest", lambda r: duration(r.punch.most)),
    ("most in limbo, MiB", lambda r: f"{r.limbo / MIB:.1f}" if r.limbo else "-"),
    ("verified I/O", lambda r: f"{r.verified:,}"),
    ("    errors", lambda r: f"{r.errors:,}" if r.errors else "none"),
    ("    writes, 99%", lambda r: duration(r.verified_latency.p99)),
    ("the holder's rounds", lambda r: f"{r.rounds:,}"),
    ("    was told", lambda r: f"{r.told:,} times" if r.told else "-"),
    ("    looks at a block", lambda r: f"{r.checks:,}"),
    ("    with foreign bytes", lambda r: f"{r.foreign:,}"),
    ("fsck.daxfs", lambda r: "clean" if r.clean else "DAMAGE"),
    ("as promised", lambda r: "NO" if r.broken else "yes"),
]


def table(results):
    lines = [["pin_policy=", *(r.policy for r in results)], *([what, *(of(r) for r in results)] for what, of in ROWS)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    text = ["   ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
    text.insert(1, "-" * max(map(len, text)))
    return "\n".join(text)


def broken(results):
    return [f"pin_policy={result.policy}: NOT as promised: {promise}" for result in results for promise in result.broken]


DECADES = [(1e-5, "10 µs"), (1e-4, "100 µs"), (1e-3, "1 ms"), (1e-2, "10 ms"), (1e-1, "100 ms"), (1, "1 s"), (10, "10 s")]
LEFT, PLOT, LANE, LANES_TOP = 110, 520, 46, 84


def draw(results):
    """How long punches took under each policy, on a logarithmic scale."""
    picture = drawing.Drawing("daxfs: what a punch of pinned blocks costs under each policy")
    picture.text(16, 28, "64 KiB punches of a file that a holder has pinned", 17, font_weight="bold")
    picture.text(16, 50, "each bar from the median over 99% (thick) to the longest (thin); beside it what became of them", 11.5)
    bottom = LANES_TOP + LANE * len(results)

    def at(seconds):
        first, last = DECADES[0][0], DECADES[-1][0]
        return LEFT + PLOT * drawing.share(min(max(seconds, first), last), first, last)

    for seconds, label in DECADES:
        picture.stroke(at(seconds), LANES_TOP - 10, at(seconds), bottom, drawing.FAINT)
        picture.text(at(seconds), bottom + 16, label, 11, text_anchor="middle")
    for number, result in enumerate(results):
        y = LANES_TOP + number * LANE
        colour = COLOURS[result.policy]
        picture.text(LEFT - 10, y + 18, result.policy, 12.5, text_anchor="end", font_weight="bold")
        # A single value is still to be seen.
        picture.bar(at(result.punch.median), max(at(result.punch.p99), at(result.punch.median) + 4), y + 6, 16, colour)
        picture.bar(at(result.punch.p99), at(result.punch.most), y + 12, 4, colour)
        became = f"{result.refused:,} of {result.punches:,} refused" if result.refused else f"{result.punches:,} done"
        picture.text(LEFT + PLOT + 16, y + 13, became, 11.5)
        harm = f"{result.foreign:,} looks met FOREIGN BYTES" if result.foreign else f"{result.checks:,} looks: all intact"
        picture.text(LEFT + PLOT + 16, y + 28, f"the holder's {harm}" if not result.foreign else harm, 11)
    return picture.svg(LEFT + PLOT + 250, bottom + 36)


COLOURS = {"refuse": "#e69f00", "defer": "#009e73", "wait": "#0072b2", "break": "#56b4e9", "ignore": "#d55e00"}
