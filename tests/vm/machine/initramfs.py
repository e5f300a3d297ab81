"""The guest's first file system: busybox, the modules, and guest/init. Kept in the cache, since it is always the same."""

import hashlib
import os
import stat

from .kernel import cache_directory, write_atomically

BUSYBOX = "/usr/bin/busybox"
INIT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "guest/init")
# What each guest needs; names that a kernel does not know (or has built in) are passed over.
MODULES = (
    "virtio_pci 9p 9pnet_virtio virtio_rng libnvdimm nfit nd_pmem nd_btt dax_pmem device_dax "
    "crc32c_generic crc32c_intel ext4 xfs fuse"
).split()
DIRECTORIES = ["bin", "modules", "proc", "sys", "dev", "new"]


def initramfs(kernel, more_modules, first_process=INIT):
    """Path of the archive."""
    order = kernel.load_order([*MODULES, *more_modules])
    with open(first_process, "rb") as file:
        init = file.read()
    with open(BUSYBOX, "rb") as file:
        busybox = file.read()
    key = hashlib.sha256(b"\0".join([init, busybox, kernel.modules.encode(), "\n".join(order).encode()]))
    path = os.path.join(cache_directory(), f"initramfs-{kernel.version}-{key.hexdigest()[:16]}")
    if not os.path.exists(path):
        archive = Archive()
        for name in DIRECTORIES:
            archive.add(name, stat.S_IFDIR | 0o755)
        archive.add("init", stat.S_IFREG | 0o755, init)
        archive.add("bin/busybox", stat.S_IFREG | 0o755, busybox)
        names = []
        for module in order:
            # Whatever it was packed with, it is plain now.
            names.append(os.path.basename(module).split(".ko")[0] + ".ko")
            archive.add("modules/" + names[-1], stat.S_IFREG | 0o644, kernel.read_module(module))
        archive.add("modules/order", stat.S_IFREG | 0o644, "".join(f"{name}\n" for name in names).encode())
        write_atomically(path, archive.finished())
    return path


class Archive:
    """cpio's "newc" format (Documentation/driver-api/early-userspace/buffer-format.rst)."""

    def __init__(self):
        self.parts = []
        self.entries = 0

    def add(self, name, mode, contents=b""):
        self.entries += 1
        links = 2 if stat.S_ISDIR(mode) else 1
        encoded = name.encode() + b"\0"
        numbers = [self.entries, mode, 0, 0, links, 0, len(contents), 0, 0, 0, 0, len(encoded), 0]
        header = b"070701" + b"".join(b"%08x" % number for number in numbers)
        self.parts.append(padded(header + encoded))
        self.parts.append(padded(contents))

    def finished(self):
        self.add("TRAILER!!!", 0)
        return b"".join(self.parts)


def padded(contents):
    return contents + bytes(-len(contents) % 4)
