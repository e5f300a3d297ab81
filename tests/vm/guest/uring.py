"""uring.py BUILD: io_uring as a device that has registered pinned memory of device DAX, which Linux allows from 6.12 on.

daxfs-hold works in its pinned memory by registered buffers; beside it the file is punched, and others fill the pool."""

import errno
import os
import pathlib
import signal
import subprocess
import sys
import threading

SOURCE = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(SOURCE / "tests/soak"))

from harness import MIB, Failure, Place, check, wait_until  # noqa: E402  (found by the line above)
from rdma import damaged, fill, punch_file  # noqa: E402

POOL_MIB = 128
HELD = 2 * MIB
PATIENCE = 300
SAW_FOREIGN = 3


class Holder:
    """daxfs-hold --engine io_uring, and what it says."""

    def __init__(self, place, *more):
        self.place = place
        self.path = place.path("hold.out")
        words = [place.inside("target"), "--length", str(HELD), "--allocate", "--engine", "io_uring", *more]
        with open(self.path, "w", encoding="utf-8") as out:
            self.process = place.processes.start([place.program("daxfs-hold"), *words], stdout=out, stderr=out)
        wait_until(lambda: "held" in self.said() or self.process.poll() is not None, PATIENCE, "daxfs-hold to hold")
        check(self.process.poll() is None, f"daxfs-hold ended with {self.process.returncode}: {self.said()}")

    def said(self):
        return pathlib.Path(self.path).read_text(encoding="utf-8", errors="replace")

    def end(self):
        """Its exit status, after it has looked at all of its memory a last time."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(PATIENCE)
        self.place.processes.end(self.process)
        return status

    def must_be_intact(self, fillers):
        status = self.end()
        check(status == 0, f"daxfs-hold ended with {status}: {self.said()}")
        check(damaged(self.place, fillers) == 0, "io_uring has written into other files")


def expect(got, wanted):
    check(got == wanted, f"the punch: {errno.errorcode.get(got, got)}, not {errno.errorcode.get(wanted, wanted)}")


def refuse(place):
    holder = Holder(place)
    expect(punch_file(place.inside("target"), 0, HELD), errno.ETXTBSY)
    holder.must_be_intact(fill(place))


def defer(place):
    holder = Holder(place)
    expect(punch_file(place.inside("target"), 0, HELD), 0)
    limbo = place.ask("status")["limbo"]
    check(limbo == HELD, f"{limbo} bytes are in limbo, not {HELD}")
    holder.must_be_intact(fill(place))


def wait(place):
    holder = Holder(place)
    answers = []
    punch = threading.Thread(target=lambda: answers.append(punch_file(place.inside("target"), 0, HELD)))
    punch.start()
    try:
        wait_until(lambda: place.ask("status")["waiting"] == 1, PATIENCE, "the punch to wait")
        fillers = fill(place)
        check(not answers, "the punch did not wait")
    finally:
        status = holder.end()
        punch.join(PATIENCE)
    check(status == 0, f"daxfs-hold ended with {status}: {holder.said()}")
    expect(answers[0] if answers else errno.ETIMEDOUT, 0)
    check(damaged(place, fillers) == 0, "io_uring has written into other files")


def give_way(place):
    holder = Holder(place, "--lease")
    expect(punch_file(place.inside("target"), 0, HELD), 0)
    fillers = fill(place)
    holder.must_be_intact(fillers)


def ignore(place):
    """That the others can fail."""
    holder = Holder(place)
    expect(punch_file(place.inside("target"), 0, HELD), 0)
    fillers = fill(place)
    wait_until(lambda: holder.process.poll() is not None or "foreign" in holder.said(), PATIENCE, "foreign bytes")
    status = holder.end()
    check(status == SAW_FOREIGN, f"daxfs-hold ended with {status}, and its blocks are others': {holder.said()}")
    found = damaged(place, fillers)
    check(found > 0, "io_uring has damaged no other file, and some were in its way")
    print(f"ignore: {found} files of others are damaged", flush=True)


STEPS = (
    (refuse, "pin_policy=refuse", "refuse: a punch of registered memory is refused"),
    (defer, "pin_policy=defer", "defer: punched registered memory is nobody else's until it is released"),
    (wait, "pin_policy=wait", "wait: a punch of registered memory ends when that is released"),
    (give_way, "pin_policy=break", "break: the holder unregisters, and the punch ends"),
    (ignore, "pin_policy=ignore,unsafe_demo", "ignore: io_uring writes into other files, and the holder finds it"),
)


def main():
    place = Place(sys.argv[1], pool=os.environ["POOL"])
    try:
        for act, options, text in STEPS:
            with place.report.step(f"io_uring: {text}"), place.mounting(POOL_MIB, options):
                act(place)
    except (Failure, subprocess.SubprocessError) as error:
        print(f"FAIL  io_uring: {error}", flush=True)
        return 1
    finally:
        place.close()
    return 1 if place.report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
