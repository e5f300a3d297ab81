"""The demo's command line."""

import argparse
import os
import re
import sys

import beside
import live as live_story
import played
import story
from system import MIB

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.append(os.path.join(ROOT, "tools/lib"))

from usage import Parser  # noqa: E402  (found by the line above)


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


def seconds(text):
    if not re.fullmatch(r"[1-9]\d{0,3}", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds from 1 to 9999")
    return int(text)


def parser():
    result = Parser(
        prog="tools/demo",
        description="Shows what daxfs is for: a holder of file memory, and what each pin_policy does when somebody takes "
        "that memory away. Makes an emulated pool, mounts it, and takes both away. Needs root.",
        epilog="Exit status: 0 all was as promised, 1 it was not, or the demo cannot run here, 2 usage.",
    )
    result.add_argument(
        "what",
        nargs="?",
        choices=("policies", "thread", "fio", "live"),
        default="policies",
        help="policies (default): one holder under each pin_policy. thread: five holders under each position of the kernel "
        "developers' discussion, with a table, timelines, and (--svg) a picture. fio: the jobs of tools/fio beside a holder, with "
        "a table and (--svg) a picture. live: holders and a puncher, to be watched in a browser, where the policies are switched",
    )
    result.add_argument("--mountpoint", default="/mnt/daxfs", metavar="DIR", help="where to mount (default /mnt/daxfs)")
    result.add_argument(
        "--pool", metavar="FILE", help="the pool, a file that does not exist yet (default: one in /dev/shm); deleted at the end"
    )
    result.add_argument("--size", type=size, metavar="SIZE", help="policies: of the pool (default 256M)")
    result.add_argument(
        "--policies", type=policies, metavar="LIST", help="policies, fio: of " + ",".join(story.POLICIES) + " (default: all)"
    )
    result.add_argument("--svg", metavar="FILE", help="thread, fio: also draw a picture there")
    result.add_argument("--seconds", type=seconds, metavar="N", help="fio: for each policy (default 10); live: end after so many")
    result.add_argument("--listen", metavar="ADDRESS:PORT", help="live: where the page is served (default 127.0.0.1, a free port)")
    result.add_argument("--json", metavar="FILE", help="also write the results there")
    result.add_argument("--build", metavar="DIR", help="use these binaries and build nothing (default: build/release, built first)")
    result.values = story.POLICIES
    result.add_argument("--check-usage", action="store_true", help=argparse.SUPPRESS)
    result.add_argument("--check-only", action="store_true", help=argparse.SUPPRESS)
    return result


def parse():
    command_line = parser()
    options = command_line.parse_args()
    thread = options.what == "thread"
    policies_alone, fio, live = (options.what == what for what in ("policies", "fio", "live"))
    for name, belongs in (
        ("size", policies_alone), ("policies", policies_alone or fio), ("svg", thread or fio), ("seconds", fio or live),
        ("json", not live), ("listen", live),
    ):
        if getattr(options, name) is not None and not belongs:
            command_line.error(f"--{name} does not go with {options.what}")
    pools = {"thread": played.POOL, "fio": beside.POOL, "live": live_story.POOL}
    options.size = pools.get(options.what, options.size or 256 * MIB)
    options.seconds = options.seconds or (None if live else 10)
    options.policies = options.policies or list(story.POLICIES)
    options.pool = os.path.abspath(options.pool or f"/dev/shm/daxfs-demo-{os.getpid()}.pool")
    options.mountpoint = os.path.realpath(options.mountpoint)
    options.build = os.path.abspath(options.build or os.path.join(ROOT, "build", "release"))
    return options
