# SPDX-License-Identifier: Apache-2.0
"""The module on a real mount (root; daxfs and mkfs.daxfs in PATH; emulated pool in /dev/shm)."""
import errno
import os
import pathlib
import queue
import subprocess
import tempfile
import unittest

import daxfs

ALLOCATE = daxfs.PIN_WRITE | daxfs.PIN_ALLOCATE


class Mounted(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="daxfs-python-", dir="/dev/shm")
        self.addCleanup(folder.cleanup)
        pool, self.root = f"{folder.name}/pool", pathlib.Path(folder.name, "mount")
        self.root.mkdir()
        subprocess.run(["mkfs.daxfs", "--size", "64M", pool], check=True, capture_output=True)
        subprocess.run(["daxfs", "-o", "pin_policy=defer", pool, str(self.root)], check=True,
                       capture_output=True, timeout=60)
        self.addCleanup(subprocess.run, ["umount", str(self.root)], check=True)
        self.file = open(self.root / "file", "w+b", buffering=0)
        self.addCleanup(self.file.close)

    def test_a_view_is_the_file_without_a_copy(self) -> None:
        with daxfs.Pin(self.file, 0, 8192, ALLOCATE) as pin:
            self.assertEqual(sum(e.length for e in pin.extents()), 8192)
            self.assertEqual(daxfs.extents(self.file, 0, 8192)[0].pins, 1)
            with pin.map() as view:
                view[4096:4101] = b"daxfs"
                self.assertEqual(os.pread(self.file.fileno(), 5, 4096), b"daxfs")

    def test_a_view_outlives_nothing(self) -> None:
        pin = daxfs.Pin(self.file, 0, 4096, ALLOCATE)
        view = pin.map()
        part = view[10:20]
        view.release()
        with self.assertRaises(BufferError):
            pin.unpin()
        self.file.close()
        part[:] = b"0123456789"
        part.release()
        pin.unpin()
        with self.assertRaises(ValueError):
            pin.map()

    def test_a_pin_for_reading_is_read_only(self) -> None:
        self.file.write(b"x" * 4096)
        with daxfs.Pin(self.file, 0, 4096) as pin, pin.map() as view:
            self.assertTrue(view.readonly)
            self.assertEqual(view[0], ord("x"))

    def test_errors_carry_errno(self) -> None:
        with self.assertRaises(OSError) as caught:
            daxfs.Pin(self.file, 0, 0)
        self.assertEqual(caught.exception.errno, errno.EINVAL)

    def test_a_watcher_is_told(self) -> None:
        self.file.write(b"x" * 8192)
        events: queue.Queue[daxfs.Event] = queue.Queue()
        self.assertIsNone(daxfs.next_event(self.file))
        with daxfs.Lease(self.file, 0, 8192) as lease, daxfs.Watcher(self.file, events.put):
            asking = subprocess.Popen(["truncate", "-s", "0", str(self.root / "file")])
            try:
                event = events.get(timeout=30)
                self.assertEqual((event.lease_id, event.reason),
                                 (lease.id, daxfs.REASON_TRUNCATE))
                if event.type == daxfs.EVENT_BREAK:
                    lease.unlease()
                self.assertEqual(asking.wait(timeout=30), 0)
            finally:
                asking.kill()
                asking.wait()


if __name__ == "__main__":
    unittest.main()
