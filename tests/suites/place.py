"""Where a suite runs: pools in memory, others' mounts let go of, all gone at the end."""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile


def let_go_of_others():
    """This namespace has got everybody's mounts, and would keep their daemons alive after an unmount."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        fuse = [line.split()[4] for line in table if " - fuse." in line]
    for escaped in reversed(fuse):
        mountpoint = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), escaped)
        subprocess.run(["umount", "--lazy", mountpoint], capture_output=True, check=False)


@contextlib.contextmanager
def directory():
    let_go_of_others()
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    place = tempfile.mkdtemp(prefix="daxfs-suites-", dir=parent)
    os.chmod(place, 0o755)
    try:
        yield place
    finally:
        for name in os.listdir(place):
            subprocess.run(["umount", "--lazy", os.path.join(place, name)], capture_output=True, check=False)
        shutil.rmtree(place, ignore_errors=True)


def make_pool(build, path, size):
    subprocess.run([os.path.join(build, "mkfs.daxfs"), "--quiet", "--size", size, path], check=True)
