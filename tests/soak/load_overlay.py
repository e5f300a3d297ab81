"""Containers: images, builds and runs by podman and buildah, whose overlay storage lies on a daxfs mount.

The image is made of this machine's own packages, so nothing is fetched. What a container or a build has done is compared
with the same done in a directory beside the mount."""

import json
import os
import re
import shutil
import subprocess
import time

from harness import Skip, check

POOL_MIB = 3072
BASE = ["dash", "bash", "coreutils", "findutils", "dpkg", "tar", "grep", "sed", "diffutils", "libc-bin", "base-files"]
TREES = ("/usr/share/doc/", "/usr/share/man/", "/usr/share/locale/", "/usr/share/info/")
# In the image, as root: what makes whiteouts, opaque directories, copies upwards and links of them.
CHANGES = """
set -e
dpkg -i /tmp/daxfs-try.deb >/dev/null
rm /usr/bin/yes
mv /usr/lib/try /usr/lib/moved
rm -r /usr/share/base-files /etc/skel
mkdir /etc/skel && echo new >/etc/skel/only
ln /usr/bin/env /usr/bin/env-linked
echo more >>/etc/issue
chmod 750 /usr/bin/tac
mkdir -p /deep/a/b && echo 1 >/deep/a/b/c && mv /deep/a /deep/z
rm -r /usr/lib/moved && mkdir /usr/lib/moved && echo over >/usr/lib/moved/f3
for n in 1 2 3 4 5 6 7 8 9; do echo $n >/etc/rename.$n; mv /etc/rename.$n /etc/renamed; done
dpkg -r daxfs-try >/dev/null
rm /tmp/daxfs-try.deb
"""
# A tree as text: kinds, modes, owners, links, sums. What every run has of its own is left out.
SHOW = r"""
cd / && find . -xdev -mindepth 1 \( -path ./proc -o -path ./sys -o -path ./dev -o -path ./run \) -prune -o \
  \( -name 'hosts' -o -name resolv.conf -o -name hostname -o -name mtab -o -name '.containerenv' -o -path ./var/log \) -prune -o \
  \( -type d -printf '%p %y %m %U %G\n' \) -o -printf '%p %y %m %U %G %n %l\n' | sort
find bin/ usr etc var deep -xdev -type f ! -name hosts ! -name resolv.conf ! -name hostname ! -path 'var/log/*' 2>/dev/null |
  sort | xargs -d '\n' sha256sum
"""


def base_files():
    """Files and directories of BASE and of what these depend on."""
    said = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package}\t${Pre-Depends}, ${Depends}\t${Provides}\n"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    needs = {}
    for line in said.splitlines():
        name, words, _ = line.split("\t")
        needs[name] = [re.split(r"[ (:]", first.strip())[0] for first in words.split(",")]
    wanted, seen = list(BASE), set()
    while wanted:
        name = wanted.pop()
        if name in seen or name not in needs:
            continue
        seen.add(name)
        wanted += needs[name]
    listed = subprocess.run(["dpkg-query", "-L", *sorted(seen)], capture_output=True, text=True, check=False).stdout
    found = set()
    for path in listed.splitlines():
        if path.startswith("/") and path != "/." and not path.startswith(TREES) and os.path.lexists(path):
            # A package may list what lies in /usr as if it were not merged with /.
            found.add(os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path)))
    merged = {f"/{name}" for name in ("bin", "sbin", "lib", "lib64") if os.path.islink(f"/{name}")}
    return seen, sorted(found - merged)


def make_root(root):
    """A Debian of a few packages, which knows that it has them."""
    packages, paths = base_files()
    os.mkdir(root)
    for name in ("bin", "sbin", "lib", "lib64"):
        if os.path.islink("/" + name):
            os.symlink(f"usr/{name}", os.path.join(root, name))
    names = "\0".join(path[1:] for path in paths if path.split("/")[1] not in ("proc", "sys", "dev"))
    packed = subprocess.Popen(
        ["tar", "-C", "/", "--no-recursion", "--null", "-cf", "-", "-T", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    unpacked = subprocess.Popen(["tar", "-C", root, "-xf", "-"], stdin=packed.stdout)
    packed.stdin.write(names.encode())
    packed.stdin.close()
    check(packed.wait() == 0 and unpacked.wait() == 0, "the root filesystem could not be copied")
    for name in ("usr/lib64", "dev", "proc", "sys", "tmp", "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/log"):
        os.makedirs(os.path.join(root, name), exist_ok=True)
    if not os.path.lexists(os.path.join(root, "usr/bin/sh")):
        os.symlink("dash", os.path.join(root, "usr/bin/sh"))
    for name in os.listdir("/var/lib/dpkg/info"):
        if name.endswith(".list") and name.removesuffix(".list").split(":")[0] in packages:
            shutil.copy(os.path.join("/var/lib/dpkg/info", name), os.path.join(root, "var/lib/dpkg/info"))
    with open("/var/lib/dpkg/status", encoding="utf-8") as file:
        entries = file.read().split("\n\n")
    with open(os.path.join(root, "var/lib/dpkg/status"), "w", encoding="utf-8") as file:
        file.writelines(one + "\n\n" for one in entries if one[:200].split("\n")[0].removeprefix("Package: ") in packages)
    with open(os.path.join(root, "etc/passwd"), "w", encoding="utf-8") as file:
        file.write("root:x:0:0:root:/root:/bin/sh\n")


def make_package(place, root):
    """A package of some files, into the root's /tmp."""
    tree = place.path("package")
    os.makedirs(os.path.join(tree, "DEBIAN"))
    os.makedirs(os.path.join(tree, "usr/lib/try/sub"))
    with open(os.path.join(tree, "DEBIAN/control"), "w", encoding="utf-8") as file:
        file.write("Package: daxfs-try\nVersion: 1\nArchitecture: all\nMaintainer: nobody <n@example.org>\nDescription: files\n")
    for number in range(200):
        with open(os.path.join(tree, f"usr/lib/try/f{number}"), "w", encoding="utf-8") as file:
            file.write(f"{number}\n" * number)
    place.run(["dpkg-deb", "--build", tree, os.path.join(root, "tmp/daxfs-try.deb")])


class Containers:
    """podman and buildah with their storage in one directory, as far as this machine lets them."""

    def __init__(self, place, graph, name):
        self.place = place
        self.settings = place.path(f"{name}.conf")
        with open(self.settings, "w", encoding="utf-8") as file:
            file.write(f'[storage]\ndriver = "overlay"\ngraphroot = "{graph}"\nrunroot = "{place.path(name)}.run"\n')
        hard = min(1024, *(limit for limit in (_hard_limit(),) if limit > 0))
        self.limits = [f"--ulimit=nofile={hard}:{hard}", "--ulimit=nproc=1024:1024"]

    def _run(self, command, **how):
        return self.place.run(command, env={**os.environ, "CONTAINERS_STORAGE_CONF": self.settings}, **how)

    def podman(self, *words, **how):
        return self._run(["podman", "--cgroup-manager=cgroupfs", *words], **how)

    def buildah(self, *words, **how):
        return self._run(["buildah", *words], **how)

    def run(self, image, script, **how):
        apart = ["--rm", "--cgroups=disabled", "--network=none", *self.limits]
        return self.podman("run", *apart, image, "/bin/sh", "-c", script, **how)

    def driver(self):
        store = json.loads(self.podman("info", "--format", "json"))["store"]
        return store["graphDriverName"], store["graphStatus"].get("Native Overlay Diff")


def _hard_limit():
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def one_hierarchy():
    """crun refuses to run where cgroups of version 1 are mounted beside version 2; this namespace is our own."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        if not any(" - cgroup " in line for line in table):
            return
    subprocess.run(["umount", "-R", "-l", "/sys/fs/cgroup"], check=True)
    subprocess.run(["mount", "-t", "cgroup2", "none", "/sys/fs/cgroup"], check=True)


def build(containers, archive):
    """An image, a change of it, and a run of that: seconds for each, and what the two images look like."""
    times, seen = {}, {}

    def timed(what, action):
        begin = time.monotonic()
        result = action()
        times[what] = time.monotonic() - begin
        return result

    timed("import", lambda: containers.podman("import", "--quiet", archive, "local/base"))
    seen["base"] = timed("run", lambda: containers.run("local/base", SHOW))
    name = containers.buildah("from", "--pull-never", "local/base").strip()
    timed("build", lambda: containers.buildah("run", "--isolation", "chroot", name, "/bin/sh", "-c", CHANGES))
    timed("commit", lambda: containers.buildah("commit", "--quiet", name, "local/changed"))
    containers.buildah("rm", name)
    seen["changed"] = containers.run("local/changed", SHOW)
    # The same once more in a container that was not committed.
    seen["in place"] = containers.run("local/base", CHANGES + SHOW)
    return times, seen


def tree_of(place, root):
    return place.run(["chroot", root, "/bin/sh", "-c", SHOW])


def differs(seen, expected):
    ours, theirs = set(seen.splitlines()), set(expected.splitlines())
    return "; ".join([*(f"+{line}" for line in sorted(ours - theirs)[:5]), *(f"-{line}" for line in sorted(theirs - ours)[:5])])


def run(place):
    lacking = [name for name in ("podman", "buildah", "crun", "dpkg-deb") if shutil.which(name) is None]
    if lacking:
        raise Skip(f"{', '.join(lacking)}: not installed")
    one_hierarchy()
    root, archive = place.path("root"), place.path("root.tar")
    make_root(root)
    make_package(place, root)
    place.run(["tar", "-C", root, "-cf", archive, "."])
    expected = {"base": tree_of(place, root)}
    place.run(["chroot", root, "/bin/sh", "-c", CHANGES])
    expected["changed"] = expected["in place"] = tree_of(place, root)
    with place.mounting(POOL_MIB, "pin_policy=defer"):
        free = place.free()
        containers = Containers(place, place.inside("storage"), "daxfs")
        with place.report.step("overlay: the driver is overlay, and the kernel's"):
            check(containers.driver() == ("overlay", "true"), f"it is {containers.driver()}")
        times = {}
        with place.report.step("overlay: an image, a build and runs of both, as in a directory"):
            times, seen = build(containers, archive)
            for name, tree in expected.items():
                check(seen[name] == tree, f"{name}: {differs(seen[name], tree)}")
        with place.report.step("overlay: containers at once, each with files of its own"):
            script = "for n in $(seq 300); do echo $0 >/usr/lib/$n; mv /usr/lib/$n /etc/$n; done; cat /etc/[0-9]* | sort | uniq -c"
            for _ in range(1 if place.quick else 10):
                together(containers, script)
        with place.report.step("overlay: everything removed, the pool is as it was"):
            containers.podman("rmi", "--all", "--force")
            place.unmount()
            place.run([place.program("fsck.daxfs"), "-n", place.pool])
            place.mount("pin_policy=defer")
            place.empty()
            place.check_free(free)
    with place.report.step("overlay: the same on a tmpfs, for its figures"):
        beside, _ = build(Containers(place, place.path("storage"), "tmpfs"), archive)
        for what, seconds in times.items():
            print(f"      {what}: {seconds:.2f} s on daxfs, {beside[what]:.2f} s on tmpfs", flush=True)
    subprocess.run(["umount", "-l", place.path("storage/overlay")], capture_output=True, check=False)


def together(containers, script, count=4):
    children = []
    environment = {**os.environ, "CONTAINERS_STORAGE_CONF": containers.settings}
    for number in range(count):
        words = ["--rm", "--cgroups=disabled", "--network=none", *containers.limits]
        command = ["podman", "--cgroup-manager=cgroupfs", "run", *words, "local/changed", "/bin/sh", "-c", script, str(number)]
        children.append(containers.place.processes.start(command, env=environment, stdout=subprocess.PIPE, text=True))
    for number, child in enumerate(children):
        out, _ = child.communicate(timeout=300)
        check(child.returncode == 0 and out.split() == ["300", str(number)], f"container {number}: {out!r}")
