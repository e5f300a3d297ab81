"""The machine that is measured: what it is, and whether it has what a run needs."""

import os
import platform
import re
import shutil
import subprocess
import sys


class Unable(Exception):
    """Something is missing; the text names the object, the cause and the way out."""


def notice(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def output_of(command):
    """What a command prints, or '' if it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def parse_size(text):
    """Bytes of '4096', '256M', '2G'."""
    match = re.fullmatch(r"([1-9][0-9]*)([KMGT]?)", text.upper())
    if not match:
        raise ValueError(f"'{text}' is no size: write a number and K, M, G or T, such as 2G")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[match[2]]


def format_size(size):
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 1 << shift:
            return f"{size / (1 << shift):.4g} {unit}"
    return f"{size} B"


def usable_cpus():
    return sorted(os.sched_getaffinity(0))


def supports_o_direct(directory):
    """tmpfs has O_DIRECT since Linux 6.6."""
    path = os.path.join(directory, "direct-probe")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_DIRECT))
        return True
    except OSError:
        return False
    finally:
        if os.path.exists(path):
            os.unlink(path)


def check(shm, bytes_needed):
    if os.geteuid() != 0:
        raise Unable("mounting for all users and pinning servers to CPUs need root: run tools/bench as root")
    if not os.path.exists("/dev/fuse"):
        raise Unable("/dev/fuse is missing: load the module (modprobe fuse), or give the container --device /dev/fuse")
    if not os.path.isdir(shm):
        raise Unable(f"{shm} is no directory: name a tmpfs with --shm DIR")
    free = shutil.disk_usage(shm).free
    if free < bytes_needed:
        raise Unable(
            f"{shm} has {format_size(free)} free and the run needs {format_size(bytes_needed)}: free some, "
            "enlarge it (mount -o remount,size=SIZE), or use a smaller --region"
        )


def describe(root):
    model, virtual = "unknown CPU", ""
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        for line in info:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
            if line.startswith("flags") and " hypervisor" in line:
                virtual = ", virtual machine"
    git = ["git", "-c", f"safe.directory={root}", "-C", root]
    commit = output_of(git + ["rev-parse", "--short=12", "HEAD"]) or "none"
    if commit != "none" and output_of(git + ["status", "--porcelain", "--untracked-files=no"]):
        commit += " with changes"
    return {
        "cpu": f"{model}, {len(usable_cpus())} CPUs usable{virtual}",
        "kernel": platform.release(),
        "libfuse": output_of(["pkg-config", "--modversion", "fuse3"]) or "unknown",
        "commit": commit,
    }
