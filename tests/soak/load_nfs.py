"""NFS-Ganesha exports the mount: files that the kernel has forgotten can be read, and what a pin's refusal becomes."""

import os
import shutil
import sys

from harness import Skip, check

POOL_MIB = 128
FILES = 2000
HERE = os.path.dirname(os.path.abspath(__file__))


def run(place):
    lacking = [name for name in ("ganesha.nfsd", "rpcbind", "nfs-cat") if not shutil.which(name)]
    if lacking:
        raise Skip(f"{', '.join(lacking)}: not installed (nfs-ganesha-vfs, rpcbind, libnfs-utils)")
    files = 200 if place.quick else FILES
    with place.mounting(POOL_MIB):
        for number in range(files):
            with open(place.inside(f"f{number}"), "wb") as file:
                file.write(b"%d\n" % number * 500)
        held = place.inside("held")
        with open(held, "wb") as file:
            file.write(bytes(65536))
        holder = place.processes.start(
            [place.program("daxfs-hold"), held, "--length", "64K"], stdout=open(place.path("held.log"), "wb")
        )
        # Ports, and what the servers keep in /run, in namespaces that end with them.
        apart = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"]
        session = [sys.executable, os.path.join(HERE, "nfs_session.py"), place.mountpoint, place.path("nfs")]
        with place.report.step(f"nfs: {files} forgotten files are read over v3 and v4, a pinned one is not cut"):
            os.mkdir(place.path("nfs"))
            said = place.run([*apart, *session, str(files)], seconds=1800)
            check(os.path.getsize(held) == 65536, "the pinned file was cut")
            lines = said.strip().splitlines()
            check("3 -11" in lines, f"v3 says {lines}, not NFS3ERR_JUKEBOX")
            check("4 -34" in lines, f"v4 says {lines}, not NFS4ERR_SHARE_DENIED")
        place.processes.end(holder)
