# SPDX-License-Identifier: Apache-2.0
"""Pins, the extents that they hold, and views of them."""
from __future__ import annotations

import ctypes as _c
import os
import weakref
from dataclasses import dataclass
from typing import Any, Callable

from . import _library as lib
from ._held import Held


@dataclass(frozen=True)
class Extent:
    file_offset: int
    pool_offset: int
    length: int
    flags: int
    pins: int


def _listed(call: Any, *arguments: int) -> list[Extent]:
    """What a call answers that fills in an array of extents, however long it is."""
    capacity = 64
    while True:
        out = (lib.CExtent * capacity)()
        count = lib.checked(call(*arguments, out, capacity))
        if count <= capacity:
            return [Extent(raw.file_offset, raw.pool_offset, raw.length, raw.flags, raw.pins) for raw in out[:count]]
        capacity = count


def extents(file: lib.File, offset: int, length: int) -> list[Extent]:
    """The extents of a range of the file; holes are left out."""
    fd = lib.descriptor(file)
    return _listed(lib.extents, fd, offset, length)


def _end_view(pid: int, pin: Pin, address: int, length: int) -> None:
    # The pin is named only to be kept until now. A forked child's mappings end with it.
    if os.getpid() == pid:
        lib.unmap(address, length)


def _end_pieces(pid: int, pin: Pin, iov: Any, count: int) -> None:
    if os.getpid() == pid:
        lib.unmap_iov(pin._fd, iov, count)


class _Pieces:
    """The mappings of a pin's extents: they go together, with the last view of any."""


def _blocks(address: int, length: int) -> Any:
    # A subclass: plain ctypes arrays take no attributes and no weak reference.
    kind: Any = type("Blocks", (_c.c_ubyte * length,), {})
    return kind.from_address(address)


class Pin(Held):
    """Keeps the blocks of [offset, offset + length) where they are, until unpin() or the last view of them is gone."""

    _what = "pin"
    _call = staticmethod(lib.unpin)

    def __init__(self, file: lib.File, offset: int, length: int, flags: int = 0) -> None:
        def take(fd: int) -> int:
            out = _c.c_uint64()
            lib.checked(lib.pin(fd, offset, length, flags, _c.byref(out)))
            return out.value

        self._begin(file, take, flags & lib.PIN_WRITE != 0)

    @classmethod
    def adopt(cls, file: lib.File, pin_id: int, writable: bool = False) -> Pin:
        """Takes over this process's pin that is left from before the daemon died."""

        def take(fd: int) -> int:
            lib.checked(lib.adopt(fd, pin_id))
            return pin_id

        pin = cls.__new__(cls)
        pin._begin(file, take, writable)
        return pin

    def _begin(self, file: lib.File, take: Callable[[int], int], writable: bool) -> None:
        self._take(file, take)
        self._writable = writable
        self._memory: weakref.ref[Any] | None = None
        self._pieces: weakref.ref[_Pieces] | None = None

    def extents(self) -> list[Extent]:
        return _listed(lib.pin_extents, self._live(), self.id)

    def _view(self, array: Any) -> memoryview:
        view = memoryview(array).cast("B")
        return view if self._writable else view.toreadonly()

    def map(self) -> memoryview:
        """The pinned blocks as bytes, without a copy, from the first pinned block on.

        The mapping goes with the last view of it (slices and numpy arrays included), and the pin
        is kept until then at least. Another call gives a view of the same mapping.
        """
        fd = self._live()
        array = self._memory() if self._memory is not None else None
        if array is None:
            length = _c.c_size_t()
            address = lib.map(fd, self.id, _c.byref(length))
            if not address:
                raise lib.last_error()
            array = _blocks(address, length.value)
            self._memory = weakref.ref(array)
            end = weakref.finalize(array, _end_view, os.getpid(), self, address, length.value)
            end.atexit = False  # views may still be used while the interpreter ends
        return self._view(array)

    def map_extents(self) -> list[memoryview]:
        """One view for each of extents(), in that order: possible also where map() is not (EOPNOTSUPP).

        Keep to the views: on device DAX the blocks of others lie around them.
        """
        fd = self._live()
        lengths = [extent.length for extent in self.extents()]
        iov = (lib.CIovec * len(lengths))()
        count = lib.checked(lib.map_iov(fd, self.id, iov, len(lengths)))
        pieces = _Pieces()
        end = weakref.finalize(pieces, _end_pieces, os.getpid(), self, iov, count)
        end.atexit = False
        self._pieces = weakref.ref(pieces)
        views = []
        for piece, length in zip(iov[:count], lengths):
            array = _blocks(piece.base, length)
            array.pieces = pieces
            views.append(self._view(array))
        return views

    def _is_viewed(self) -> bool:
        return any(kept is not None and kept() is not None for kept in (self._memory, self._pieces))

    def unpin(self) -> None:
        """Gives the pin back. BufferError while views of it exist: release or drop them first."""
        self._live()
        if self._is_viewed():
            raise BufferError("views of the pinned blocks exist: release them, then unpin")
        super()._give_back()

    _give_back = unpin
