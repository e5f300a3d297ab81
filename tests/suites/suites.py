#!/usr/bin/env python3
"""Runs a public suite on a daxfs mount, from the user's own checkout, and compares with what is recorded.

    suites.py pjdfstest --build DIR     PJDFSTEST= names a checkout of pjdfstest; it is compiled here
    suites.py xfstests  --build DIR     XFSTESTS= names one of xfstests that is built (make)
    ... --record                        writes what happened into the recorded list
    ... --only WORDS                    only these tests (pjdfstest: whose name contains it); nothing missing is complained of

Exit status: 0 nothing is worse than recorded, 1 something is, 77 skipped. README.md says more."""

import argparse
import importlib
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


class Skip(Exception):
    """Why it cannot be run here."""


def recorded(name):
    """{test: outcome}, of a recorded list: `test outcome # why`."""
    with open(os.path.join(HERE, f"{name}.list"), encoding="utf-8") as file:
        lines = [line.split("#")[0].split() for line in file]
    return {words[0]: words[1] for words in lines if len(words) == 2}


def record(name, outcomes):
    """Keeps the reasons that stand there."""
    path = os.path.join(HERE, f"{name}.list")
    with open(path, encoding="utf-8") as file:
        old = file.read().splitlines()
    head = [line for line in old if line.startswith("#")]
    reasons = {line.split()[0]: line.split("#", 1)[1].strip() for line in old if "#" in line and line[:1] != "#"}
    with open(path, "w", encoding="utf-8") as file:
        for line in head:
            print(line, file=file)
        for test in sorted(outcomes):
            reason = reasons.get(test, "") if outcomes[test] != "pass" else ""
            print(f"{test} {outcomes[test]}" + (f"  # {reason}" if reason else ""), file=file)


def compare(name, outcomes, partly):
    """What is worse than recorded, one a line. A test that is not run any more is worse than one that passes."""
    expected = recorded(name)
    worse = []
    for test, outcome in sorted(expected.items()):
        now = outcomes.get(test, "missing")
        if outcome == "pass" and now != "pass" and not (partly and now == "missing"):
            worse.append(f"{test}: {now}; recorded as passing")
    for test, outcome in sorted(outcomes.items()):
        if test not in expected and outcome == "fail":
            worse.append(f"{test}: fails, and is not in the list")
        if outcome == "pass" and expected.get(test, "pass") != "pass":
            print(f"better: {test} passes now (recorded: {expected[test]})")
    return worse


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("suite", choices=("pjdfstest", "xfstests"))
    parser.add_argument("--build", required=True)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--apart", action="store_true", help="in a mount namespace of its own")
    arguments = parser.parse_args()
    variable = arguments.suite.upper()
    try:
        checkout = os.environ.get(variable, "")
        if not checkout:
            raise Skip(f"{variable}= names no checkout of {arguments.suite}")
        if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
            raise Skip("needs root and /dev/fuse")
        if not arguments.apart:
            again = ["unshare", "--mount", "--propagation", "private", sys.executable, "-B", *sys.argv, "--apart"]
            sys.exit(subprocess.run(again, check=False).returncode)
        suite = importlib.import_module(f"suite_{arguments.suite}")
        outcomes = suite.run(os.path.realpath(checkout), os.path.realpath(arguments.build), arguments.only, Skip)
    except Skip as reason:
        print(f"SKIPPED: {reason}")
        sys.exit(77)
    counts = {outcome: sum(1 for one in outcomes.values() if one == outcome) for outcome in ("pass", "fail", "notrun")}
    print(f"{arguments.suite}: {counts['pass']} passed, {counts['fail']} failed, {counts['notrun']} not run")
    if arguments.record:
        record(arguments.suite, outcomes)
    worse = compare(arguments.suite, outcomes, bool(arguments.only))
    for line in worse:
        print(f"WORSE: {line}")
    sys.exit(1 if worse else 0)


if __name__ == "__main__":
    main()
