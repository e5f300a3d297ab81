"""Random operations of several users on daxfs and on ext4: each answer is the same, and the trees are."""

import os

from harness import Skip, check

PIECE = 20000  # operations
PIECES = 500  # ten million operations in all


def run(place):
    program = os.path.join(place.build, "tests", "differential")
    check(os.path.exists(program), f"{program}: not built; ninja differential")
    pieces = 6 if place.quick else place.rounds or PIECES
    operations = PIECE * pieces
    seed = int.from_bytes(os.urandom(3), "big") + 1
    with place.report.step(f"differential: {operations:,} operations beside ext4, from seed {seed}"):
        words = [program, "--build", place.build, "--seed", str(seed), "--operations", str(operations)]
        said = place.run(words, seconds=24 * 3600, status=None)
        if "SKIPPED: " in said:
            raise Skip(said.strip())
        # What it says at its end: the difference, and how to see it again.
        check("no difference" in (said.splitlines() or [""])[-1], said[-4000:])
