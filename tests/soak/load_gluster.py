"""GlusterFS: a volume of three replicas on three mounts, in network namespaces. A brick's daemon is killed under load, again
and again; then a file that one brick has pinned is cut under each policy."""

import os
import random
import re
import shutil
import sys

from engines import CACHES, lacking, rounds_of
from harness import Skip, check

ROUNDS, QUICK_ROUNDS = 8, 1
# What happens when a file is cut that the second of three bricks has pinned, before the release.
PINNED = {
    "refuse": r"the client: ok; sizes \[0, 65536, 0\]; to heal [1-9]\d*",
    "defer": r"the client: ok; sizes \[0, 0, 0\]; to heal 0",
    "wait": r"the client: waits; sizes \[0, 65536, 0\]; to heal -1",
}
HERE = os.path.dirname(os.path.abspath(__file__))
# The shell is the first process there: it reaps what the daemons leave, whom glusterd would take for living bricks.
APART = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", '"$@" & wait $!', "-"]


def session(place, cache, rounds, seed):
    directory = place.path(f"gluster-{cache}")
    os.mkdir(directory)
    script = os.path.join(HERE, "gluster_session.py")
    words = [place.build, directory, cache, str(rounds), str(seed)]
    try:
        said = place.run([*APART, sys.executable, script, *words], seconds=2400)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    for line in said.splitlines():
        print("      " + line, flush=True)
    return said


def run(place):
    if missing := lacking("glusterd", "gluster", "glusterfs", "ip"):
        raise Skip(f"{missing}: not installed (glusterfs-server, glusterfs-client, iproute2)")
    rounds = rounds_of(place, ROUNDS, QUICK_ROUNDS)
    for cache in CACHES[:1] if place.quick else CACHES:
        seed = random.SystemRandom().randrange(1 << 30)
        with place.report.step(f"gluster: {cache}: {rounds} deaths of a brick's daemon, pinned files (seed {seed})"):
            said = session(place, cache, rounds, seed)
            for policy, seen in PINNED.items():
                found = re.search(rf"^pinned {policy}: (.*); after the release \[0, 0, 0\]$", said, re.M)
                check(found and re.fullmatch(seen, found[1]), f"{policy}: {found and found[1]}")
