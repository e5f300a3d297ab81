"""git, and the build of a C project with its own tests, in the mount."""

import glob
import os
import shutil

from harness import Skip, check

POOL_MIB = 1536
SOURCE = "/usr/lib/python3"  # there is one wherever this runs, and it has some thousand files


def git(place, where, *words, **how):
    identity = ["-c", "user.name=soak", "-c", "user.email=soak@localhost", "-c", "init.defaultBranch=main"]
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    return place.run(["git", "-C", where, *identity, *words], seconds=900, env=environment, **how)


def make_origin(place):
    """A repository beside the mount, with some history."""
    origin = place.path("origin")
    version = max(glob.glob(SOURCE + ".*"), key=len)
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    os.mkdir(origin)
    git(place, origin, "init", "-q")
    for name in sorted(os.listdir(version))[: 60 if place.quick else None]:
        source = os.path.join(version, name)
        if os.path.isdir(source) and not os.path.islink(source):
            shutil.copytree(source, os.path.join(origin, name), symlinks=True, ignore=ignored)
        elif name.endswith(".py"):
            shutil.copy2(source, origin, follow_symlinks=False)
    git(place, origin, "add", "-A")
    git(place, origin, "commit", "-q", "-m", "one")
    for path in sorted(glob.glob(os.path.join(origin, "*.py")))[:20]:
        with open(path, "a", encoding="utf-8") as file:
            file.write("# changed\n")
    git(place, origin, "commit", "-q", "-a", "-m", "two")
    git(place, origin, "branch", "side", "HEAD~1")
    return origin


def run(place):
    with place.mounting(POOL_MIB):
        empty = place.free()
        with place.report.step("git: clone, fsck, status"):
            origin = make_origin(place)
            clone = place.inside("clone")
            git(place, place.directory, "clone", "-q", "file://" + origin, clone)
            git(place, clone, "fsck", "--full", "--strict")
            check(git(place, clone, "status", "--porcelain") == "", "git status is not clean after a clone")
            reference = place.path("reference")
            git(place, place.directory, "clone", "-q", "file://" + origin, reference)
            place.run(["diff", "-r", "--no-dereference", "--exclude=.git", reference, clone], seconds=600)
        with place.report.step("git: branch, commit, merge, gc"):
            git(place, clone, "checkout", "-q", "-b", "work", "origin/side")
            with open(os.path.join(clone, "new file"), "w", encoding="utf-8") as file:
                file.write("new\n")
            git(place, clone, "add", "-A")
            git(place, clone, "commit", "-q", "-m", "three")
            git(place, clone, "merge", "-q", "-m", "merged", "main")
            git(place, clone, "gc", "-q", "--prune=now")
            git(place, clone, "fsck", "--full", "--strict")
            check(git(place, clone, "status", "--porcelain") == "", "git status is not clean after a merge")
        with place.report.step("git: a second clone with hard links"):
            git(place, place.directory, "clone", "-q", "--local", clone, place.inside("second"))
            git(place, place.inside("second"), "fsck", "--full")
        with place.report.step("git: build zlib and run its tests"):
            build_zlib(place)
        with place.report.step("git: all space is free again"):
            place.empty()
            place.check_free(empty)


def build_zlib(place):
    where = place.inside("build")
    os.mkdir(where)
    fetch_zlib(place, where)
    [tree] = [path for path in glob.glob(os.path.join(where, "zlib-*")) if os.path.isdir(path)]
    place.run(["./configure"], seconds=600, cwd=tree)
    place.run(["make", "-j2"], seconds=1200, cwd=tree)
    tested = place.run(["make", "test"], seconds=600, cwd=tree)
    check("zlib test OK" in tested, "zlib's own tests did not say that they passed")
    place.run(["make", "clean"], seconds=600, cwd=tree)


def fetch_zlib(place, where):
    """With a source list of our own: the system's may have no sources in it, and stays as it is."""
    release = {}
    with open("/etc/os-release", encoding="utf-8") as lines:
        release = dict(line.strip().split("=", 1) for line in lines if "=" in line)
    suite = release.get("VERSION_CODENAME", "").strip('"')
    if not suite or not shutil.which("apt-get"):
        raise Skip("no apt to fetch zlib's source with")
    apt = place.path("apt")
    os.makedirs(os.path.join(apt, "lists", "partial"))
    with open(os.path.join(apt, "sources.list"), "w", encoding="utf-8") as file:
        signed = "/usr/share/keyrings/debian-archive-keyring.gpg"
        file.write(f"deb-src [signed-by={signed}] http://deb.debian.org/debian {suite} main\n")
    settings = [
        f"Dir::Etc::sourcelist={apt}/sources.list",
        "Dir::Etc::sourceparts=/dev/null",
        f"Dir::State::lists={apt}/lists",
        "APT::Sandbox::User=root",
    ]
    words = [word for setting in settings for word in ("-o", setting)]
    try:
        place.run(["apt-get", "-q", *words, "update"], seconds=300)
        place.run(["apt-get", "-q", *words, "source", "zlib"], seconds=300, cwd=where)
    finally:
        shutil.rmtree(apt, ignore_errors=True)
