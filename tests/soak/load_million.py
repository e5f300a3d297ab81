"""One holder with very many pins of a single block each: memory stays bounded, and everything still answers."""

import errno
import json
import os
import subprocess
import time

from harness import BLOCK, MIB, check, wait_until

PINS, QUICK_PINS = 1_000_000, 100_000
BYTES_EACH = 128  # of the daemon's memory for a pin
HELD_SECONDS = 300
LIST_SECONDS = 120


def anonymous_kib(process):
    with open(f"/proc/{process.pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))


def hold(place, pins):
    """The holder, once it says that it holds, and the seconds that this took."""
    begin = time.monotonic()
    words = ["--allocate", "--length", str(BLOCK), "--count", str(pins), "--json"]
    holder = place.processes.start(
        [place.program("daxfs-hold"), place.inside("file"), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_until(
        lambda: place.ask("status")["pins"]["long"] == pins or holder.poll() is not None,
        HELD_SECONDS,
        lambda: f"{pins} pins (there are {place.ask('status')['pins']['long']})",
    )
    check(holder.poll() is None, f"the holder ended with {holder.returncode}")
    check(json.loads(holder.stdout.readline())["pins"] == pins, "the holder says something else")
    return holder, time.monotonic() - begin


def seconds_of(action):
    begin = time.monotonic()
    action()
    return time.monotonic() - begin


def run(place):
    pins = QUICK_PINS if place.quick else PINS
    with place.mounting(pins * BLOCK * 5 // 4 // MIB + 64):
        open(place.inside("file"), "wb").close()
        empty, before = place.free(), anonymous_kib(place.daemon)
        with place.report.step(f"million: {pins} pins of one block, taken, listed, and refused a truncate"):
            holder, taken = hold(place, pins)
            each = (anonymous_kib(place.daemon) - before) * 1024 / pins
            check(each <= BYTES_EACH, f"{each:.0f} bytes of memory for each pin, at most {BYTES_EACH} are meant")
            out = place.run([place.program("daxfsctl"), "--json", "pins", place.mountpoint], seconds=LIST_SECONDS)
            listed = json.loads(out)
            check(len({pin["id"] for pin in listed}) == pins, f"daxfsctl lists {len(listed)} pins")
            with open(place.inside(".daxfs", "pins"), encoding="utf-8") as control:
                check(len(json.load(control)) == pins, ".daxfs/pins lists another number")
            try:
                os.truncate(place.inside("file"), 0)
                check(False, "a truncate was not refused")
            except OSError as error:
                check(error.errno == errno.ETXTBSY, f"a truncate: {error.strerror}, not ETXTBSY")
            print(f"      {taken:.1f} s to take them, {each:.0f} bytes of the daemon's memory each", flush=True)
        with place.report.step("million: the holder is killed, and every pin goes"):
            place.processes.end(holder)
            gone = seconds_of(
                lambda: wait_until(lambda: place.ask("status")["pins"]["long"] == 0, 60, "the end of the pins")
            )
            os.truncate(place.inside("file"), 0)
            place.check_free(empty)
            print(f"      within {gone:.1f} s", flush=True)
