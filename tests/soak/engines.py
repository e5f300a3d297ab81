"""What the storage engines' workloads share: other filesystems beside the mount, and figures from all of them."""

import contextlib
import os
import shutil
import statistics
import time

from harness import MIB, Failure, Place, check

CACHES = "through", "writeback"


def lacking(*programs):
    return ", ".join(name for name in programs if not shutil.which(name))


def unmount(place, where):
    place.run(["umount", "--lazy", where], status=None)


@contextlib.contextmanager
def ext4(place, mib):
    """An ext4 on a loop device whose file lies in memory, where the pool lies, too."""
    image, where = place.path("ext4.image"), place.path("ext4")
    os.mkdir(where)
    with open(image, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, mib * MIB)
    place.run(["mkfs.ext4", "-q", "-F", "-b", "4096", image])
    place.run(["mount", "-o", "loop", image, where])
    try:
        yield where
    finally:
        unmount(place, where)
        os.unlink(image)


@contextlib.contextmanager
def tmpfs(place, mib):
    where = place.path("tmpfs")
    os.mkdir(where)
    place.run(["mount", "-t", "tmpfs", "-o", f"size={mib}M", "none", where])
    try:
        yield where
    finally:
        unmount(place, where)


@contextlib.contextmanager
def another(place, mib, options):
    """A second pool and its mount. Closed whatever happens."""
    other = Place(place.build, place.quick)
    try:
        os.chmod(other.directory, 0o711)
        other.format(mib)
        other.mount(options)
        yield other
        other.unmount()
    finally:
        other.close()


def figures(place, measure, mib, rounds):
    """`measure(directory)` says {what: how many a second}. It is called for each filesystem in turn, `rounds` times, so
    that what else the machine does meets all of them. The medians are printed."""
    with contextlib.ExitStack() as stack:
        where = {}
        for cache in CACHES:
            other = stack.enter_context(another(place, mib, f"cache={cache}"))
            where[f"cache={cache}"] = other.mountpoint
        where["ext4"] = stack.enter_context(ext4(place, mib))
        where["tmpfs"] = stack.enter_context(tmpfs(place, mib))
        seen = {}
        for number in range(rounds):
            for kind, mountpoint in where.items():
                directory = os.path.join(mountpoint, f"round{number}")
                os.mkdir(directory)
                for what, value in measure(directory).items():
                    seen.setdefault(what, {}).setdefault(kind, []).append(value)
                shutil.rmtree(directory)
    for what, values in seen.items():
        medians = {kind: statistics.median(found) for kind, found in values.items()}
        check(all(medians.values()), f"{what}: nothing was done: {medians}")
        said = [
            f"{kind} {value:,.0f}" + ("" if kind == "ext4" else f" ({value / medians['ext4']:.2f} of ext4)")
            for kind, value in medians.items()
        ]
        print(f"      {what} a second, median of {rounds}: {'; '.join(said)}", flush=True)


def rounds_of(place, full, quick):
    return place.rounds or (quick if place.quick else full)


def kill_after(place, seconds):
    """The moment is drawn by chance; the daemon must live until then."""
    time.sleep(seconds)
    check(place.daemon.poll() is None, f"the daemon died by itself: {place.log_tail()}")
    place.kill_daemon()
    place.daemon.wait(120)


def status_of(child, seconds, what):
    """The exit status of somebody whose filesystem went away: nobody may hang."""
    try:
        return child.wait(seconds)
    except Exception:
        raise Failure(f"{what} still runs {seconds} s after the daemon was killed") from None
