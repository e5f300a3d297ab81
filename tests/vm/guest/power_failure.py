"""power_failure.py BUILD ROUND SEED: one life of a guest whose power will fail.

What the lives before this one acknowledged must be there; then writers change more, until the end. Their logs lie in
/results, with the host. When all of them are at work, /results/loaded-ROUND appears."""

import os
import pathlib
import random
import sys

SOURCE = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(SOURCE / "tests/soak"))

from ack_log import AckLog  # noqa: E402  (found by the line above)
from harness import BLOCK, Place, check, wait_until  # noqa: E402
from load_crash import Writer, blocks_of_files  # noqa: E402
from pool_reader import PoolReader  # noqa: E402

RESULTS = "/results"
POOL_MIB = 256
ROUNDS_KEPT = 5  # then the mount is emptied
PROFILES = ["data", "names"]
PATIENCE = 300


class Life(Place):
    """Logs go to the host."""

    def path(self, name):
        return os.path.join(RESULTS if name.endswith(".log") else self.directory, name)


def logs_of(place, number):
    """Those since the mount was emptied last."""
    first = (number - 1) // ROUNDS_KEPT * ROUNDS_KEPT
    for round_number in range(first, number):
        for i in range(len(PROFILES)):
            name = f"r{round_number}w{i}"
            yield AckLog(name, place.inside(name), place.path(name + ".log"))


def check_space(place):
    """What files take and what is free must be all there is, by two ways of counting."""
    reader = PoolReader(place.pool)
    in_pool = reader.count()
    of_files = blocks_of_files(place.mountpoint)
    check(of_files == reader.file_blocks, f"files take {of_files} blocks, in the pool {reader.file_blocks}")
    status = place.ask("status")
    used = (status["total"] - status["free"]) // BLOCK
    check(used == in_pool, f"{used} blocks are not free, in the pool {in_pool} belong to somebody")
    check(status["limbo"] == 0, f"{status['limbo']} bytes are in limbo, and nobody has pinned anything")


def verify_the_past(place, number):
    place.run([place.program("fsck.daxfs"), "-n", place.pool])
    place.mount()
    acknowledged = 0
    for log in logs_of(place, number):
        log.verify()
        acknowledged += log.acknowledged()
    check_space(place)
    return acknowledged


def main():
    build, number, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    dice = random.Random(seed)
    place = Life(build, pool=os.environ["POOL"])
    with place.report.step(f"round {number}: what was acknowledged before is there"):
        if number == 0:
            place.format(POOL_MIB)
            place.mount()
        else:
            print(f"{verify_the_past(place, number)} acknowledged changes", flush=True)
        if number % ROUNDS_KEPT == 0:
            place.empty()
    if place.report.failed:
        return 1
    with place.report.step(f"round {number}: load, until the power fails"):
        writers = [Writer(place, f"r{number}w{i}", p, dice.randrange(1 << 30)) for i, p in enumerate(PROFILES)]
        wait_until(lambda: all(w.acknowledged() > 5 for w in writers), PATIENCE, "acknowledgements")
        pathlib.Path(RESULTS, f"loaded-{number}").touch()
        for writer in writers:
            writer.process.wait(PATIENCE)
        check(False, "the writers ended, and the power did not fail")
    return 1


if __name__ == "__main__":
    sys.exit(main())
