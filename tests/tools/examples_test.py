"""The programs of client/examples, on mounts.

examples_test.py BUILD_DIR [unittest's arguments]"""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

SECONDS = 120
SKIPPED = 77
MIB = 1 << 20


def missing():
    if os.geteuid() != 0:
        return "root"
    return None if os.access("/dev/fuse", os.R_OK | os.W_OK) else "/dev/fuse"


class Examples(unittest.TestCase):
    build = None

    def setUp(self):
        self.directory = tempfile.mkdtemp(dir="/dev/shm")
        self.addCleanup(shutil.rmtree, self.directory)
        self.mount = os.path.join(self.directory, "mount")
        os.mkdir(self.mount)
        pool = os.path.join(self.directory, "pool")
        self.run_program("mkfs.daxfs", "--quiet", "--size", "128M", pool)
        self.run_program("daxfs", pool, self.mount, "-o", "pin_policy=break,break_timeout=60s")
        self.addCleanup(subprocess.run, ["umount", "-l", self.mount], check=False, capture_output=True)

    def program(self, name):
        return os.path.join(self.build, name if "." in name or name == "daxfs" else f"tests/example_{name}")

    def run_program(self, name, *arguments):
        done = subprocess.run([self.program(name), *arguments], capture_output=True, text=True, check=False, timeout=SECONDS)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def test_the_cache_gives_entries_back_and_reads_nothing_foreign(self):
        said = self.run_program("cache", self.mount, "8", "4")
        truncates = int(re.search(r"the evictor: (\d+) truncates", said)[1])
        reads, evictions, refills = map(int, re.search(
            r"the cache: (\d+) reads of 1 MiB, all intact; (\d+) entries given back, (\d+) brought in again", said).groups())
        self.assertGreater(truncates, 0)
        self.assertGreater(reads, 0)
        # Two truncates of one entry can be one break.
        self.assertGreater(evictions, 0)
        self.assertGreater(refills, 0)
        self.assertEqual(sorted(os.listdir(self.mount)), [f"entry-{i:04}" for i in range(8)])

    def ask(self, path, request):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(SECONDS)
            client.connect(path)
            client.sendall(request.encode())
            got = b""
            while part := client.recv(1 << 16):
                got += part
        return got

    def test_the_server_takes_a_file_anew_when_it_is_replaced(self):
        path, where = os.path.join(self.mount, "served"), os.path.join(self.directory, "socket")
        first, second = os.urandom(MIB + 5), os.urandom(3 * MIB)
        with open(path, "wb") as file:
            file.write(first)
        server = subprocess.Popen([self.program("server"), path, where], stdout=subprocess.PIPE, text=True)
        self.addCleanup(server.stdout.close)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        self.assertEqual(server.stdout.readline(), f"serving {len(first)} bytes\n")
        self.assertEqual(self.ask(where, f"0 {len(first)}\n"), first)
        self.assertEqual(self.ask(where, f"{MIB} 100\n"), first[MIB:])
        over = threading.Event()
        wrong = []

        def read_on():
            while not over.is_set():
                got = self.ask(where, f"0 {MIB}\n")
                if got not in (first[:MIB], second[:MIB]):
                    wrong.append(len(got))

        reader = threading.Thread(target=read_on)
        reader.start()
        with open(path + ".new", "wb") as file:
            file.write(second)
        os.rename(path + ".new", path)
        end = time.monotonic() + SECONDS
        while self.ask(where, "0 64\n") != second[:64]:
            self.assertLess(time.monotonic(), end)
        over.set()
        reader.join(SECONDS)
        self.assertEqual(wrong, [])
        self.ask(where, "QUIT\n")
        self.assertRegex(server.stdout.readline(), r"\d+ answers, gave way [1-9]\d* times")
        self.assertEqual(server.wait(SECONDS), 0)

    def test_the_gpu_writes_or_what_is_missing_is_said(self):
        done = subprocess.run(
            [self.program("gpu"), os.path.join(self.mount, "f")], capture_output=True, text=True, check=False, timeout=SECONDS)
        if done.returncode == 77:
            self.assertRegex(done.stderr, "missing here: .*(libcuda|GPU)")
        else:
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("every byte is its own", done.stdout)


if __name__ == "__main__":
    if missing():
        print(f"SKIPPED: no {missing()}")
        sys.exit(SKIPPED)
    Examples.build = os.path.abspath(sys.argv.pop(1))
    unittest.main(verbosity=2)
