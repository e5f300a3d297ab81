"""Runs the workloads that are named, one after the other. Started by tests/soak/run."""

import argparse
import importlib
import os
import re
import signal
import subprocess
import sys

from harness import Place, Skip


def lacking():
    """Why nothing can be mounted here, or ''."""
    if os.geteuid() != 0:
        return "only root can do this: mounting for all users, device nodes, foreign owners"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"/dev/fuse: {error.strerror}"
    return ""


def let_go_of_others():
    """Our namespace has got everybody's mounts, and would keep their daemons alive after an unmount."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        fuse = [line.split()[4] for line in table if " - fuse." in line]
    for escaped in reversed(fuse):
        mountpoint = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), escaped)
        subprocess.run(["umount", "--lazy", mountpoint], capture_output=True, check=False)


def stop(number, _frame):
    sys.exit(128 + number)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("workloads", nargs="+")
    parser.add_argument("--build", required=True)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--minutes", type=int)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--apart", action="store_true", help="in a mount namespace of its own")
    arguments = parser.parse_args()
    if arguments.apart:
        let_go_of_others()
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, stop)

    totals = [0, 0, 0]
    for name in dict.fromkeys(arguments.workloads):
        place = Place(arguments.build, arguments.quick, arguments.rounds, minutes=arguments.minutes)
        try:
            reason = lacking()
            # What happens between steps (making a pool, mounting, unmounting) is one, too.
            with place.report.step(f"{name}: the whole of it"):
                if reason:
                    raise Skip(reason)
                importlib.import_module(f"load_{name}").run(place)
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)
        finally:
            place.close()
        report = place.report
        totals = [a + b for a, b in zip(totals, (report.passed, report.failed, report.skipped))]
    print(f"{totals[0]} passed, {totals[1]} failed, {totals[2]} skipped", flush=True)
    sys.exit(1 if totals[1] else 0)


if __name__ == "__main__":
    main()
