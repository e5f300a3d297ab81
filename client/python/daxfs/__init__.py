# SPDX-License-Identifier: Apache-2.0
"""Pins and layout leases on files of a daxfs mount (see daxfs.h for what each call promises).

ctypes, not a compiled extension: one file serves every Python 3.11+, and needs no compiler. What a
compiler would have checked, client/python/test_header.py checks against daxfs.h.
"""
from __future__ import annotations

import ctypes as _c
import os
import select
import threading
import weakref
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Callable, Protocol, Union

BLOCK_SIZE = 4096
PIN_SHORT, PIN_WRITE, PIN_ALLOCATE, PIN_NOWAIT = 1, 2, 4, 8
EXTENT_UNWRITTEN, EXTENT_WRITABLE = 1, 2
LEASE_EXCLUSIVE, LEASE_NOWAIT, LEASE_SHRINK = 1, 2, 4
EVENT_BREAK, EVENT_CHANGED, EVENT_REVOKED = 1, 2, 3
REASON_TRUNCATE, REASON_PUNCH, REASON_RENAME = 1, 2, 3


class _HasFileno(Protocol):
    def fileno(self) -> int: ...


File = Union[int, _HasFileno]


class CExtent(_c.Structure):
    _fields_ = [("file_offset", _c.c_uint64), ("pool_offset", _c.c_uint64), ("length", _c.c_uint64),
                ("flags", _c.c_uint32), ("pins", _c.c_uint32)]


class CEvent(_c.Structure):
    _fields_ = [("lease_id", _c.c_uint64), ("offset", _c.c_uint64), ("length", _c.c_uint64),
                ("deadline_ns", _c.c_uint64), ("type", _c.c_uint32), ("reason", _c.c_uint32),
                ("pid", _c.c_int32), ("reserved", _c.c_uint32)]


@dataclass(frozen=True)
class Extent:
    file_offset: int
    pool_offset: int
    length: int
    flags: int
    pins: int


@dataclass(frozen=True)
class Event:
    lease_id: int
    offset: int
    length: int
    deadline_ns: int
    type: int
    reason: int
    pid: int


_lib = _c.CDLL("libdaxfs.so.0", use_errno=True)
_u64, _u32, _int, _size, _ptr = _c.c_uint64, _c.c_uint32, _c.c_int, _c.c_size_t, _c.c_void_p


def _declare(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(_lib, name)
    function.restype, function.argtypes = result, arguments
    return function


_pin = _declare("daxfs_pin", _int, _int, _u64, _u64, _u32, _ptr)
_unpin = _declare("daxfs_unpin", _int, _int, _u64)
_pin_extents = _declare("daxfs_pin_extents", _c.c_ssize_t, _int, _u64, _ptr, _size)
_extents = _declare("daxfs_extents", _c.c_ssize_t, _int, _u64, _u64, _ptr, _size)
_map = _declare("daxfs_map", _ptr, _int, _u64, _ptr)
_unmap = _declare("daxfs_unmap", _int, _ptr, _size)
_adopt = _declare("daxfs_adopt", _int, _int, _u64)
_lease = _declare("daxfs_lease", _int, _int, _u64, _u64, _u32, _ptr)
_unlease = _declare("daxfs_unlease", _int, _int, _u64)
_next_event = _declare("daxfs_next_event", _int, _int, _ptr)


def _error() -> OSError:
    number = _c.get_errno()
    return OSError(number, os.strerror(number))


def _checked(result: int) -> int:
    if result < 0:
        raise _error()
    return result


def _fd(file: File) -> int:
    return file if isinstance(file, int) else file.fileno()


def _list(call: Callable[[Any, int], int]) -> list[Extent]:
    capacity = 64
    while True:
        out = (CExtent * capacity)()
        count = _checked(call(out, capacity))
        if count <= capacity:
            return [Extent(e.file_offset, e.pool_offset, e.length, e.flags, e.pins)
                    for e in out[:count]]
        capacity = count


def extents(file: File, offset: int, length: int) -> list[Extent]:
    """The extents of a range of the file; holes are left out."""
    return _list(lambda out, capacity: _extents(_fd(file), offset, length, out, capacity))


def next_event(file: File) -> Event | None:
    """The next event of this descriptor's leases; None if there is none."""
    out = CEvent()
    try:
        _checked(_next_event(_fd(file), _c.byref(out)))
    except BlockingIOError:
        return None
    return Event(out.lease_id, out.offset, out.length, out.deadline_ns, out.type, out.reason,
                 out.pid)


def _forget(pid: int, address: int, length: int, fd: int) -> None:
    if os.getpid() == pid:
        _unmap(address, length)
    os.close(fd)


class Pin:
    """A pin. Keeps a copy of the descriptor: the pin lives until unpin(), whatever is closed."""

    def __init__(self, file: File, offset: int, length: int, flags: int = 0) -> None:
        self._take(file, flags & PIN_WRITE != 0)
        out = _u64()
        try:
            _checked(_pin(self._fd, offset, length, flags, _c.byref(out)))
        except BaseException:
            self._close()
            raise
        self.id = out.value

    @classmethod
    def adopt(cls, file: File, pin_id: int, writable: bool = False) -> Pin:
        """Takes over this process's pin that is left from before the daemon died."""
        pin = cls.__new__(cls)
        pin._take(file, writable)
        try:
            _checked(_adopt(pin._fd, pin_id))
        except BaseException:
            pin._close()
            raise
        pin.id = pin_id
        return pin

    def _take(self, file: File, writable: bool) -> None:
        self.id, self._writable = 0, writable
        self._fd = os.dup(_fd(file))
        self._close = weakref.finalize(self, os.close, self._fd)
        self._memory: weakref.ref[Any] | None = None

    def _live(self) -> int:
        if not self._close.alive:
            raise ValueError("the pin is given back already: take a new one")
        return self._fd

    def extents(self) -> list[Extent]:
        fd = self._live()
        return _list(lambda out, capacity: _pin_extents(fd, self.id, out, capacity))

    def map(self) -> memoryview:
        """The pinned blocks as bytes, without a copy, from the first pinned block on.

        The mapping goes with the last view of it (slices and numpy arrays included), and the pin
        is kept until then at least. Another call gives a view of the same mapping.
        """
        fd = self._live()
        array = self._memory() if self._memory is not None else None
        if array is None:
            length = _size()
            address = _map(fd, self.id, _c.byref(length))
            if not address:
                raise _error()
            # A subclass: plain ctypes arrays take no weak reference.
            kind: Any = type("Blocks", (_c.c_ubyte * length.value,), {})
            array = kind.from_address(address)
            self._memory = weakref.ref(array)
            end = weakref.finalize(array, _forget, os.getpid(), address, length.value, os.dup(fd))
            end.atexit = False  # views may still be used while the interpreter ends
        view = memoryview(array).cast("B")
        return view if self._writable else view.toreadonly()

    def unpin(self) -> None:
        """Gives the pin back. BufferError while views of it exist: release or drop them first."""
        fd = self._live()
        if self._memory is not None and self._memory() is not None:
            raise BufferError("views of the pinned blocks exist: release them, then unpin")
        _checked(_unpin(fd, self.id))
        self._close()

    def __enter__(self) -> Pin:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._close.alive:
            self.unpin()


class Lease:
    """A layout lease. Its events come through next_event() or a Watcher of the same file."""

    def __init__(self, file: File, offset: int, length: int, flags: int = 0) -> None:
        if flags & LEASE_SHRINK:
            raise ValueError("LEASE_SHRINK is for a lease that exists: call shrink()")
        self._fd = os.dup(_fd(file))
        self._close = weakref.finalize(self, os.close, self._fd)
        out = _u64()
        try:
            _checked(_lease(self._fd, offset, length, flags, _c.byref(out)))
        except BaseException:
            self._close()
            raise
        self.id = out.value

    def _live(self) -> int:
        if not self._close.alive:
            raise ValueError("the lease is given up already: take a new one")
        return self._fd

    def shrink(self, offset: int, length: int) -> None:
        _checked(_lease(self._live(), offset, length, LEASE_SHRINK, _c.byref(_u64(self.id))))

    def unlease(self) -> None:
        _checked(_unlease(self._live(), self.id))
        self._close()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._close.alive:
            self.unlease()


class Watcher:
    """Calls `callback` with every event of the file's leases, in a thread of its own.

    A thread with poll(): events are POLLPRI, which asyncio's add_reader() does not ask for. With
    asyncio, let the callback be lambda event: loop.call_soon_threadsafe(handler, event).
    """

    def __init__(self, file: File, callback: Callable[[Event], object]) -> None:
        self._fd, self._callback = os.dup(_fd(file)), callback
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="daxfs-watcher", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLPRI)
        poll.register(self._stop, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if self._stop in ready:
                return
            while (event := next_event(self._fd)) is not None:
                self._callback(event)
            if ready.get(self._fd, 0) & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
                return  # the daemon is gone: no event comes any more

    def close(self) -> None:
        """Ends the thread; not from within the callback."""
        if self._fd < 0:
            return
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        os.close(self._fd)
        os.close(self._stop)
        self._fd = -1

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()
