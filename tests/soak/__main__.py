"""Runs the workloads that are named, one after the other. Started by tests/soak/run."""

import argparse
import importlib
import os
import signal
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


def stop(number, _frame):
    sys.exit(128 + number)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("workloads", nargs="+")
    parser.add_argument("--build", required=True)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, stop)

    totals = [0, 0, 0]
    for name in dict.fromkeys(arguments.workloads):
        place = Place(arguments.build, arguments.quick, arguments.rounds)
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
