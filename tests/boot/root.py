"""The disk of the guest: a Debian that debootstrap has made, with our packages and what the test needs, as one ext4 image.

What debootstrap has made is kept in the cache, and so are the packages that ours depend on."""

import os
import shutil
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
MIRROR = "http://deb.debian.org/debian"
INCLUDED = "systemd-sysv,udev,kmod,ndctl,e2fsprogs,fuse3"
SPARE_MIB = 256

# The README's lines, as far as the devices allow; `nofail` is in one of them.
FSTAB = """\
/dev/vda        /            ext4        defaults                                                    0 1
/dev/pmem1      /mnt/pmem    ext4        dax=always                                                  0 0
/dev/dax0.0     /mnt/device  fuse.daxfs  pin_policy=defer                                            0 0
/mnt/pmem/pool  /mnt/file    fuse.daxfs  pin_policy=defer,nofail,x-systemd.requires-mounts-for=/mnt/pmem  0 0
/srv/bad        /mnt/bad     fuse.daxfs  nofail                                                      0 0
/srv/absent     /mnt/absent  fuse.daxfs  nofail                                                      0 0
"""
MOUNT_UNIT = """\
[Unit]
Description=A pool on the root filesystem

[Mount]
What=/srv/pool
Where=/mnt/unit
Type=fuse.daxfs
Options=cache=writeback

[Install]
WantedBy=local-fs.target
"""
SERVED = "POOL=/mnt/pmem/served\nMOUNTPOINT=/mnt/served\nOPTIONS=pin_policy=wait\n"
WRITER = """\
[Unit]
Description=Who needs the mounts
RequiresMountsFor=/mnt/device /mnt/file /mnt/unit
Requires=daxfs@served.service
After=daxfs@served.service

[Service]
ExecStart=/boot-test/writer
KillMode=mixed

[Install]
WantedBy=multi-user.target
"""
PROBE = """\
[Unit]
Description=Looks at what the boot has made
After=writer.service

[Service]
ExecStart=/boot-test/probe

[Install]
WantedBy=multi-user.target
"""
# The CPU is an emulated one, and the machine may be busy: devices come late. How long things may take to stop is as it was.
PATIENCE = "[Manager]\nDefaultTimeoutStartSec=10min\nDefaultDeviceTimeoutSec=10min\n"
FILES = {
    "etc/systemd/system.conf.d/patience.conf": PATIENCE,
    "etc/fstab": FSTAB,
    "etc/hostname": "guest\n",
    "etc/systemd/system/mnt-unit.mount": MOUNT_UNIT,
    "etc/systemd/system/writer.service": WRITER,
    "etc/systemd/system/probe.service": PROBE,
    "etc/daxfs/served.conf": SERVED,
}


class NoRoot(Exception):
    """Why there is none, in one line."""


def run(*command, **how):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **how)
    if done.returncode:
        raise NoRoot(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


def cache_directory():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    directory = os.path.join(base, "daxfs-boot")
    os.makedirs(directory, exist_ok=True)
    return directory


def bare(suite):
    """A directory with nothing but Debian."""
    made = os.path.join(cache_directory(), suite)
    if not os.path.exists(made):
        shutil.rmtree(made + ".new", ignore_errors=True)
        run("debootstrap", "--variant=minbase", "--include=" + INCLUDED, suite, made + ".new", MIRROR)
        os.rename(made + ".new", made)
    return made


def in_root(root, *command):
    """In namespaces of its own, which take the mounts and all processes with them."""
    script = 'mount --rbind /dev "$0/dev" && mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
    environment = ["/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive"]
    environment += [f"{name}={os.environ[name]}" for name in ("http_proxy", "https_proxy") if name in os.environ]
    run(*"unshare --mount --pid --fork --kill-child --propagation private sh -ec".split(), script, root, *environment, *command)


def install(root, debs):
    """Our packages, and what they depend on."""
    shutil.copy("/etc/resolv.conf", os.path.join(root, "etc/resolv.conf"))
    place = os.path.join(root, "debs")
    os.makedirs(place)
    names = [name for name in os.listdir(debs) if name.startswith(("daxfs_", "libdaxfs0_"))]
    if len(names) < 2:
        raise NoRoot(f"{debs} has no packages daxfs and libdaxfs0: tools/package makes them")
    for name in names:
        shutil.copy(os.path.join(debs, name), place)
    # In a chroot nothing is to be started.
    with open(os.path.join(root, "usr/sbin/policy-rc.d"), "w", encoding="ascii") as file:
        file.write("#!/bin/sh\nexit 101\n")
    os.chmod(file.name, 0o755)
    in_root(root, "apt-get", "-q", "update")
    in_root(root, "apt-get", "-qy", "--no-install-recommends", "install", *(f"/debs/{name}" for name in names))
    shutil.rmtree(place)
    os.unlink(file.name)


def configure(root):
    for path, text in FILES.items():
        os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
        with open(os.path.join(root, path), "w", encoding="ascii") as file:
            file.write(text)
    for directory in ("results", "var/log/journal"):
        os.makedirs(os.path.join(root, directory), exist_ok=True)
    shutil.copytree(os.path.join(HERE, "guest"), os.path.join(root, "boot-test"))
    # It watches the health of DIMMs, which these have none of.
    in_root(root, "systemctl", "mask", "ndctl-monitor.service")
    in_root(root, "systemctl", "enable", "mnt-unit.mount", "daxfs@served.service", "writer.service", "probe.service")


def make_disk(path, suite, debs, work):
    root = os.path.join(work, "root")
    run("cp", "-a", "--reflink=auto", bare(suite), root)
    try:
        install(root, debs)
        configure(root)
        shutil.rmtree(os.path.join(root, "var/cache/apt"))
        used = int(run("du", "-sm", root).split()[0])
        run("mkfs.ext4", "-q", "-L", "root", "-d", root, path, f"{used * 5 // 4 + SPARE_MIB}M")
    finally:
        shutil.rmtree(root)
