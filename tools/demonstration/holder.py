"""The holder: daxfs-hold, and all that it says, with the time at which it said it."""

import errno
import json
import signal
import subprocess
import threading
import time
from dataclasses import dataclass

from system import Unable, interruptions, spawn, stop

HELD_SECONDS = 60
NEWS_SECONDS = 5  # from its line to us


@dataclass(frozen=True)
class Said:
    """One line of the holder's, as a JSON object."""

    when: float  # CLOCK_MONOTONIC
    what: dict

    @property
    def event(self):
        return self.what["event"]


class Holder:
    """daxfs-hold on a range of a file."""

    def __init__(self, program, path, log, *options):
        self.command = [program, path, "--json", *options]
        self.log = log
        self.process = None
        self.reader = None
        self.said = []  # the reader appends, others look
        self.news = threading.Condition()
        self.ended = False
        self.exit_code = None

    def start(self):
        with open(self.log, "w", encoding="utf-8") as errors, interruptions.later():
            self.process = spawn(self.command, stdout=subprocess.PIPE, stderr=errors, text=True)
            self.reader = threading.Thread(target=self.read, daemon=True)
            self.reader.start()

    def read(self):
        for line in self.process.stdout:
            now = time.monotonic()
            with self.news:
                self.said.append(Said(now, json.loads(line)))
                self.news.notify_all()
        with self.news:
            self.ended = True
            self.news.notify_all()

    def first(self, event):
        """The first thing of that kind that it said, if it did."""
        with self.news:
            return next((said for said in self.said if said.event == event), None)

    def holds(self):
        """Waits until it holds, or has failed to."""
        with self.news:
            decided = self.news.wait_for(lambda: self.said or self.ended, HELD_SECONDS)
        if not decided:
            raise Unable(f"daxfs-hold says nothing for {HELD_SECONDS} s: {' '.join(self.command)}")
        return self.first("held") is not None

    def must_hold(self):
        if not self.holds():
            raise Unable(f"daxfs-hold does not hold: {self.complaint('failed').get('message') or 'it did not say why'}")

    def told(self, expected=0):
        """What the daemon told it about its lease; waits a little for so many."""
        news = lambda: [said for said in self.said if said.event in ("break", "changed", "revoked")]
        with self.news:
            self.news.wait_for(lambda: len(news()) >= expected, NEWS_SECONDS)
            return news()

    def gave_way(self):
        """When it had unpinned the last of what it was asked for."""
        with self.news:
            return max((said.when for said in self.said if said.event == "gave_up"), default=None)

    def complaint(self, event):
        """The first such object on its standard error."""
        with open(self.log, encoding="utf-8", errors="replace") as errors:
            for line in errors:
                try:
                    what = json.loads(line)
                except ValueError:  # usage errors are plain text
                    what = {"event": "failed", "message": line.strip()}
                if what.get("event") == event:
                    return what
        return {}

    def refusal(self):
        """The errno that its pin failed with, by name."""
        number = self.complaint("failed").get("errno", 0)
        # Python knows this number by its other name.
        return "EOPNOTSUPP" if number == errno.EOPNOTSUPP else errno.errorcode.get(number, str(number))

    def first_foreign(self):
        """Where it first met bytes that are not its own, and what they say."""
        seen = self.complaint("foreign")
        text = bytes.fromhex(seen.get("found", "")).decode("latin-1")
        return f"at offset {seen.get('file_offset', 0):,}, in its own memory, it read {text!r}"

    def let_go(self):
        """Asks it to end; it checks every block a last time."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def wait(self):
        try:
            self.exit_code = self.process.wait(HELD_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise Unable("daxfs-hold does not end after SIGTERM") from error
        self.reader.join(HELD_SECONDS)

    def total(self, name):
        """One of the figures that it gave at its end."""
        released = self.first("released")
        return released.what[name] if released else 0

    @property
    def foreign(self):
        return self.total("foreign")

    @property
    def checks(self):
        return self.total("checks")

    @property
    def intact(self):
        return self.exit_code == 0 and self.foreign == 0

    def stop(self):
        stop(self.process, (signal.SIGTERM, 10), (signal.SIGKILL, 10))
        if self.reader:
            self.reader.join(10)
            self.process.stdout.close()
