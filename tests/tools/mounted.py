"""What the tests of commands on a mount share: a fresh pool, mounted, and taken away again."""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest

SKIPPED = 77


def missing():
    if os.geteuid() != 0:
        return "root"
    return None if os.access("/dev/fuse", os.R_OK | os.W_OK) else "/dev/fuse"


class Mounted(unittest.TestCase):
    build = None
    size = "64M"
    options = "pin_policy=wait,wait_timeout=60s"
    seconds = 60

    def setUp(self):
        self.directory = tempfile.mkdtemp(dir="/dev/shm")
        self.addCleanup(shutil.rmtree, self.directory)
        os.chmod(self.directory, 0o755)
        self.mount = os.path.join(self.directory, "mount")
        os.mkdir(self.mount)
        self.pool = os.path.join(self.directory, "pool")
        self.run_tool("mkfs.daxfs", "--quiet", "--size", self.size, self.pool)
        self.mount_again()
        self.addCleanup(subprocess.run, ["umount", "-l", self.mount], check=False, capture_output=True)

    def mount_again(self):
        self.run_tool("daxfs", self.pool, self.mount, "-o", self.options)

    def unmount(self):
        subprocess.run(["umount", self.mount], check=True, timeout=self.seconds)

    def tool(self, name):
        return os.path.join(self.build, name)

    def run_tool(self, name, *arguments):
        done = subprocess.run([self.tool(name), *arguments], capture_output=True, text=True, check=False, timeout=self.seconds)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def spawn(self, *command):
        """Killed and reaped at the end, if it still runs."""
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def hold(self, name, *arguments):
        """A holder, once it holds."""
        process = self.spawn(self.tool("daxfs-hold"), os.path.join(self.mount, name), "--allocate", *arguments)
        self.assertIn("held", process.stdout.readline())
        return process


def main():
    if missing():
        print(f"SKIPPED: no {missing()}")
        sys.exit(SKIPPED)
    Mounted.build = os.path.abspath(sys.argv.pop(1))
    unittest.main(verbosity=2)
