"""Changes to a directory that are done to a filesystem and, beside it, to a model of what it must hold then.

A change is a list that JSON can carry: its name, a path below the directory, and arguments. Each is one that
daxfs promises to be durable when the call returns (or, for data, when fsync or msync does)."""

import ctypes
import mmap
import os
import random
import stat

from harness import BLOCK, LIBC

FALLOC_FL_PUNCH_HOLE_KEEP_SIZE = 0x3
RENAME_EXCHANGE = 2
AT_FDCWD = -100
LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
LIBC.renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]


def checked(result):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def punch(fd, offset, length):
    checked(LIBC.fallocate(fd, FALLOC_FL_PUNCH_HOLE_KEEP_SIZE, offset, length))


def bytes_of(seed, length):
    return random.Random(seed).randbytes(length)


class Node:
    def __init__(self, kind, mode=0o644, target=None):
        self.kind, self.mode, self.target = kind, mode, target
        self.data = bytearray()
        self.xattrs = {}

    def write(self, offset, data):
        if len(self.data) < offset + len(data):
            self.data.extend(bytes(offset + len(data) - len(self.data)))
        self.data[offset : offset + len(data)] = data

    def truncate(self, size):
        del self.data[size:]
        self.data.extend(bytes(size - len(self.data)))


class Model(dict):
    """Paths to nodes; two names of one file share a node."""

    def apply(self, change):
        name, path, *rest = change
        if name == "create":
            self[path] = Node("file", rest[0])
        elif name == "mkdir":
            self[path] = Node("directory", 0o755)
        elif name == "symlink":
            self[path] = Node("symlink", 0o777, rest[0])
        elif name == "link":
            self[rest[0]] = self[path]
        elif name in ("unlink", "rmdir"):
            del self[path]
        elif name == "rename":
            self.move(path, rest[0])
        elif name == "exchange":
            self[path], self[rest[0]] = self[rest[0]], self[path]
        elif name == "chmod":
            self[path].mode = rest[0]
        elif name == "setxattr":
            self[path].xattrs[rest[0]] = bytes_of(rest[1], rest[2])
        elif name == "write":
            offset, length, seed, _ = rest
            self[path].write(offset, bytes_of(seed, length))
        elif name == "truncate":
            self[path].truncate(rest[0])
        elif name == "punch":
            offset = rest[0]
            length = max(0, min(rest[1], len(self[path].data) - offset))
            self[path].data[offset : offset + length] = bytes(length)

    def move(self, path, to):
        if self.get(to) is self[path]:
            return  # two names of one file: rename(2) does nothing
        below = [name for name in self if name == path or name.startswith(path + "/")]
        for name in below:
            self[to + name[len(path) :]] = self.pop(name)


def is_torn(change):
    """Whether a crash may leave a part of it: bytes that are replaced in place."""
    return change[0] == "write" or (change[0] == "punch" and (change[2] % BLOCK or change[3] % BLOCK))


def perform(directory, change):
    name, path, *rest = change
    path = os.path.join(directory, path)
    if name == "create":
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, rest[0])
        os.close(fd)
    elif name == "mkdir":
        os.mkdir(path, 0o755)
    elif name == "symlink":
        os.symlink(rest[0], path)
    elif name == "link":
        os.link(path, os.path.join(directory, rest[0]))
    elif name == "unlink":
        os.unlink(path)
    elif name == "rmdir":
        os.rmdir(path)
    elif name == "rename":
        os.rename(path, os.path.join(directory, rest[0]))
    elif name == "exchange":
        other = os.fsencode(os.path.join(directory, rest[0]))
        checked(LIBC.renameat2(AT_FDCWD, os.fsencode(path), AT_FDCWD, other, RENAME_EXCHANGE))
    elif name == "chmod":
        os.chmod(path, rest[0])
    elif name == "setxattr":
        os.setxattr(path, rest[0], bytes_of(rest[1], rest[2]))
    elif name == "truncate":
        os.truncate(path, rest[0])
    elif name == "punch":
        fd = os.open(path, os.O_RDWR)
        try:
            punch(fd, *rest)
        finally:
            os.close(fd)
    elif name == "write":
        write(path, *rest)


def write(path, offset, length, seed, how):
    data = bytes_of(seed, length)
    flags = {"direct": os.O_DIRECT, "sync": os.O_SYNC, "dsync": os.O_DSYNC}.get(how, 0)
    fd = os.open(path, os.O_RDWR | flags)
    try:
        if how == "mmap":
            start = offset - offset % mmap.PAGESIZE
            with mmap.mmap(fd, offset + length - start, offset=start) as view:
                view[offset - start :] = data
                view.flush()
            return
        if how == "direct":
            aligned = mmap.mmap(-1, length)  # memory that begins at a page
            aligned[:] = data
            data = aligned
        done = 0
        while done < length:
            done += os.pwrite(fd, memoryview(data)[done:], offset + done)
        if how == "fsync":
            os.fsync(fd)
    finally:
        os.close(fd)


# --- what there really is, and whether that is what there should be ---


def found_in(directory):
    found = {}
    for where, directories, files in os.walk(directory):
        for name in directories + files:
            path = os.path.join(where, name)
            found[os.path.relpath(path, directory)] = path
    return found


KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}


def difference(model, directory, path, torn=None):
    """Why `path` is not as the model says, or ''. The range `torn` of a file may hold its bytes or those behind it."""
    full, node = os.path.join(directory, path), model[path]
    status = os.lstat(full)
    if KINDS.get(stat.S_IFMT(status.st_mode)) != node.kind:
        return f"{path}: not a {node.kind}"
    if stat.S_IMODE(status.st_mode) != node.mode:
        return f"{path}: mode {stat.S_IMODE(status.st_mode):o}, not {node.mode:o}"
    if node.kind == "directory":
        links = 2 + sum(other.kind == "directory" and os.path.dirname(name) == path for name, other in model.items())
    else:
        links = sum(other is node for other in model.values())
    if status.st_nlink != links:
        return f"{path}: {status.st_nlink} links, not {links}"
    if node.kind == "symlink":
        return "" if os.readlink(full) == node.target else f"{path}: leads to {os.readlink(full)}"
    listed = os.listxattr(full)
    xattrs = {name: os.getxattr(full, name) for name in listed}
    if xattrs != node.xattrs:
        return f"{path}: attributes {sorted(xattrs)}, not {sorted(node.xattrs)}, or other values"
    if node.kind != "file":
        return ""
    with open(full, "rb") as file:
        data = file.read()
    return data_difference(path, node.data, data, torn)


def data_difference(path, wanted, data, torn):
    if torn is None:
        if len(data) != len(wanted):
            return f"{path}: size {len(data)}, not {len(wanted)}"
    elif not min(len(wanted), len(torn[0])) <= len(data) <= max(len(wanted), len(torn[0])):
        return f"{path}: size {len(data)}, neither {len(wanted)} nor {len(torn[0])}"
    if data == wanted:
        return ""
    for at, byte in enumerate(data):
        a = wanted[at] if at < len(wanted) else 0
        b = torn[0][at] if torn and at < len(torn[0]) else 0
        if byte != a and not (torn and torn[1] <= at < torn[2] and byte == b):
            # Which bytes they are tells where they come from.
            return f"{path}: at {at} of {len(wanted)}: {data[at:at + 16].hex()}, not {bytes(wanted[at:at + 16]).hex()}"
    return ""
