"""The programs of client/examples, on mounts.

examples_test.py BUILD_DIR [unittest's arguments]"""

import os
import re
import socket
import subprocess
import threading
import time

from mounted import Mounted, main

SECONDS = 120
MIB = 1 << 20


class Examples(Mounted):
    size = "128M"
    options = "pin_policy=break,break_timeout=60s"
    seconds = SECONDS

    def program(self, name):
        return self.tool(f"tests/example_{name}")

    def test_the_cache_gives_entries_back_and_reads_nothing_foreign(self):
        said = self.run_tool("tests/example_cache", self.mount, "8", "4")
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

    def serve(self, path, where, length):
        server = subprocess.Popen([self.program("server"), path, where], stdout=subprocess.PIPE, text=True)
        self.addCleanup(server.stdout.close)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        self.assertEqual(server.stdout.readline(), f"serving {length} bytes\n")
        return server

    def test_the_server_takes_a_file_anew_when_it_is_replaced(self):
        path, where = os.path.join(self.mount, "served"), os.path.join(self.directory, "socket")
        first, second = os.urandom(MIB + 5), os.urandom(3 * MIB)
        with open(path, "wb") as file:
            file.write(first)
        server = self.serve(path, where, len(first))
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

    def test_the_server_takes_a_file_anew_when_it_is_cut_shorter(self):
        path, where = os.path.join(self.mount, "cut"), os.path.join(self.directory, "socket")
        content = os.urandom(4 * MIB)
        with open(path, "wb") as file:
            file.write(content)
        server = self.serve(path, where, len(content))
        for size in (2_000_000, MIB, 5, 0):
            os.truncate(path, size)
            end = time.monotonic() + SECONDS
            while (got := self.ask(where, f"0 {4 * MIB}\n")) != content[:size]:
                self.assertEqual(content[: len(got)], got)
                self.assertLess(time.monotonic(), end)
                self.assertIsNone(server.poll())
        self.ask(where, "QUIT\n")
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
    main()
