# SPDX-License-Identifier: Apache-2.0
"""python_test.py BUILD_DIR [unittest's arguments]: the tests of the Python module, with the library and commands of a build."""
import os
import pathlib
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent
SKIPPED = 77


def main() -> int:
    build = os.path.abspath(sys.argv.pop(1))
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.W_OK):
        print("SKIPPED: only root can mount here, and /dev/fuse is needed")
        return SKIPPED
    os.environ["DAXFS_BUILD"] = build
    os.environ["DAXFS_LIBRARY"] = os.path.join(build, "client/libdaxfs.so.0")
    sys.path[:0] = [str(HERE), str(HERE.parents[1] / "client/python")]
    sys.argv[0] = "python_test"
    tests = unittest.defaultTestLoader.discover(str(HERE), "test_*.py")
    result = unittest.TextTestRunner(verbosity=2).run(tests)
    for test, reason in result.skipped:
        print(f"skip  {test}: {reason}")
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
