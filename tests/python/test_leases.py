# SPDX-License-Identifier: Apache-2.0
"""Leases and their events on a real mount."""
import asyncio
import os
import queue
import subprocess
import unittest

import daxfs
from mounted import ALLOCATE, Mounted


class Leases(Mounted):
    def setUp(self) -> None:
        super().setUp()
        self.file.write(b"x" * 8192)

    def truncating(self) -> subprocess.Popen[bytes]:
        asking = subprocess.Popen(["truncate", "-s", "0", str(self.root / "file")])

        def end() -> None:
            asking.kill()
            asking.wait()

        self.addCleanup(end)
        return asking

    def test_a_watcher_is_told(self) -> None:
        told: queue.Queue[daxfs.Event] = queue.Queue()
        self.assertIsNone(daxfs.next_event(self.file))
        with daxfs.Lease(self.file, 0, 8192) as lease, daxfs.Watcher(self.file, told.put):
            asking = self.truncating()
            event = told.get(timeout=60)
            self.assertEqual((event.lease_id, event.reason), (lease.id, daxfs.REASON_TRUNCATE))
            if event.type == daxfs.EVENT_BREAK:
                lease.unlease()
            self.assertEqual(asking.wait(timeout=60), 0)

    def test_what_was_given_up_is_not_asked_for(self) -> None:
        with daxfs.Lease(self.file, 0, 8192) as lease:
            lease.shrink(0, 4096)
            os.truncate(self.root / "file", 4096)
            self.assertIsNone(daxfs.next_event(self.file))


class Breaks(Leases):
    options = "pin_policy=break,break_timeout=60s,exit_grace=0"

    def test_asyncio_gives_way(self) -> None:
        async def hold() -> int:
            with daxfs.Lease(self.file, 0, 8192) as lease:
                pin = daxfs.Pin(self.file, 0, 8192, ALLOCATE)
                async with daxfs.events(self.file) as stream:
                    asking = self.truncating()
                    async for event in stream:
                        if event.type == daxfs.EVENT_BREAK:
                            break
                pin.unpin()
                lease.unlease()
                return await asyncio.to_thread(asking.wait, 60)

        self.assertEqual(asyncio.run(asyncio.wait_for(hold(), 120)), 0)
        self.assertEqual(os.path.getsize(self.root / "file"), 0)


if __name__ == "__main__":
    unittest.main()
