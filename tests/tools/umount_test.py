"""How a mount ends: umount.fuse.daxfs, as umount(8) calls it, and what is said the next time. In a mount namespace of its own.

umount_test.py BUILD_DIR [unittest's arguments]"""

import ctypes
import os
import signal
import subprocess
import time

from mounted import Mounted, main

HELPER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../tools/umount.fuse.daxfs")
SYS_PIDFD_GETFD = 438
CONNECTIONS = "/sys/fs/fuse/connections"


class Umount(Mounted):
    def mount_again(self):
        self.daemon = self.spawn(self.tool("daxfs"), self.pool, self.mount, "-f")
        self.wait_for(self.is_mounted)

    def setUp(self):
        if not os.path.ismount(CONNECTIONS):
            subprocess.run(["mount", "-t", "fusectl", "fusectl", CONNECTIONS], check=True)
        super().setUp()

    def is_mounted(self):
        with open("/proc/self/mountinfo", encoding="utf-8") as table:
            return any(line.split()[4] == self.mount for line in table)

    def wait_for(self, condition):
        end = time.monotonic() + self.seconds
        while not condition():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)

    def lock_of_daemon(self):
        """A copy of its descriptor of the pool: its lock lasts as long as that."""
        place = f"/proc/{self.daemon.pid}/fd"
        number = next(int(name) for name in os.listdir(place) if os.readlink(os.path.join(place, name)) == self.pool)
        process = os.pidfd_open(self.daemon.pid)
        copy = ctypes.CDLL(None, use_errno=True).syscall(SYS_PIDFD_GETFD, process, number, 0)
        os.close(process)
        self.assertGreaterEqual(copy, 0, os.strerror(ctypes.get_errno()))
        return copy

    def test_it_waits_until_the_daemon_lets_the_pool_go(self):
        lock = self.lock_of_daemon()
        helper = self.spawn(HELPER, self.mount, "-t", "fuse.daxfs")
        self.wait_for(lambda: not self.is_mounted())
        with self.assertRaises(subprocess.TimeoutExpired):
            helper.wait(1)
        os.close(lock)
        self.assertEqual(helper.wait(self.seconds), 0)
        self.assertEqual(helper.stderr.read(), "")
        self.assertEqual(self.daemon.wait(self.seconds), 0)

    def test_it_does_not_wait_while_others_have_the_mount(self):
        other = self.spawn("unshare", "--mount", "--propagation", "private", "sh", "-c", "echo there; exec sleep 600")
        self.assertEqual(other.stdout.readline(), "there\n")
        begin = time.monotonic()
        done = subprocess.run([HELPER, self.mount], capture_output=True, text=True, check=False, timeout=self.seconds)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertLess(time.monotonic() - begin, 25)
        self.assertIsNone(self.daemon.poll())

    def first_lines(self):
        """What the daemon says before it has answered somebody."""
        os.listdir(self.mount)
        self.daemon.send_signal(signal.SIGTERM)
        return self.daemon.communicate(timeout=self.seconds)[1]

    def test_the_next_mount_says_how_the_last_one_ended(self):
        self.assertNotIn("not unmounted", self.first_lines())
        self.mount_again()
        os.listdir(self.mount)
        self.daemon.kill()
        self.daemon.wait()
        subprocess.run(["umount", "-l", self.mount], check=True)
        self.mount_again()
        self.assertIn(f"{self.pool}: not unmounted the last time", self.first_lines())
        self.mount_again()
        self.assertNotIn("not unmounted", self.first_lines())

    def test_a_busy_mount_stays(self):
        with open(os.path.join(self.mount, "file"), "wb"):
            done = subprocess.run([HELPER, self.mount], capture_output=True, text=True, check=False, timeout=self.seconds)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("busy", done.stderr)
        self.assertTrue(self.is_mounted())


if __name__ == "__main__":
    main()
