# SPDX-License-Identifier: Apache-2.0
"""Pins and layout leases on files of a daxfs mount (see daxfs.h for what each call promises).

    with open("/mnt/daxfs/data", "r+b", buffering=0) as file:
        with daxfs.Pin(file, 0, 1 << 20, daxfs.PIN_WRITE | daxfs.PIN_ALLOCATE) as pin, pin.map() as view:
            view[:5] = b"hello"

`numpy.frombuffer(pin.map(), dtype=...)` is an array over the same blocks, without a copy.
Errors are OSError with the errno that daxfs.h names.
"""
from ._leases import Event, Lease, Watcher, events, next_event
from ._library import (BLOCK_SIZE, EVENT_BREAK, EVENT_CHANGED, EVENT_REVOKED, EXTENT_UNWRITTEN, EXTENT_WRITABLE,
                       LEASE_EXCLUSIVE, LEASE_NOWAIT, LEASE_SHRINK, PIN_ALLOCATE, PIN_NOWAIT, PIN_SHORT, PIN_WRITE,
                       REASON_PUNCH, REASON_RENAME, REASON_TRUNCATE, File)
from ._pins import Extent, Pin, extents

__all__ = [
    "BLOCK_SIZE", "EVENT_BREAK", "EVENT_CHANGED", "EVENT_REVOKED", "EXTENT_UNWRITTEN", "EXTENT_WRITABLE",
    "LEASE_EXCLUSIVE", "LEASE_NOWAIT", "LEASE_SHRINK", "PIN_ALLOCATE", "PIN_NOWAIT", "PIN_SHORT", "PIN_WRITE",
    "REASON_PUNCH", "REASON_RENAME", "REASON_TRUNCATE",
    "Event", "Extent", "File", "Lease", "Pin", "Watcher", "events", "extents", "next_event",
]
