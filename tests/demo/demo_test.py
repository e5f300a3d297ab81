"""tools/demo as a user runs it: it ends by itself, tells when a promise is broken, and leaves nothing, however it ends.

demo_test.py BUILD_DIR [unittest's arguments]"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import xml.etree.ElementTree

HERE = os.path.dirname(os.path.abspath(__file__))
DEMO = os.path.join(HERE, "..", "..", "tools", "demonstration")
SECONDS = 600
SKIPPED = 77

# In the place of the real daemon: one never mounts anything, the other turns a safe policy into the unsafe one.
SILENT_DAEMON = """#!/bin/sh
exec sleep 600
"""
FALSE_DAEMON = """#!/bin/sh
exec {real} "$1" "$2" "$3" "$4" pin_policy=ignore,unsafe_demo
"""


def missing():
    if os.geteuid() != 0:
        return "root"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse"
    return None if shutil.which("fio") else "fio"


def processes_about(directory):
    found = []
    for number in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{number}/cmdline", "rb") as line:
            command = line.read().replace(b"\0", b" ").decode(errors="replace")
            if directory in command and int(number) != os.getpid():
                found.append(command)
    return found


def files_of(tree):
    """Of a source tree, without what is built: path and when it was changed."""
    found = {}
    for directory, inner, names in os.walk(tree):
        inner[:] = [name for name in inner if name not in ("build", ".git") and not name.startswith("__pycache__")]
        for name in names:
            path = os.path.join(directory, name)
            found[path] = os.lstat(path).st_mtime_ns
    return found


def end(process):
    """One that is still there, as after a failed test."""
    if process.poll() is None:
        process.terminate()
        process.communicate(timeout=SECONDS)
    process.stdout.close()


class Demo(unittest.TestCase):
    build = None

    def setUp(self):
        self.shm = tempfile.mkdtemp(prefix="daxfs-demo-test-", dir="/dev/shm")
        self.addCleanup(shutil.rmtree, self.shm)
        # Where the demo makes its own temporary directory.
        self.temporary = os.path.join(self.shm, "tmp")
        os.mkdir(self.temporary)
        self.mountpoint = os.path.join(self.shm, "mnt")

    def build_with(self, daemon):
        """A build directory whose daxfs is this script."""
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        for name in ("mkfs.daxfs", "daxfsctl", "daxfs-hold"):
            os.symlink(os.path.join(self.build, name), os.path.join(directory, name))
        path = os.path.join(directory, "daxfs")
        with open(path, "w", encoding="utf-8") as script:
            script.write(daemon.format(real=os.path.join(self.build, "daxfs")))
        os.chmod(path, 0o755)
        return directory

    def command(self, *arguments, build=None):
        places = ["--pool", os.path.join(self.shm, "pool"), "--mountpoint", self.mountpoint, "--build", build or self.build]
        return ["/usr/bin/python3", "-B", DEMO, *arguments, *places]

    def start(self, *arguments, **how):
        environment = {**os.environ, "TMPDIR": self.temporary}
        self.directory = os.path.join(self.shm, "cwd")
        os.makedirs(self.directory, exist_ok=True)
        process = subprocess.Popen(
            self.command(*arguments, **how),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            cwd=self.directory,
            start_new_session=True,
        )
        self.addCleanup(end, process)
        return process

    def run_demo(self, *arguments, **how):
        process = self.start(*arguments, **how)
        said, _ = process.communicate(timeout=SECONDS)
        self.expect_nothing_left()
        return process.returncode, said

    def expect_nothing_left(self, *files):
        with open("/proc/self/mountinfo", encoding="utf-8") as table:
            self.assertNotIn(self.shm, table.read())
        self.assertEqual(processes_about(self.shm), [])
        self.assertEqual(sorted(os.listdir(self.shm)), sorted(["cwd", "tmp", *files]))
        self.assertEqual(os.listdir(self.directory), [])
        self.assertEqual(os.listdir(self.temporary), [])

    def signal_after(self, process, words, number):
        """What it has said until then."""
        said = ""
        for line in process.stdout:
            said += line
            if words in line:
                process.send_signal(number)
                break
        return said

    def interrupt_after(self, words, number, *arguments, **how):
        process = self.start(*arguments, **how)
        said = self.signal_after(process, words, number)
        rest, _ = process.communicate(timeout=SECONDS)
        self.assertIn("interrupted, cleaning up", rest, said + rest)
        self.assertEqual(process.returncode, 128 + number, said + rest)
        self.expect_nothing_left()

    def test_all_policies_are_as_promised(self):
        status, said = self.run_demo()
        self.assertEqual(status, 0, said)
        self.assertIn("left behind: no mount, no process, no file", said)
        for policy in ("refuse", "defer", "wait", "break", "ignore"):
            self.assertIn(f"pin_policy={policy}", said)
        self.assertLessEqual(max(len(line) for line in said[said.index("pin_policy=   ") :].splitlines()), 100)

    def test_the_thread_is_as_promised(self):
        results = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, results)
        svg, table = os.path.join(results, "thread.svg"), os.path.join(results, "thread.json")
        status, said = self.run_demo("thread", "--svg", svg, "--json", table)
        self.assertEqual(status, 0, said)
        self.assertLessEqual(max(len(line) for line in said[said.index("  holder  ") : said.index("The timelines")].splitlines()), 100)
        self.assertEqual(xml.etree.ElementTree.parse(svg).getroot().tag, "{http://www.w3.org/2000/svg}svg")
        with open(table, encoding="utf-8") as file:
            positions = json.load(file)["positions"]
        self.assertEqual(len(positions), 8)
        for position in positions:
            foreign = sum(holder["foreign"] for holder in position["holders"])
            self.assertEqual(foreign > 0, "ignore" in position["options"], position["who"])

    def test_the_thread_writes_nothing_that_was_not_asked_for(self):
        tree = os.path.join(HERE, "..", "..")
        before = files_of(tree)
        status, said = self.run_demo("thread")
        self.assertEqual(status, 0, said)
        self.assertIn("--svg FILE draws the timelines as a picture.", said)
        self.assertEqual(files_of(tree), before)

    def test_fio_beside_a_holder_is_as_promised(self):
        results = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, results)
        svg, table = os.path.join(results, "fio.svg"), os.path.join(results, "fio.json")
        status, said = self.run_demo("fio", "--seconds", "4", "--svg", svg, "--json", table)
        self.assertEqual(status, 0, said)
        self.assertLessEqual(max(len(line) for line in said[said.index("pin_policy=    ") :].splitlines()), 100)
        self.assertEqual(xml.etree.ElementTree.parse(svg).getroot().tag, "{http://www.w3.org/2000/svg}svg")
        with open(table, encoding="utf-8") as file:
            policies = {result["policy"]: result for result in json.load(file)["policies"]}
        self.assertEqual(list(policies), ["refuse", "defer", "wait", "break", "ignore"])
        for name, result in policies.items():
            self.assertEqual(result["foreign"] > 0, name == "ignore", result)
            self.assertEqual(result["refused"] > 0, name == "refuse", result)

    def test_live_prints_an_address_and_leaves_nothing(self):
        status, said = self.run_demo("live", "--seconds", "4")
        self.assertEqual(status, 0, said)
        self.assertRegex(said, r"\n  http://127\.0\.0\.1:\d+/#token=[0-9a-f]{32}\n")
        self.interrupt_after("Ctrl-C ends it", signal.SIGINT, "live")

    def test_a_broken_promise_of_fios_is_told(self):
        status, said = self.run_demo("fio", "--seconds", "4", "--policies", "defer", build=self.build_with(FALSE_DAEMON))
        self.assertEqual(status, 1, said)
        self.assertIn("pin_policy=defer: NOT as promised: a holder never sees somebody else's bytes", said)

    def test_a_broken_promise_is_told(self):
        status, said = self.run_demo("--policies", "defer", build=self.build_with(FALSE_DAEMON))
        self.assertEqual(status, 1, said)
        self.assertIn("NOT AS PROMISED under defer: a holder never sees somebody else's bytes", said)

    def test_interrupted_while_a_punch_waits(self):
        self.interrupt_after("the punch waits", signal.SIGINT, "--policies", "wait")

    def test_interrupted_while_it_mounts(self):
        self.interrupt_after("$ daxfs ", signal.SIGTERM, "--policies", "refuse")

    def test_interrupted_while_the_mount_does_not_answer_it_ends_at_once(self):
        begin = time.monotonic()
        self.interrupt_after("$ daxfs ", signal.SIGINT, "--policies", "refuse", build=self.build_with(SILENT_DAEMON))
        self.assertLess(time.monotonic() - begin, 15)

    def test_the_next_one_clears_what_a_killed_one_has_left(self):
        process = self.start("--policies", "wait")
        said = self.signal_after(process, "the punch waits", signal.SIGKILL)
        self.assertEqual(process.wait(SECONDS), -signal.SIGKILL, said)
        with open("/proc/self/mountinfo", encoding="utf-8") as table:
            self.assertIn(self.shm, table.read())
        self.assertNotEqual(processes_about(self.shm), [])
        status, said = self.run_demo("--policies", "refuse")
        self.assertEqual(status, 0, said)
        self.assertIn(f"demo: an earlier one (process {process.pid}) was killed; taken away: the mount on {self.mountpoint}", said)
        self.assertFalse(os.path.exists(f"/run/daxfs-demo/{process.pid}.json"))

    def test_the_thread_interrupted(self):
        self.interrupt_after("$ daxfs ", signal.SIGINT, "thread")

    def test_wrong_usage_is_one_line_and_status_2(self):
        for wrong, complaint in (
            (["nonsense"], "invalid choice: 'nonsense'"),
            (["--policies", "hope"], "'hope' is not one of refuse, defer, wait, break, ignore"),
            (["--size", "1K"], "'1K' is not a size"),
            (["--svg", "picture.svg"], "--svg does not go with policies"),
            (["thread", "--policies", "wait"], "--policies does not go with thread"),
            (["thread", "--seconds", "3"], "--seconds does not go with thread"),
            (["fio", "--seconds", "0"], "'0' is not a number of seconds"),
            (["fio", "--size", "1G"], "--size does not go with fio"),
            (["live", "--policies", "wait"], "--policies does not go with live"),
            (["fio", "--listen", ":1"], "--listen does not go with fio"),
        ):
            with self.subTest(wrong):
                status, said = self.run_demo(*wrong)
                self.assertEqual(status, 2, said)
                self.assertIn(complaint, said.splitlines()[-1])

    def test_what_is_missing_is_named(self):
        status, said = self.run_demo("thread", "--svg", "/nowhere/thread.svg")
        self.assertEqual(status, 1, said)
        self.assertEqual(said.count("\n"), 2, said)
        self.assertIn("/nowhere must be a directory that can be written to", said)


if __name__ == "__main__":
    if missing():
        print(f"SKIPPED: no {missing()}")
        sys.exit(SKIPPED)
    Demo.build = os.path.abspath(sys.argv.pop(1))
    unittest.main(verbosity=2)
