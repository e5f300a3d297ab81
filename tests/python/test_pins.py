# SPDX-License-Identifier: Apache-2.0
"""Pins and views on a real mount."""
import errno
import gc
import os
import unittest

import daxfs
from mounted import ALLOCATE, Mounted

MIB = 1 << 20


class Pins(Mounted):
    def test_a_view_is_the_file_without_a_copy(self) -> None:
        with daxfs.Pin(self.file, 0, 8192, ALLOCATE) as pin:
            self.assertEqual(sum(e.length for e in pin.extents()), 8192)
            self.assertEqual(daxfs.extents(self.file, 0, 8192)[0].pins, 1)
            with pin.map() as view:
                view[4096:4101] = b"daxfs"
                self.assertEqual(os.pread(self.file.fileno(), 5, 4096), b"daxfs")

    def test_numbers_that_do_not_fit_are_refused(self) -> None:
        for offset, length, flags in ((2**64 + 4096, 4096, 0), (0, 2**64 + 4096, 0), (0, 4096, 2**32 | ALLOCATE), (-4096, 4096, 0)):
            with self.assertRaises(OverflowError):
                daxfs.Pin(self.file, offset, length, flags)
        with self.assertRaises(OverflowError):
            daxfs.Lease(self.file, 2**64, 4096)
        with self.assertRaises(OverflowError):
            daxfs.extents(self.file, 0, 2**64 + 4096)

    def test_a_view_keeps_the_pin(self) -> None:
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

    def test_a_view_for_each_extent(self) -> None:
        # Another file's blocks between them make the file two extents.
        with open(self.root / "between", "w+b", buffering=0) as between:
            for start in range(0, 4 * 4096, 4096):
                os.pwrite(self.file.fileno(), bytes([1 + start // 4096]) * 4096, start)
                os.pwrite(between.fileno(), bytes(4096), start)
        with daxfs.Pin(self.file, 0, 4 * 4096, daxfs.PIN_WRITE) as pin:
            extents = pin.extents()
            views = pin.map_extents()
            self.assertEqual([len(view) for view in views], [extent.length for extent in extents])
            self.assertEqual(b"".join(bytes(view) for view in views), os.pread(self.file.fileno(), 4 * 4096, 0))
            views[0][0:3] = b"abc"
            with open(self.root / "file", "rb", buffering=0) as again:
                self.assertEqual(os.pread(again.fileno(), 3, extents[0].file_offset), b"abc")
            last = views.pop()
            views.clear()
            with self.assertRaises(BufferError):
                pin.unpin()
            last.release()
            del last
            gc.collect()

    def test_a_pin_for_reading_is_read_only(self) -> None:
        self.file.write(b"x" * 4096)
        with daxfs.Pin(self.file, 0, 4096) as pin, pin.map() as view:
            self.assertTrue(view.readonly)
            self.assertEqual(view[0], ord("x"))

    def test_numpy_sees_the_blocks_without_a_copy(self) -> None:
        try:
            import numpy
        except ImportError:
            self.skipTest("numpy is missing: apt-get install python3-numpy")
        with daxfs.Pin(self.file, 0, MIB, ALLOCATE) as pin:
            array = numpy.frombuffer(pin.map(), dtype=numpy.uint32)
            self.assertEqual(array.size, MIB // 4)
            array[1] = 0x64617866
            self.assertEqual(os.pread(self.file.fileno(), 4, 4), b"fxad")
            with self.assertRaises(BufferError):
                pin.unpin()
            del array

    def test_a_pin_goes_with_its_object(self) -> None:
        pin = daxfs.Pin(self.file, 0, 4096, ALLOCATE)
        self.assertIn(f'"id":{pin.id},', self.pins())
        view = pin.map()[:10]
        del pin
        gc.collect()
        self.assertNotEqual(self.pins().strip(), "[]", "the view needs it")
        view[:] = b"0123456789"
        del view
        gc.collect()
        self.assertEqual(self.pins().strip(), "[]")

    def test_a_child_leaves_its_parents_view_alone(self) -> None:
        with daxfs.Pin(self.file, 0, 4096, ALLOCATE) as pin, pin.map() as view:
            child = os.fork()
            if child == 0:
                del view, pin
                gc.collect()
                os._exit(0)
            self.assertEqual(os.waitpid(child, 0)[1], 0)
            view[:4] = b"here"
            self.assertEqual(os.pread(self.file.fileno(), 4, 0), b"here")

    def test_errors_carry_errno(self) -> None:
        with self.assertRaises(OSError) as caught:
            daxfs.Pin(self.file, 0, 0)
        self.assertEqual(caught.exception.errno, errno.EINVAL)
        with self.assertRaises(OSError) as caught, open("/dev/null", "rb") as other:
            daxfs.Pin(other, 0, 4096)
        self.assertEqual(caught.exception.errno, errno.ENOTTY)


if __name__ == "__main__":
    unittest.main()
