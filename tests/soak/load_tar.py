"""Copies of /usr/share, and of everything that a directory can hold, by tar, cp and rsync: nothing may be lost."""

import os
import shutil
import stat

from harness import MIB, Failure, Skip, check

POOL_MIB = 3072
SOURCE = "/usr/share"
ISLANDS = [0, 30, 400]  # where the sparse file has data


def names(root):
    """Every path below `root`, relative, and "." itself."""
    found = ["."]
    for directory, directories, files in os.walk(root):
        below = os.path.relpath(directory, root)
        found += [os.path.normpath(os.path.join(below, name)) for name in directories + files]
    return sorted(found)


def xattrs_of(path):
    listed = (name for name in os.listxattr(path, follow_symlinks=False) if name.startswith("user."))
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in listed}


def description(root, name, links):
    """What must be equal. A directory's size is the filesystem's own affair, and so is the link count of some."""
    path = os.path.join(root, name)
    status = os.lstat(path)
    is_directory = stat.S_ISDIR(status.st_mode)
    return {
        "mode": oct(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
        "size": None if is_directory else status.st_size,
        "mtime": status.st_mtime_ns,
        "device": status.st_rdev if stat.S_ISBLK(status.st_mode) or stat.S_ISCHR(status.st_mode) else None,
        "links": None if is_directory else links[(status.st_dev, status.st_ino)],
        "target": os.readlink(path) if stat.S_ISLNK(status.st_mode) else None,
        "xattrs": xattrs_of(path),
    }


def links_within(root, found):
    counts = {}
    for name in found:
        status = os.lstat(os.path.join(root, name))
        key = (status.st_dev, status.st_ino)
        counts[key] = counts.get(key, 0) + 1
    return counts


def compare(source, copy):
    wanted, found = names(source), names(copy)
    check(wanted == found, f"names differ: {sorted(set(wanted) ^ set(found))[:5]}")
    source_links, copy_links = links_within(source, wanted), links_within(copy, found)
    for name in wanted:
        a = description(source, name, source_links)
        b = description(copy, name, copy_links)
        if a != b:
            raise Failure(f"{name}: " + ", ".join(f"{key} {a[key]} became {b[key]}" for key in a if a[key] != b[key]))
        check_links(os.path.join(copy, name), copy_links)


def check_links(path, links):
    """What stat says in the copy must be what names there are."""
    status = os.lstat(path)
    if stat.S_ISDIR(status.st_mode):
        subdirectories = sum(entry.is_dir(follow_symlinks=False) for entry in os.scandir(path))
        check(
            status.st_nlink == 2 + subdirectories, f"{path}: {status.st_nlink} links, {subdirectories} subdirectories"
        )
    else:
        expected = links[(status.st_dev, status.st_ino)]
        check(status.st_nlink == expected, f"{path}: {status.st_nlink} links, {expected} names")


def make_special(root):
    """One of each, and the awkward ones."""
    os.makedirs(os.path.join(root, "deep", *["d" * 100] * 8))
    os.makedirs(os.path.join(root, "empty"))

    def path(name):
        return os.path.join(root, name)

    def write(name, data=b"x"):
        with open(path(name), "wb") as file:
            file.write(data)

    write("plain", os.urandom(3 * MIB + 17))
    write("n" * 255)
    write("new\nline, 'quote', \\ and \xe4\u4e2d")
    write("nothing", b"")
    write("setuid")
    os.chmod(path("setuid"), 0o6755)
    write("secret")
    os.chmod(path("secret"), 0)
    write("foreign")
    os.chown(path("foreign"), 12345, 54321)
    for i in range(20):
        os.link(path("plain"), path(f"link{i}"))
    os.symlink("t" * 4000, path("long symlink"))
    os.symlink("plain", path("symlink"))
    os.mkfifo(path("fifo"))
    os.mknod(path("null"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(path("disk"), stat.S_IFBLK | 0o600, os.makedev(7, 255))
    os.chmod(path("empty"), 0o3777)
    write("attributes")
    for i in range(30):
        os.setxattr(path("attributes"), f"user.a{i}", os.urandom(100 * i))
    os.setxattr(path("empty"), "user.empty", b"")
    with open(path("sparse"), "wb") as file:
        for mib in ISLANDS:
            file.seek(mib * MIB)
            file.write(b"island")
        file.truncate(1000 * MIB)
    # All of them old: rsync does not set a time that differs from now by less than a second.
    for name in reversed(names(root)):
        os.utime(path(name), ns=(1_000_000_001, 1_500_000_000_123_456_789), follow_symlinks=False)
    os.utime(path("setuid"), ns=(-1, -123_456_789))


def tar(place, source, target, *extra):
    os.mkdir(target)
    words = ["--numeric-owner", "--xattrs", "--format=posix", "--sparse", *extra]
    pipe = 'tar -C "$1" -cf - "${@:3}" . | tar -C "$2" -xpf - "${@:3}"'
    place.run(["bash", "-o", "pipefail", "-c", pipe, "copy", source, target, *words], seconds=1800)


def rsync(place, source, target):
    if not shutil.which("rsync"):
        raise Skip("rsync is not installed")
    place.run(["rsync", "-aHXS", "--numeric-ids", source + "/", target], seconds=1800)


def cp(place, source, target):
    place.run(["cp", "-a", source, target], seconds=1800)


def diff(place, source, copy):
    place.run(["diff", "-r", "--no-dereference", source, copy], seconds=1800)


def newest_change():
    return max(os.lstat(os.path.join(SOURCE, name)).st_ctime_ns for name in names(SOURCE))


def copy_share(place, tool):
    copy = place.inside("share")
    for attempt in range(3):
        before = newest_change()
        try:
            tool(place, SOURCE, copy)
            diff(place, SOURCE, copy)
            compare(SOURCE, copy)
            return
        except (Failure, OSError):
            # Somebody may be installing packages.
            if attempt == 2 or newest_change() == before:
                raise
        finally:
            place.run(["rm", "-rf", copy], seconds=1800)


def run(place):
    with place.mounting(POOL_MIB):
        empty = place.free()
        tools = {"tar": tar, "cp -a": cp, "rsync": rsync}
        for name, tool in tools.items():
            with place.report.step(f"tar: {name} of {SOURCE}"):
                copy_share(place, tool)
            with place.report.step(f"tar: free is back after {name}"):
                place.check_free(empty)
            if place.quick:
                break
        special = place.inside("special")
        with place.report.step("tar: one of each kind of file"):
            make_special(special)
            for name, tool in tools.items():
                copy = place.inside("copy by " + name)
                tool(place, special, copy)
                try:
                    compare(special, copy)
                except Failure as reason:
                    raise Failure(f"{name}: {reason}") from None
                check_sparse(os.path.join(copy, "sparse"))
        with place.report.step("tar: the same after a remount"):
            place.unmount()
            place.mount()
            compare(special, place.inside("copy by tar"))
        with place.report.step("tar: all space is free again"):
            place.empty()
            place.check_free(empty)


def check_sparse(path):
    status = os.stat(path)
    check(status.st_blocks * 512 <= MIB, f"{path}: takes {status.st_blocks * 512} bytes, and holds three words")
    with open(path, "rb") as file:
        islands = []
        while True:
            try:
                start = os.lseek(file.fileno(), islands[-1][1] if islands else 0, os.SEEK_DATA)
            except OSError:
                break
            islands.append((start, os.lseek(file.fileno(), start, os.SEEK_HOLE)))
        check([start // MIB for start, _ in islands] == ISLANDS, f"{path}: data at {islands}")
        for start, _ in islands:
            check(os.pread(file.fileno(), 6, start) == b"island", f"{path}: other bytes at {start}")
