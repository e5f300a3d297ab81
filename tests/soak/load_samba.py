"""Samba exports the mount to smbclient: files, renames, attributes, ACLs, with oplocks off and on; and what a client sees of
a pinned file."""

import os
import random
import shutil
import sys

from engines import figures, lacking
from harness import Skip, check

POOL_MIB = 256
HERE = os.path.dirname(os.path.abspath(__file__))
# Ports, and what the server keeps in /run, in namespaces that end with it.
APART = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
# What a client is told when it wants to overwrite a pinned file, by policy.
OVERWRITE = {"refuse": "NT_STATUS_SHARING_VIOLATION", "defer": "ok", "wait": "waits"}


def session(place, share, oplocks, what, *words):
    state = place.path("smb")
    shutil.rmtree(state, ignore_errors=True)
    os.mkdir(state)
    script = os.path.join(HERE, "samba_session.py")
    return place.run([*APART, sys.executable, script, share, state, oplocks, what, *words], seconds=900)


def pinned(place, policy):
    name = f"pinned-{policy}"
    path = place.inside(name)
    with open(path, "wb") as file:
        file.write(b"p" * 65536)
    place.run([place.program("daxfsctl"), "policy", place.mountpoint, "set", f"pin_policy={policy}"])
    with open(place.path("held"), "wb") as log:
        holder = place.processes.start([place.program("daxfs-hold"), path, "--length", "64K"], stdout=log)
    try:
        said = session(place, place.mountpoint, "yes", "overwrite", name, str(holder.pid)).strip().splitlines()[-1]
    finally:
        place.processes.end(holder)
    print(f"      a pinned file under {policy}: the client who overwrites it sees {said}", flush=True)
    return said


def measure(place, count):
    def once(directory):
        said = session(place, directory, "yes", "measure", str(count))
        words = said.split()
        return {"smbclient, files of 4 KiB put": float(words[0]), "got": float(words[1]), "MiB put": float(words[2])}

    return once


def run(place):
    if missing := lacking("smbd", "smbclient", "smbcacls"):
        raise Skip(f"{missing}: not installed (samba, smbclient)")
    os.chmod(place.directory, 0o711)
    seed = random.SystemRandom().randrange(1 << 30)
    changes = 60 if place.quick else 1500
    with place.mounting(POOL_MIB):
        for oplocks in "no", "yes":
            with place.report.step(f"samba: oplocks {oplocks}: {changes} changes, attributes, ACLs (seed {seed})"):
                session(place, place.mountpoint, oplocks, "changes", str(changes), str(seed))
        for policy, expected in OVERWRITE.items():
            with place.report.step(f"samba: a pinned file, {policy}"):
                said = pinned(place, policy)
                check(said == expected, f"the client sees {said}, not {expected}")
    with place.report.step("samba: figures"):
        figures(place, measure(place, 50 if place.quick else 500), 256, 1 if place.quick else 3)
