"""A process of its own that takes memory away: reads one request a line, prints one answer a line, both JSON.

["punch", path, offset, length] or ["truncate", path, size]; {"errno": name or null, "begin": s, "end": s},
on the clock that all processes share (CLOCK_MONOTONIC)."""

import ctypes
import errno
import json
import os
import sys
import time

FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2

libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
libc.truncate.argtypes = [ctypes.c_char_p, ctypes.c_int64]


def timed(call, *arguments):
    begin = time.monotonic()
    failed = call(*arguments) != 0
    end = time.monotonic()
    number = ctypes.get_errno()
    return {"errno": errno.errorcode.get(number, str(number)) if failed else None, "begin": begin, "end": end}


def punch(path, offset, length):
    file = os.open(path, os.O_RDWR)
    try:
        return timed(libc.fallocate, file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length)
    finally:
        os.close(file)


def truncate(path, size):
    return timed(libc.truncate, os.fsencode(path), size)


def main():
    # What holders are told names the process that asks.
    with open("/proc/self/comm", "w", encoding="ascii") as name:
        name.write("taker")
    print("ready", flush=True)
    for line in sys.stdin:
        operation, *arguments = json.loads(line)
        answer = {"punch": punch, "truncate": truncate}[operation](*arguments)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
