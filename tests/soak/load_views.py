"""Every view of a file shows the same: page cache, O_DIRECT, mappings, pins, SEEK_DATA; beside ext4."""

import contextlib
import itertools
import os
import subprocess

from harness import Skip, check

POOL_MIB = 64
PIECE = 20000  # operations
PIECES = 500  # ten million operations in all


@contextlib.contextmanager
def ext4(place):
    """A directory of an ext4 that lies in a file."""
    image, where = place.path("ext4.image"), place.path("ext4")
    with open(image, "wb") as file:
        file.truncate(256 << 20)
    os.mkdir(where)
    place.run(["mkfs.ext4", "-q", "-b", "4096", image])
    try:
        place.run(["mount", "-o", "loop", image, where])
    except Exception as reason:
        raise Skip(f"no ext4 on a loop device here: {reason}") from reason
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", where], capture_output=True, check=False)
        os.unlink(image)
        os.rmdir(where)


def run(place):
    program = os.path.join(place.build, "tests", "views_soak")
    check(os.path.exists(program), f"{program}: not built; ninja views_soak")
    pieces = 2 if place.quick else place.rounds or PIECES
    for policy, cache in itertools.product(("refuse", "defer"), ("through", "writeback", "none")):
        operations = PIECE * max(1, pieces // 6)
        with place.report.step(f"views: {operations:,} operations beside ext4, pin_policy={policy}, cache={cache}"):
            with ext4(place) as other, place.mounting(POOL_MIB, f"pin_policy={policy},cache={cache}"):
                seed = int.from_bytes(os.urandom(3), "big")
                words = [place.mountpoint, other, str(operations), str(seed), policy, cache]
                place.run([program, *words], seconds=12 * 3600)
