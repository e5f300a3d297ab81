"""tools/demo: one holder, one fio, and what each policy does when the held memory is taken away."""

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time

import report
import story
from system import MIB, Unable, cleaning_up, interruptions, mounted, say, what_is_missing

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
COMMANDS = ["daxfs", "mkfs.daxfs", "daxfsctl", "daxfs-hold"]

INTRODUCTION = """\
A holder pins a file and writes straight to the pinned memory, as a device would (RDMA, a GPU, io_uring
buffers). Meanwhile somebody punches a hole there, truncates the file, and lets other files have what is
free. The same for each pin_policy."""


def size(text):
    match = re.fullmatch(r"(\d+)([MG])", text)
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is not a size such as 512M or 1G")
    value = int(match[1]) * MIB * (1024 if match[2] == "G" else 1)
    if value < story.LEAST_POOL:
        raise argparse.ArgumentTypeError(f"'{text}' is too small for what the demo does: at least {story.LEAST_POOL // MIB}M")
    return value


def policies(text):
    names = text.split(",")
    for name in names:
        if name not in story.POLICIES:
            raise argparse.ArgumentTypeError(f"'{name}' is not one of {', '.join(story.POLICIES)}")
    return list(dict.fromkeys(names))


def parse_arguments():
    parser = argparse.ArgumentParser(
        prog="tools/demo",
        description="Shows what daxfs is for: a holder of file memory, and what each pin_policy does when somebody takes "
        "that memory away. Makes an emulated pool, mounts it, and leaves nothing behind. Needs root.",
        epilog="Exit status: 0 all was as promised, 1 it was not, or the demo cannot run here, 2 usage.",
    )
    parser.add_argument("--mountpoint", default="/mnt/daxfs", metavar="DIR", help="where to mount (default /mnt/daxfs)")
    parser.add_argument(
        "--pool", metavar="FILE", help="the pool, a file that does not exist yet (default: one in /dev/shm); deleted at the end"
    )
    parser.add_argument("--size", type=size, default="512M", metavar="SIZE", help="of the pool (default 512M)")
    parser.add_argument(
        "--policies",
        type=policies,
        default=list(story.POLICIES),
        metavar="LIST",
        help="of " + ",".join(story.POLICIES) + " (default: all)",
    )
    parser.add_argument("--json", metavar="FILE", help="also write the results there")
    parser.add_argument("--build", metavar="DIR", help="use these binaries and build nothing (default: build/release, built first)")
    parser.add_argument("--check-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.pool = os.path.abspath(options.pool or f"/dev/shm/daxfs-demo-{os.getpid()}.pool")
    options.mountpoint = os.path.realpath(options.mountpoint)
    options.build = os.path.abspath(options.build or os.path.join(ROOT, "build", "release"))
    return options


def check(options):
    missing = what_is_missing(options.pool, options.mountpoint, options.size)
    if not options.check_only:
        missing += [
            f"{name} in {options.build}: build it, or leave out --build"
            for name in COMMANDS
            if not os.access(os.path.join(options.build, name), os.X_OK)
        ]
        if not shutil.which("fio"):
            missing.append("fio: apt-get install fio")
    if missing:
        raise Unable("\n  ".join(["missing here:", *missing]))


def run(options):
    check(options)
    if options.check_only:
        return 0
    begin = time.monotonic()
    say(INTRODUCTION)
    results = []
    with cleaning_up() as cleanup:
        with interruptions.later():
            work = tempfile.mkdtemp(prefix="daxfs-demo-")
            cleanup.callback(shutil.rmtree, work, ignore_errors=True)
        for name in options.policies:
            say(f"\npin_policy={name}")
            results.append(story.tell(name, options.build, options.pool, options.mountpoint, options.size, work))
    say(f"\n{report.table(results)}\n\n{report.meaning(results)}")
    left = [path for path in (options.pool,) if os.path.lexists(path)]
    left += [options.mountpoint] if mounted(options.mountpoint) else []
    say(f"({time.monotonic() - begin:.0f} s; left behind: {', '.join(left) or 'no mount, no process, no file'})")
    for line in report.broken(results):
        say(line)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as out:
            json.dump(report.as_json(results), out, indent=1)
            out.write("\n")
    return 1 if report.broken(results) else 0


def main():
    options = parse_arguments()
    try:
        return run(options)
    except (Unable, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
