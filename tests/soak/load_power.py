"""The power fails under load, again and again: a virtual machine with persistent memory is killed and booted anew."""

import os
import subprocess
import sys

from harness import Failure, Skip

ROUNDS, QUICK_ROUNDS = 50, 3
PLACES = ["ext4", "devdax"]
SKIPPED = 77


def run(place):
    rounds = place.rounds or (QUICK_ROUNDS if place.quick else ROUNDS)
    vm_test = os.path.join(place.source, "tests/vm/vm-test")
    for number, where in enumerate(PLACES):
        # Together they are as many as was asked for.
        share = (rounds + len(PLACES) - 1 - number) // len(PLACES)
        if share == 0:
            continue
        with place.report.step(f"power: {share} power failures, pool on {where}"):
            command = [sys.executable, vm_test, f"power-{where}", "--build", place.build, "--rounds", str(share)]
            child = place.processes.start(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            try:
                lines = follow(child)
            finally:
                place.processes.end(child)
            if child.returncode == SKIPPED:
                raise Skip(lines[-1].removeprefix("SKIPPED: "))
            if child.returncode:
                raise Failure(" | ".join(lines[-4:]))


def follow(child):
    """Its output, shown line by line as it comes. It has time limits of its own."""
    lines = []
    for line in child.stdout:
        lines.append(line.strip())
        print(f"      {lines[-1]}", flush=True)
    child.wait()
    return lines
