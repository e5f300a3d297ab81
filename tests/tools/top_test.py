"""daxfsctl top on a terminal: what it shows, its keys, a new size, and the terminal as it was at the end.

top_test.py BUILD_DIR [unittest's arguments]"""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

from mounted import Mounted, main

SECONDS = 60


class Screen:
    """As much of a terminal as top needs: it draws from the top left corner, line by line."""

    def __init__(self, command, columns, lines):
        self.master, slave = pty.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=subprocess.PIPE, start_new_session=True)
        self.seen = ""

    def resize(self, columns, lines):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, keys):
        os.write(self.master, keys.encode())

    def picture(self):
        """The last whole picture."""
        whole = [part for part in self.seen.split("\033[H")[1:] if "\033[J" in part]
        text = whole[-1].partition("\033[J")[0] if whole else ""
        return re.sub(r"\033\[[0-9;?]*[A-Za-z]", "", text).split("\r\n")

    def until(self, found):
        """Reads until found(picture)."""
        end = time.monotonic() + SECONDS
        while not found(self.picture()):
            if not select.select([self.master], [], [], max(0, end - time.monotonic()))[0]:
                raise AssertionError("\n".join(["not seen:", *self.picture()]))
            self.seen = (self.seen + os.read(self.master, 65536).decode(errors="replace"))[-200_000:]
        return self.picture()

    def finish(self):
        """Its exit status, and what it wrote last."""
        end = time.monotonic() + SECONDS
        while self.process.poll() is None and time.monotonic() < end:
            if select.select([self.master], [], [], 0.05)[0]:
                self.seen += os.read(self.master, 65536).decode(errors="replace")
        while select.select([self.master], [], [], 0)[0]:
            self.seen += os.read(self.master, 65536).decode(errors="replace")
        return self.process.wait(SECONDS)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stderr.close()
        os.close(self.master)
        os.close(self.slave)


class Top(Mounted):
    def top(self, *arguments, columns=120, lines=24):
        screen = Screen([self.tool("daxfsctl"), "top", *arguments, self.mount], columns, lines)
        self.addCleanup(screen.close)
        return screen

    def holders(self, picture):
        begin = next(i for i, line in enumerate(picture) if "HOLDER" in line)
        return [int(line.split()[0]) for line in picture[begin + 1 :] if line.strip()[:1].isdigit()]

    def test_it_shows_holders_and_who_waits_and_obeys_keys(self):
        large = self.hold("large", "--length", "4M")
        many = self.hold("many", "--length", "64K", "--count", "9")
        puncher = subprocess.Popen(
            ["fallocate", "--punch-hole", "--offset", "0", "--length", "1M", os.path.join(self.mount, "large")],
            start_new_session=True)
        self.addCleanup(puncher.wait)
        self.addCleanup(puncher.kill)
        screen = self.top("--interval", "0.1")
        picture = screen.until(lambda lines: any("fallocate" in line for line in lines))
        self.assertEqual(len(picture), 24)
        waiting = next(line for line in picture if "fallocate" in line)
        self.assertIn("punch", waiting)
        self.assertIn(f"pid {large.pid} (daxfs-hold), a pin", waiting)
        self.assertEqual(self.holders(picture), [large.pid, many.pid])
        screen.press("p")
        screen.until(lambda lines: self.holders(lines) == [many.pid, large.pid])
        screen.press("b")
        screen.until(lambda lines: self.holders(lines) == [large.pid, many.pid])
        screen.press(" ")
        screen.until(lambda lines: lines[-1].startswith("PAUSED"))
        screen.press(" ")
        # What ends is gone from the screen.
        large.terminate()
        self.assertEqual(puncher.wait(SECONDS), 0)
        screen.until(lambda lines: self.holders(lines) == [many.pid] and any("nobody waits" in line for line in lines))
        screen.press("q")
        self.assertEqual(screen.finish(), 0)

    def test_it_fits_into_any_terminal_and_follows_its_size(self):
        holders = [self.hold(f"f{i}", "--length", "64K") for i in range(12)]
        screen = self.top("--interval", "0.1", columns=40, lines=18)
        picture = screen.until(lambda lines: len(lines) == 18)
        self.assertLessEqual(max(map(len, picture)), 40)
        self.assertTrue(any(re.fullmatch(r"\.\.\. \d+ more", line.strip()) for line in picture), picture)
        screen.resize(150, 50)
        screen.process.send_signal(signal.SIGWINCH)
        picture = screen.until(lambda lines: len(lines) == 50)
        self.assertEqual(set(self.holders(picture)), {holder.pid for holder in holders})
        for columns, lines in ((1, 1), (3, 2), (20, 5)):
            screen.resize(columns, lines)
            screen.process.send_signal(signal.SIGWINCH)
            screen.until(lambda picture: len(picture) <= max(lines, 2) and max(map(len, picture)) <= columns)
        screen.press("q")
        self.assertEqual(screen.finish(), 0)

    def test_the_terminal_is_as_it_was_however_it_ends(self):
        for end in ("q", signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            with self.subTest(end):
                screen = self.top("--interval", "0.1")
                screen.until(lambda lines: len(lines) > 1)
                self.assertNotEqual(termios.tcgetattr(screen.slave)[3], screen.before[3])
                if isinstance(end, str):
                    screen.press(end)
                else:
                    screen.process.send_signal(end)
                self.assertIn(screen.finish(), (0, -signal.SIGINT))
                self.assertEqual(termios.tcgetattr(screen.slave), screen.before)
                self.assertTrue(screen.seen.endswith("\033[?25h\033[?1049l"), repr(screen.seen[-60:]))

    def test_it_ends_with_the_mount(self):
        screen = self.top("--interval", "0.1")
        screen.until(lambda lines: len(lines) > 1)
        subprocess.run(["umount", "-l", self.mount], check=True)
        daemon = self.daemon()
        with contextlib.suppress(ProcessLookupError):
            os.kill(daemon, signal.SIGKILL)
        self.assertEqual(screen.finish(), 0)
        self.assertIn(b"the mount has ended", screen.process.stderr.read())
        self.assertEqual(termios.tcgetattr(screen.slave), screen.before)

    def test_a_daemon_that_is_stopped_holds_nobody_up(self):
        screen = self.top("--interval", "0.1")
        screen.until(lambda lines: len(lines) > 1)
        daemon = self.daemon()
        os.kill(daemon, signal.SIGSTOP)
        try:
            screen.until(lambda lines: "NO ANSWER" in lines[-1])
            os.kill(daemon, signal.SIGCONT)
            screen.until(lambda lines: "NO ANSWER" not in lines[-1])
            os.kill(daemon, signal.SIGSTOP)
            screen.until(lambda lines: "NO ANSWER" in lines[-1])
            screen.press("q")
            self.assertEqual(screen.finish(), 0)
            self.assertEqual(termios.tcgetattr(screen.slave), screen.before)
        finally:
            os.kill(daemon, signal.SIGCONT)

    def daemon(self):
        for number in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{number}/cmdline", "rb") as line:
                words = line.read().decode(errors="replace").split("\0")
                if words[0] == self.tool("daxfs") and self.mount in words:
                    return int(number)
        raise AssertionError("no daemon")

    def test_options_that_make_no_sense_are_named(self):
        for words, complaint in (
            (["--interval", "nan"], "'nan'"),
            (["--interval", "0.01"], "0.1"),
            (["--count", "0"], "1000000000"),
            (["--sort", "size"], "'size'"),
            (["--json"], "no JSON"),
        ):
            done = subprocess.run([self.tool("daxfsctl"), *(words if words[0] == "--json" else ()), "top",
                                   *(() if words[0] == "--json" else words), self.mount],
                                  capture_output=True, text=True, check=False, timeout=60)
            self.assertEqual(done.returncode, 2, words)
            self.assertIn(complaint, done.stderr)


if __name__ == "__main__":
    main()
