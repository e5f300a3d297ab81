"""tools/bench: daxfs beside its peers, in one run."""

import argparse
import contextlib
import fnmatch
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import cases
import clients
import machine
import report
import targets
from machine import Unable, notice

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.append(os.path.join(ROOT, "tools/lib"))

from usage import Parser  # noqa: E402  (found by the line above)

TARGETS = ["daxfs", "null", "passthrough_ll", "tmpfs"]
LARGEST_REGION = 1 << 30  # the size of null-fuse's file


def positive(kind):
    def parse(text):
        try:
            value = kind(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        if not 0 < value < 1e15:
            raise argparse.ArgumentTypeError(f"'{text}' is not a positive number")
        return value

    return parse


def listed(allowed):
    def parse(text):
        names = text.split(",")
        for name in names:
            if name not in allowed:
                raise argparse.ArgumentTypeError(f"'{name}' is not one of {', '.join(allowed)}")
        return names

    return parse


def parse_arguments():
    parser = Parser(
        prog="tools/bench",
        description="Measures daxfs beside a null FUSE server, libfuse's passthrough_ll over tmpfs, and tmpfs; "
        "prints Markdown.",
        epilog="How to read the result: docs/benchmarking.md.",
    )
    parser.add_argument("--quick", action="store_true", help="about a minute: fewer repetitions, shorter each")
    parser.add_argument("--full", action="store_true", help=f"also beside {cases.HUGE_PINS:,} held pins")
    parser.add_argument(
        "--only",
        action="append",
        metavar="PATTERN",
        help="only cases whose key contains PATTERN (* and ? as in the shell); may be given often",
    )
    parser.add_argument("--list", action="store_true", help="print the keys of the cases and end")
    parser.add_argument(
        "--targets", type=listed(TARGETS), default=TARGETS, metavar="LIST", help="of " + ",".join(TARGETS)
    )
    parser.add_argument(
        "--placement",
        type=listed(list(report.PLACEMENTS)),
        default=list(report.PLACEMENTS),
        metavar="LIST",
        help="of pinned,unpinned",
    )
    parser.add_argument("--reps", type=positive(int), metavar="N", help="repetitions (default 5, quick 3)")
    parser.add_argument(
        "--seconds", type=positive(float), metavar="S", help="of each measurement (default 0.4, quick 0.08)"
    )
    parser.add_argument(
        "--files", type=positive(int), metavar="N", help="files of the metadata cases (default 5000, quick 1000)"
    )
    parser.add_argument(
        "--region",
        type=positive(machine.parse_size),
        metavar="SIZE",
        help="of the file that is read and written (default 256M, quick 64M)",
    )
    parser.add_argument(
        "--pool-size",
        type=positive(machine.parse_size),
        default="2G",
        metavar="SIZE",
        help="of the main pool (default 2G)",
    )
    parser.add_argument("--mount-options", default="", metavar="OPTIONS", help="for daxfs, as after -o")
    parser.add_argument(
        "--passthrough-options",
        default="",
        metavar="OPTIONS",
        help="for passthrough_ll, such as default_permissions (default: its own)",
    )
    parser.add_argument(
        "--shm", default="/dev/shm", metavar="DIR", help="a tmpfs with space for the pools (default /dev/shm)"
    )
    parser.add_argument(
        "--build", metavar="DIR", help="use these binaries and build nothing (default: build/release, built first)"
    )
    parser.add_argument("--json", metavar="FILE", help="write all samples there")
    parser.add_argument(
        "--fio", action="store_true", help="read and write with fio, to check our own client (at least 1 s each)"
    )
    parser.add_argument("--check-usage", action="store_true", help=argparse.SUPPRESS)
    parser.values = [*TARGETS, *report.PLACEMENTS]
    options = parser.parse_args()
    defaults = (
        {"reps": 3, "seconds": 0.08, "files": 1000, "region": 64 << 20}
        if options.quick
        else {"reps": 5, "seconds": 0.4, "files": 5000, "region": 256 << 20}
    )
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if not 4 << 20 <= options.region <= LARGEST_REGION:
        parser.error("--region: between 4M and 1G")
    if options.fio and not clients.have_fio():
        parser.error("--fio: fio is missing: apt-get install fio")
    return options


def choose(all_cases, patterns):
    if not patterns:
        return all_cases
    chosen = [case for case in all_cases if any(fnmatch.fnmatch(case.key, f"*{pattern}*") for pattern in patterns)]
    # What a chosen ratio refers to is measured as well.
    referred = {goal.peer_case for case in chosen for goal in case.goals}
    return [case for case in all_cases if case in chosen or case.key in referred]


def build(directory):
    if directory:
        return os.path.abspath(directory)
    configured = os.path.join(ROOT, "build", "release")
    steps = [["cmake", "--build", configured, "--target", "daxfs", "mkfs.daxfs", "null-fuse", "bench-client"]]
    if not os.path.exists(os.path.join(configured, "CMakeCache.txt")):
        steps.insert(0, ["cmake", "--preset", "release"])
    for step in steps:
        done = subprocess.run(step, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode != 0:
            print(done.stdout[-4000:], file=sys.stderr)
            raise Unable(f"'{' '.join(step)}' failed: see above")
    return configured


def make_targets(options, directory, work, beside):
    """The targets that this machine can run, not yet started."""
    for name in ["bench-client"] + (["null-fuse"] if "null" in options.targets else []):
        if not os.access(os.path.join(directory, name), os.X_OK):
            raise Unable(
                f"{os.path.join(directory, name)} is missing: build it (cmake --build build/release) or leave out --build"
            )
    made = []
    mountpoint = lambda name: os.path.join(work, "mnt", name)
    if "daxfs" in options.targets:
        missing = [name for name in ("daxfs", "mkfs.daxfs") if not os.access(os.path.join(directory, name), os.X_OK)]
        if missing:
            notice(f"{os.path.join(directory, missing[0])} is missing: daxfs is left out")
        else:
            sizes = {0: options.pool_size} | {pins: cases.held_pool_size(pins) for pins in beside}
            for pins, size in sizes.items():
                name = cases.held(pins) if pins else "daxfs"
                pool = os.path.join(work, f"pool-{name}")
                made.append(targets.Daxfs(name, mountpoint(name), directory, pool, size, options.mount_options, pins))
    if "null" in options.targets:
        made.append(targets.NullFuse(mountpoint("null"), directory))
    if "passthrough_ll" in options.targets:
        binary = targets.build_passthrough_ll(directory)
        if binary:
            made.append(
                targets.PassthroughLl(
                    mountpoint("passthrough_ll"),
                    os.path.join(work, "passthrough_ll"),
                    binary,
                    options.passthrough_options,
                )
            )
    if "tmpfs" in options.targets:
        made.append(targets.Tmpfs("tmpfs", os.path.join(work, "tmpfs")))
    return made


def cpus_of(placement, jobs, usable):
    return usable[:jobs] if placement == "pinned" else None


def measure_once(run, results, case, target, placement):
    cpus = cpus_of(placement, case.jobs, run.usable)
    try:
        target.run_on(cpus or run.usable)
        for key, sample in case.run(run, target, cpus).items():
            results.add(placement, key, target.name, sample)
        return True
    except clients.ClientFailed as error:
        failure = f"{case.key} on {target.name}: {error}. {target.trouble()}".rstrip(". ")
        notice(failure)
        results.failures.append(failure)
        return False


def measure(run, chosen, placements):
    """Repetition by repetition, case by case; within a case the targets take turns, another one first each time."""
    results = report.Results()
    broken = set()
    for placement in placements:
        for repetition in range(run.options.reps):
            notice(f"{placement}, repetition {repetition + 1} of {run.options.reps}")
            groups = set()
            for case in chosen:
                if case.group and case.group in groups:
                    continue
                groups.add(case.group)
                able = [
                    target
                    for target in run.targets
                    if target.name in case.targets and (case.key, target.name) not in broken
                ]
                if case.direct and not run.tmpfs_direct:
                    able = [target for target in able if target.name not in ("tmpfs", "passthrough_ll")]
                first = repetition % len(able) if able else 0
                for target in able[first:] + able[:first]:
                    if not measure_once(run, results, case, target, placement):
                        broken.add((case.key, target.name))
    return results


def mount_and_measure(options, directory, work, beside, chosen, cleanup):
    run = SimpleNamespace(
        options=options,
        client=os.path.join(directory, "bench-client"),
        usable=machine.usable_cpus(),
        tmpfs_direct=machine.supports_o_direct(work),
        targets=make_targets(options, directory, work, beside),
    )
    if not run.tmpfs_direct:
        notice("this kernel's tmpfs has no O_DIRECT: direct I/O is measured without tmpfs and passthrough_ll")
    for target in run.targets:
        cleanup.callback(target.stop)
        target.start()
        cases.prepare(run, target, chosen)
        if target.held_pins:
            cases.hold(run, target, target.held_pins)
    return measure(run, chosen, options.placement)


def run_all(options):
    beside = [cases.FEW_PINS, cases.MANY_PINS] + ([cases.HUGE_PINS] if options.full else [])
    chosen = choose(cases.all_cases(beside), options.only)
    if options.list:
        print("\n".join(case.key for case in chosen))
        return 0
    if not chosen:
        raise Unable(f"no case matches {', '.join(options.only)}: see tools/bench --list")
    if not any(case.key in ("pin", "punch") for case in chosen):
        beside = []
    machine.check(options.shm, cases.memory_needed(options, "daxfs" in options.targets, beside, chosen))
    directory = build(options.build)
    with contextlib.ExitStack() as cleanup:
        work = tempfile.mkdtemp(prefix="daxfs-bench-", dir=options.shm)
        cleanup.callback(remove, work)
        os.chmod(work, 0o755)
        try:
            results = mount_and_measure(options, directory, work, beside, chosen, cleanup)
        finally:
            ignore_signals()
    return publish(options, results, chosen)


def remove(work):
    """Never descends into a mount that could not be taken away."""
    mountpoints = os.path.join(work, "mnt")
    if os.path.isdir(mountpoints) and any(
        targets.mounted(os.path.join(mountpoints, name)) for name in os.listdir(mountpoints)
    ):
        notice(f"{work} is left behind: something in it is still mounted")
        return
    shutil.rmtree(work, ignore_errors=True)


def publish(options, results, chosen):
    head = machine.describe(ROOT)
    shown = {
        "options": f"{options.reps} repetitions of {options.seconds:g} s, file of {machine.format_size(options.region)}, {options.files} files, "
        f"pool of {machine.format_size(options.pool_size)} in {options.shm}, client {'fio' if options.fio else 'bench-client'}"
        + (f", daxfs -o {options.mount_options}" if options.mount_options else "")
        + (f", passthrough_ll -o {options.passthrough_options}" if options.passthrough_options else "")
    }
    print(report.markdown(results, chosen, head, shown, options.placement), end="")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as out:
            json.dump(report.as_json(results, chosen, head, shown, options.placement), out, indent=1)
    return 1 if results.failures else 0


STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def ignore_signals():
    """Nothing is to interrupt the unmounting."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


def stop_by_signal(number, _frame):
    ignore_signals()
    raise SystemExit(128 + number)


def main():
    for number in STOPPING:
        signal.signal(number, stop_by_signal)
    options = parse_arguments()
    if options.check_usage:
        return 0
    try:
        return run_all(options)
    except (Unable, clients.ClientFailed, OSError) as error:
        notice(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
