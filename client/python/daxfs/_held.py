# SPDX-License-Identifier: Apache-2.0
"""What a pin and a lease have in common: a descriptor of their own, and an end."""
from __future__ import annotations

import os
import weakref
from types import TracebackType
from typing import Any, Callable, TypeVar

from . import _library as lib

Self = TypeVar("Self", bound="Held")


def _end(give_back: Any, pid: int, fd: int, number: int) -> None:
    # A forked child has copies of its parent's objects, and shares what they hold: that is the parent's to give back.
    if os.getpid() == pid:
        give_back(fd, number)
    os.close(fd)


class Held:
    """Lives until it is given back, or nothing refers to it any more, whatever files are closed: it keeps a copy of
    the descriptor. A context manager: gives back at the end, unless that is done already.
    """

    _what = "it"
    _call: Any

    def _take(self, file: lib.File, take: Callable[[int], int]) -> None:
        self._fd = os.dup(lib.descriptor(file))
        try:
            self.id = take(self._fd)
        except BaseException:
            os.close(self._fd)
            raise
        self._finalizer = weakref.finalize(self, _end, self._call, os.getpid(), self._fd, self.id)
        # The end of the process gives all back, and views may be used until then.
        self._finalizer.atexit = False

    def _live(self) -> int:
        if not self._finalizer.alive:
            raise ValueError(f"the {self._what} is given back already: take a new one")
        return self._fd

    def _give_back(self) -> None:
        lib.checked(self._call(self._live(), self.id))
        self._finalizer.detach()
        os.close(self._fd)

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._finalizer.alive:
            self._give_back()
