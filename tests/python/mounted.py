# SPDX-License-Identifier: Apache-2.0
"""A mount for the tests of the Python module."""
import os
import pathlib
import subprocess
import tempfile
import unittest

import daxfs

BUILD = os.environ["DAXFS_BUILD"]
ALLOCATE = daxfs.PIN_WRITE | daxfs.PIN_ALLOCATE


def program(name: str) -> str:
    return os.path.join(BUILD, name)


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


class Mounted(unittest.TestCase):
    options = "pin_policy=defer,exit_grace=0"

    def setUp(self) -> None:
        # Lists of cleanups are run backwards, whatever happens.
        directory = tempfile.TemporaryDirectory(prefix="daxfs-python-", dir="/dev/shm")
        self.addCleanup(directory.cleanup)
        self.pool, self.root = f"{directory.name}/pool", pathlib.Path(directory.name, "mount")
        self.root.mkdir()
        run(program("mkfs.daxfs"), "--quiet", "--size", "64M", self.pool)
        self.mount()
        self.addCleanup(self.unmount)
        self.file = open(self.root / "file", "w+b", buffering=0)
        self.addCleanup(self.file.close)

    def mount(self) -> None:
        run(program("daxfs"), "-o", self.options, self.pool, str(self.root))

    def unmount(self) -> None:
        if subprocess.run(["umount", str(self.root)], check=False).returncode:
            subprocess.run(["umount", "-l", str(self.root)], check=True)

    def pins(self) -> str:
        return run(program("daxfsctl"), "pins", str(self.root), "--json")
