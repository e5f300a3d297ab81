# SPDX-License-Identifier: Apache-2.0
"""page_test.py [unittest's arguments]: presses everything on the page of `daxfsctl serve`, in a headless Chromium."""
import pathlib
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent
SKIPPED = 77
sys.path.insert(0, str(HERE))

import browser  # noqa: E402


def main() -> int:
    if not browser.found():
        print("SKIPPED: no Chromium here (apt-get install chromium)")
        return SKIPPED
    tests = unittest.defaultTestLoader.discover(str(HERE), "test_*.py")
    if len(sys.argv) > 1:
        tests = unittest.defaultTestLoader.loadTestsFromNames(sys.argv[1:])
    return 0 if unittest.TextTestRunner(verbosity=2).run(tests).wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
