"""users.py BUILD PLACE: who may use pinned memory, by the kind of pool: docs/pins-and-devices.md as a test.

A file is pinned and mapped through libdaxfs, and each user of such memory is given it. PLACE is with_pool's."""

import ctypes
import errno
import glob
import os
import pathlib
import re
import subprocess
import sys

SOURCE = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(SOURCE / "tests/soak"))

from harness import MIB, Failure, Place, Skip, check  # noqa: E402  (found by the line above)
from rdma import make_device  # noqa: E402

POOL_MIB = 16
HELD = 2 * MIB
PIN_WRITE, PIN_ALLOCATE = 2, 4
RAM_DISK = "/dev/ram0"
C = ctypes.CDLL(None, use_errno=True)
KERNEL = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])
KIND = {"tmpfs": "tmpfs", "plain": "plain", "ext4": "fsdax", "xfs": "fsdax", "devdax": "devdax", "cxl": "devdax"}


class Pinned:
    """A range of a new file, pinned (for writing, or not) and mapped."""

    def __init__(self, place, name, write):
        self.lib = ctypes.CDLL(place.program("client/libdaxfs.so.0"), use_errno=True)
        self.lib.daxfs_map.restype = ctypes.c_void_p
        self.path = place.inside(name)
        self.file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        os.posix_fallocate(self.file, 0, HELD)
        os.pwrite(self.file, b"p" * HELD, 0)
        pin, length = ctypes.c_uint64(), ctypes.c_size_t()
        flags = PIN_WRITE | PIN_ALLOCATE if write else 0
        fd, size = ctypes.c_int(self.file), ctypes.c_uint64(HELD)
        check(self.lib.daxfs_pin(fd, ctypes.c_uint64(0), size, flags, ctypes.byref(pin)) == 0, "it cannot be pinned")
        self.address = self.lib.daxfs_map(fd, pin, ctypes.byref(length))
        check(self.address and length.value == HELD, "it cannot be mapped")

    def bytes(self, count):
        return ctypes.string_at(self.address, count)

    def close(self):
        self.lib.daxfs_unmap(ctypes.c_void_p(self.address), ctypes.c_size_t(HELD))
        os.close(self.file)
        os.unlink(self.path)


def failed(result):
    return ctypes.get_errno() if result < 0 else 0


class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def io_uring(memory):
    setup, register, buffers = 425, 427, 0
    parameters = ctypes.create_string_buffer(120)
    ring = C.syscall(setup, 4, parameters)
    check(ring >= 0, f"there is no io_uring: {os.strerror(ctypes.get_errno())}")
    try:
        vector = Vector(memory.address, HELD)
        return failed(C.syscall(register, ring, buffers, ctypes.byref(vector), 1))
    finally:
        os.close(ring)


def direct(memory):
    """What is read past the page cache of a disk."""
    if not os.path.exists(RAM_DISK):
        raise Skip(f"no {RAM_DISK}")
    with open(RAM_DISK, "r+b", buffering=0) as disk:
        disk.write(b"d" * 4096)
        os.fsync(disk.fileno())
    disk = os.open(RAM_DISK, os.O_RDONLY | os.O_DIRECT)
    try:
        got = C.pread(disk, ctypes.c_void_p(memory.address), ctypes.c_size_t(4096), ctypes.c_long(0))
        error = failed(got)
        check(error or memory.bytes(4096) == b"d" * 4096, "the bytes are not there")
        return error
    finally:
        os.close(disk)


def vmsplice(memory):
    read_end, write_end = os.pipe()
    try:
        vector = Vector(memory.address, 4096)
        error = failed(C.vmsplice(write_end, ctypes.byref(vector), ctypes.c_size_t(1), 0))
        check(error or os.read(read_end, 4096) == memory.bytes(4096), "other bytes came out")
        return error
    finally:
        os.close(read_end)
        os.close(write_end)


def verbs():
    """(libibverbs, a protection domain)."""
    try:
        make_device()
        library = ctypes.CDLL("libibverbs.so.1", use_errno=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise Skip(f"no soft-RoCE: {error}") from None
    for name in ("ibv_get_device_list", "ibv_open_device", "ibv_alloc_pd", "ibv_reg_mr"):
        getattr(library, name).restype = ctypes.c_void_p
    devices = library.ibv_get_device_list(None)
    first = ctypes.cast(devices, ctypes.POINTER(ctypes.c_void_p))[0]
    domain = library.ibv_alloc_pd(ctypes.c_void_p(library.ibv_open_device(ctypes.c_void_p(first))))
    check(domain, "the device gives no protection domain")
    return library, domain


def register(memory, access):
    library, domain = verbs()
    ctypes.set_errno(0)
    region = library.ibv_reg_mr(ctypes.c_void_p(domain), ctypes.c_void_p(memory.address), ctypes.c_size_t(HELD), access)
    if not region:
        return ctypes.get_errno()
    library.ibv_dereg_mr(ctypes.c_void_p(region))
    return 0


def rdma(memory):
    local_write = 1
    return register(memory, local_write)


def on_demand(memory):
    local_write, access_on_demand = 1, 1 << 6
    return register(memory, local_write | access_on_demand)


class DmaMap(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint32), ("flags", ctypes.c_uint32)]
    _fields_ += [(name, ctypes.c_uint64) for name in ("address", "device_address", "length")]


def spare_device():
    """(PCI address, IOMMU group) of the device that nobody drives: QEMU's edu."""
    for path in glob.glob("/sys/bus/pci/devices/*"):
        device = pathlib.Path(path)
        if (device / "vendor").read_text().strip() == "0x1234" and (device / "device").read_text().strip() == "0x11e8":
            group = device / "iommu_group"
            if not group.exists():
                raise Skip("the machine has no IOMMU")
            return device.name, group.resolve().name
    raise Skip("there is no device to spare")


def vfio(memory):
    set_iommu, set_container, map_dma, type1v2 = 0x3B66, 0x3B68, 0x3B71, 3
    address, group = spare_device()
    if not os.path.exists("/dev/vfio/vfio"):
        raise Skip("no vfio")
    node = f"/dev/vfio/{group}"
    if not os.path.exists(node):
        pathlib.Path(f"/sys/bus/pci/devices/{address}/driver_override").write_text("vfio-pci")
        pathlib.Path("/sys/bus/pci/drivers_probe").write_text(address)
    container, member = os.open("/dev/vfio/vfio", os.O_RDWR), os.open(node, os.O_RDWR)
    try:
        check(C.ioctl(member, set_container, ctypes.byref(ctypes.c_int(container))) == 0, "no container")
        check(C.ioctl(container, set_iommu, ctypes.c_long(type1v2)) == 0, "no IOMMU of type 1")
        wanted = DmaMap(ctypes.sizeof(DmaMap), 3, memory.address, 0, HELD)
        return failed(C.ioctl(container, map_dma, ctypes.byref(wanted)))
    finally:
        os.close(member)
        os.close(container)


WORKS = 0
KINDS = ("tmpfs", "plain", "fsdax", "devdax")


def everywhere(error):
    return dict.fromkeys(KINDS, error)


def long_term(write):
    """What the kernel answers to who pins for long through pin_user_pages()."""
    if not write:
        return {**everywhere(errno.EFAULT), "fsdax": errno.EOPNOTSUPP}
    # Before, it was not refused what would be written back under the device's hands.
    plain = errno.EFAULT if KERNEL >= (6, 12) else WORKS
    return {"tmpfs": WORKS, "plain": plain, "fsdax": errno.EOPNOTSUPP, "devdax": WORKS}


def registered(write):
    """The same by io_uring, which looked at files by itself before."""
    answers = long_term(write)
    if write and KERNEL < (6, 12):
        answers.update(plain=errno.EOPNOTSUPP, devdax=errno.EOPNOTSUPP)
    return answers


def as_it_faults(_write):
    """Nothing is pinned. Soft-RoCE has it since some kernel between these."""
    return everywhere(WORKS if KERNEL >= (7, 2) else errno.EOPNOTSUPP if KERNEL >= (6, 12) else errno.EINVAL)


USERS = (
    ("io_uring registered buffers", io_uring, registered),
    ("O_DIRECT", direct, lambda write: everywhere(WORKS if write else errno.EFAULT)),
    ("vmsplice", vmsplice, lambda _write: everywhere(WORKS)),
    ("RDMA", rdma, long_term),
    ("RDMA on demand", on_demand, as_it_faults),
    ("VFIO", vfio, long_term),
)
# Others are told what they answer, and may answer anything.
MEASURED = ((6, 1), (6, 12), (7, 2))


def name_of(error):
    return os.strerror(error) if error else "works"


def ask(place, kind, write, text, use, answers):
    pin = "write" if write else "read"
    with place.report.step(f"{kind}: {text} of a {pin} pin's memory"):
        memory = Pinned(place, "f", write)
        try:
            error = use(memory)
        finally:
            memory.close()
        print(f"{kind}, Linux {KERNEL[0]}.{KERNEL[1]}, {text}, a {pin} pin: {name_of(error)}", flush=True)
        expected = answers(write)[kind]
        check(KERNEL not in MEASURED or error == expected, f"{name_of(error)}, not: {name_of(expected)}")


def main():
    kind = KIND[sys.argv[2]]
    place = Place(sys.argv[1], pool=os.environ["POOL"])
    try:
        with place.mounting(POOL_MIB, "exit_grace=1s"):
            for write in (True, False):
                for text, use, answers in USERS:
                    ask(place, kind, write, text, use, answers)
    except (Failure, Skip, subprocess.SubprocessError) as error:
        print(f"FAIL  users: {error}", flush=True)
        return 1
    finally:
        place.close()
    return 1 if place.report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
