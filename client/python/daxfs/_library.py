# SPDX-License-Identifier: Apache-2.0
"""libdaxfs as ctypes sees it: constants, structs and functions of daxfs.h, and its errors as OSError.

ctypes, not a compiled extension: one package serves every Python 3.11+, and needs no compiler. What a
compiler would have checked, tests/python/test_header.py checks against daxfs.h.
"""
from __future__ import annotations

import ctypes as _c
import os
from typing import Any, Protocol, Union

BLOCK_SIZE = 4096
PIN_SHORT, PIN_WRITE, PIN_ALLOCATE, PIN_NOWAIT = 1, 2, 4, 8
EXTENT_UNWRITTEN, EXTENT_WRITABLE = 1, 2
LEASE_EXCLUSIVE, LEASE_NOWAIT, LEASE_SHRINK = 1, 2, 4
EVENT_BREAK, EVENT_CHANGED, EVENT_REVOKED = 1, 2, 3
REASON_TRUNCATE, REASON_PUNCH, REASON_RENAME = 1, 2, 3


class HasFileno(Protocol):
    def fileno(self) -> int: ...


File = Union[int, HasFileno]


class CExtent(_c.Structure):
    _fields_ = [("file_offset", _c.c_uint64), ("pool_offset", _c.c_uint64), ("length", _c.c_uint64),
                ("flags", _c.c_uint32), ("pins", _c.c_uint32)]


class CEvent(_c.Structure):
    _fields_ = [("lease_id", _c.c_uint64), ("offset", _c.c_uint64), ("length", _c.c_uint64),
                ("deadline_ns", _c.c_uint64), ("type", _c.c_uint32), ("reason", _c.c_uint32),
                ("pid", _c.c_int32), ("reserved", _c.c_uint32)]


class CIovec(_c.Structure):
    _fields_ = [("base", _c.c_void_p), ("length", _c.c_size_t)]


def _load() -> _c.CDLL:
    name = os.environ.get("DAXFS_LIBRARY", "libdaxfs.so.0")
    try:
        return _c.CDLL(name, use_errno=True)
    except OSError as error:
        raise ImportError(f"daxfs needs libdaxfs, and {name} cannot be loaded ({error}): install it, or run ldconfig "
                          "after an installation by hand, or name the file in DAXFS_LIBRARY") from None


_library = _load()

_u64, _u32, _int, _size, _ptr = _c.c_uint64, _c.c_uint32, _c.c_int, _c.c_size_t, _c.c_void_p


def _declare(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(_library, name)
    function.restype, function.argtypes = result, arguments

    def call(*values: Any) -> Any:
        # ctypes would cut off what does not fit.
        for value, kind in zip(values, arguments):
            if isinstance(value, int) and kind is not _ptr and kind(value).value != value:
                raise OverflowError(f"{name}: {value} does not fit into {8 * _c.sizeof(kind)} bits")
        return function(*values)

    return call


pin = _declare("daxfs_pin", _int, _int, _u64, _u64, _u32, _ptr)
unpin = _declare("daxfs_unpin", _int, _int, _u64)
pin_extents = _declare("daxfs_pin_extents", _c.c_ssize_t, _int, _u64, _ptr, _size)
extents = _declare("daxfs_extents", _c.c_ssize_t, _int, _u64, _u64, _ptr, _size)
map = _declare("daxfs_map", _ptr, _int, _u64, _ptr)
unmap = _declare("daxfs_unmap", _int, _ptr, _size)
map_iov = _declare("daxfs_map_iov", _c.c_ssize_t, _int, _u64, _ptr, _size)
unmap_iov = _declare("daxfs_unmap_iov", _int, _int, _ptr, _size)
adopt = _declare("daxfs_adopt", _int, _int, _u64)
lease = _declare("daxfs_lease", _int, _int, _u64, _u64, _u32, _ptr)
unlease = _declare("daxfs_unlease", _int, _int, _u64)
next_event = _declare("daxfs_next_event", _int, _int, _ptr)


def last_error() -> OSError:
    number = _c.get_errno()
    return OSError(number, os.strerror(number))


def checked(result: int) -> int:
    if result < 0:
        raise last_error()
    return result


def descriptor(file: File) -> int:
    return file if isinstance(file, int) else file.fileno()
