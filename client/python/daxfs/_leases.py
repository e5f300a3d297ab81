# SPDX-License-Identifier: Apache-2.0
"""Layout leases, and their events: one by one, to a callback, or to asyncio."""
from __future__ import annotations

import asyncio
import ctypes as _c
import os
import select
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Callable

from . import _library as lib
from ._held import Held


@dataclass(frozen=True)
class Event:
    lease_id: int
    offset: int
    length: int
    deadline_ns: int
    type: int
    reason: int
    pid: int


def next_event(file: lib.File) -> Event | None:
    """The next event of this descriptor's leases; None if there is none."""
    out = lib.CEvent()
    try:
        lib.checked(lib.next_event(lib.descriptor(file), _c.byref(out)))
    except BlockingIOError:
        return None
    return Event(out.lease_id, out.offset, out.length, out.deadline_ns, out.type, out.reason, out.pid)


class Lease(Held):
    """A layout lease. Its events come through next_event(), a Watcher or events() of the same file."""

    _what = "lease"
    _call = staticmethod(lib.unlease)

    def __init__(self, file: lib.File, offset: int, length: int, flags: int = 0) -> None:
        if flags & lib.LEASE_SHRINK:
            raise ValueError("LEASE_SHRINK is for a lease that exists: call shrink()")

        def take(fd: int) -> int:
            out = _c.c_uint64()
            lib.checked(lib.lease(fd, offset, length, flags, _c.byref(out)))
            return out.value

        self._take(file, take)

    def shrink(self, offset: int, length: int) -> None:
        """Gives up what lies outside of [offset, offset + length)."""
        lib.checked(lib.lease(self._live(), offset, length, lib.LEASE_SHRINK, _c.byref(_c.c_uint64(self.id))))

    def unlease(self) -> None:
        """Gives the lease up."""
        self._give_back()


class Watcher:
    """Calls `callback` with every event of the file's leases, in a thread of its own.

    What the callback raises is shown (threading.excepthook) and ends the watching; close() then returns at once.
    """

    def __init__(self, file: lib.File, callback: Callable[[Event], object]) -> None:
        self._fd, self._callback = os.dup(lib.descriptor(file)), callback
        self._stop, self._stopper = os.pipe()
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
        os.close(self._stopper)
        self._thread.join()
        os.close(self._fd)
        os.close(self._stop)
        self._fd = -1

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


class events:
    """The events of the file's leases for asyncio: `async with events(file) as stream: async for event in stream`.

    A Watcher beneath: events are POLLPRI, which no event loop's add_reader() asks for.
    """

    def __init__(self, file: lib.File) -> None:
        self._file = file
        self._watcher: Watcher | None = None

    async def __aenter__(self) -> AsyncIterator[Event]:
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Event] = asyncio.Queue()
        self._watcher = Watcher(self._file, lambda event: loop.call_soon_threadsafe(queue.put_nowait, event))

        async def stream() -> AsyncIterator[Event]:
            while True:
                yield await queue.get()

        return stream()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        if self._watcher is not None:
            self._watcher.close()
