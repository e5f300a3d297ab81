"""tools/demo: what each policy does when held memory is taken away; tools/demo thread: the same for each position of the 2017
discussion; tools/demo fio: fio's punches beside a holder."""

import json
import os
import secrets
import shutil
import sys
import tempfile
import time

import arguments
import beside
import drawing
import leftovers
import live
import outcomes
import played
import positions
import report
import story
from system import Unable, cleaning_up, interruptions, mounted, say, what_is_missing

COMMANDS = ["daxfs", "mkfs.daxfs", "daxfsctl", "daxfs-hold"]

INTRODUCTION = """\
A holder pins a file and writes straight to the pinned memory, as a device would (RDMA, a GPU, io_uring
buffers). Meanwhile somebody punches a hole there, truncates the file, and lets other files have what is
free. The same for each pin_policy."""

THREAD_INTRODUCTION = """\
What the kernel developers proposed against "dax: truncate vs. DMA" in October 2017 and later, each as
mount options of daxfs, under the same load.
"""


FIO_INTRODUCTION = """\
fio punches random 64 KiB out of a file that a holder has pinned, half a second at a time; others take what
becomes free, and every byte of one more file is verified: the jobs of tools/fio, under each pin_policy."""


def check(options):
    missing = what_is_missing(options.pool, options.mountpoint, options.size)
    if not options.check_only:
        missing += [
            f"{name} in {options.build}: build it, or leave out --build"
            for name in COMMANDS
            if not os.access(os.path.join(options.build, name), os.X_OK)
        ]
        if options.what in ("policies", "fio") and not shutil.which("fio"):
            missing.append("fio: apt-get install fio")
    for option, path in (("--svg", options.svg), ("--json", options.json)):
        directory = os.path.dirname(os.path.abspath(path)) if path else None
        if directory and (os.path.isdir(path) or not os.access(directory, os.W_OK | os.X_OK)):
            missing.append(f"a place for {path}: {directory} must be a directory that can be written to; give another with {option}")
    if missing:
        raise Unable("\n  ".join(["missing here:", *missing]))


def tell_policies(options, work, record):
    say(INTRODUCTION)
    results = []
    for name in options.policies:
        say(f"\npin_policy={name}")
        results.append(story.tell(name, options.build, options.pool, options.mountpoint, options.size, work, record))
    say(f"\n{report.table(results)}\n\n{report.meaning(results)}")
    return report.broken(results), report.as_json(results)


def tell_thread(options, work, record):
    say(THREAD_INTRODUCTION + outcomes.explanation())
    all_played = []
    for position in positions.POSITIONS:
        say(f"\n{position.who}: {position.says}")
        all_played.append(played.play(position, options.build, options.pool, options.mountpoint, work, record))
    say(f"\n{outcomes.table(all_played)}\n\n{outcomes.timelines(all_played)}\n")
    if options.svg:
        with open(options.svg, "w", encoding="utf-8") as out:
            out.write(drawing.draw(all_played))
        say(f"The timelines as a picture: {options.svg}")
    else:
        say("--svg FILE draws the timelines as a picture.")
    return outcomes.broken(all_played), outcomes.as_json(all_played)


def tell_fio(options, work, record):
    say(FIO_INTRODUCTION)
    results = []
    for name in options.policies:
        say(f"\npin_policy={name}")
        results.append(beside.tell(name, options, work, record))
    say(f"\n{beside.table(results)}\n")
    if options.svg:
        with open(options.svg, "w", encoding="utf-8") as out:
            out.write(beside.draw(results))
        say(f"The punches as a picture: {options.svg}")
    return beside.broken(results), {"policies": [result.as_json() for result in results]}


def tell_live(options, work, record):
    live.tell(options, work, record)
    return [], None


STORIES = {"policies": tell_policies, "thread": tell_thread, "fio": tell_fio, "live": tell_live}


def run(options):
    if os.geteuid() == 0:
        leftovers.clear(say)
    check(options)
    if options.check_only:
        return 0
    begin = time.monotonic()
    with cleaning_up() as cleanup:
        with interruptions.later():
            record = leftovers.Record(options.pool, options.mountpoint)
            cleanup.callback(record.close)
            work = os.path.join(tempfile.gettempdir(), f"daxfs-demo-{secrets.token_hex(6)}")
            record.note(work=work)
            os.mkdir(work, mode=0o700)
            cleanup.callback(shutil.rmtree, work, ignore_errors=True)
        broken, results = STORIES[options.what](options, work, record)
    left = [path for path in (options.pool,) if os.path.lexists(path)]
    left += [options.mountpoint] if mounted(options.mountpoint) else []
    say(f"({time.monotonic() - begin:.0f} s; left behind: {', '.join(left) or 'no mount, no process, no file'})")
    for line in broken:
        say(line)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as out:
            json.dump(results, out, indent=1)
            out.write("\n")
    return 1 if broken else 0


def main():
    options = arguments.parse()
    if options.check_usage:
        return 0
    try:
        return run(options)
    except (Unable, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
