"""How fast the host's time stamp counter runs, which is the guest's, too. The guest itself would measure it wrongly on a
busy machine: its seconds were found seven times too short."""

import ctypes
import functools
import mmap
import platform
import time

# rdtsc; shl $32, %rdx; or %rdx, %rax; ret
READ_COUNTER = bytes.fromhex("0f31 48c1e220 4809d0 c3")
TRIES = 50
SECONDS = 0.2


@functools.cache
def tsc_khz():
    if platform.machine() != "x86_64":
        return 1_000_000  # QEMU counts nanoseconds
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as code:
        code.write(READ_COUNTER)
        start = ctypes.c_char.from_buffer(code)
        counter = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(start))
        try:
            return measure(counter)
        finally:
            del start


def measure(counter):
    first, begin = both(counter)
    time.sleep(SECONDS)
    last, end = both(counter)
    return (last - first) * 1_000_000 // (end - begin)


def both(counter):
    """(counter, nanoseconds) at one time: of several tries the one with the least time in between."""
    tries = []
    for _ in range(TRIES):
        before = time.monotonic_ns()
        value = counter()
        after = time.monotonic_ns()
        tries.append((after - before, value, (before + after) // 2))
    return min(tries)[1:]
