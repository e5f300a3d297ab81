#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The live page beside fio and 10,000 pins: how soon it shows a change, and what it costs the daemon's readers.

under_load.py BUILD [--pins N] [--rounds N]: a pool and a mount of its own in /dev/shm; root, fio and Chromium. fio and the daemon
have one CPU, the page, its server and the holder the others. Exit status: 0 the page was in time, 1 not, 77 cannot run.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from browser import Browser, found

SKIPPED = 77
IN_TIME = 1.0  # seconds


def missing():
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "root with /dev/fuse"
    if os.cpu_count() < 2:
        return "two CPUs"
    return "Chromium" if not found() else None if shutil.which("fio") else "fio"


class Place:
    def __init__(self, build, pins):
        self.build = os.path.abspath(build)
        self.directory = tempfile.mkdtemp(prefix="daxfs-load-", dir="/dev/shm")
        self.mount = os.path.join(self.directory, "mnt")
        os.mkdir(self.mount)
        self.started = []
        pool = os.path.join(self.directory, "pool")
        self.tool("mkfs.daxfs", "--quiet", "--size", "512M", pool)
        self.tool("daxfs", pool, self.mount, "-o", "pin_policy=refuse", on="0")
        self.start("daxfs-hold", os.path.join(self.mount, "held"), "--length", "4K", "--count", str(pins), "--allocate",
                   "--interval-ms", "1000")
        self.until(lambda: self.status()["pins"]["long"] >= pins, "the pins are held")

    def words(self, name, words, on):
        return ["taskset", "--cpu-list", on, os.path.join(self.build, name), *words]

    def tool(self, name, *words, on="1-1023"):
        done = subprocess.run(self.words(name, words, on), capture_output=True, text=True, check=False, timeout=120)
        if done.returncode != 0:
            raise RuntimeError(f"{name}: {done.stderr.strip()}")
        return done.stdout

    def start(self, name, *words):
        process = subprocess.Popen(self.words(name, words, "1-1023"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.started.append(process)
        return process

    def status(self):
        return json.loads(self.tool("daxfsctl", "status", self.mount, "--json"))

    @staticmethod
    def until(true, what):
        deadline = time.monotonic() + 120
        while not true():
            if time.monotonic() > deadline:
                raise TimeoutError(what)
            time.sleep(0.1)

    def fio(self, seconds):
        return subprocess.Popen(
            ["taskset", "--cpu-list", "0", "fio", "--name=read", f"--filename={self.mount}/read", "--size=64M", "--rw=randread",
             "--bs=4k", "--direct=1", "--ioengine=psync", "--time_based", f"--runtime={seconds}", "--output-format=json"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def latency(self):
        """Of 4 KiB reads, ns: the mean of three seconds."""
        said, _ = self.fio(3).communicate(timeout=60)
        return json.loads(said)["jobs"][0]["read"]["clat_ns"]["mean"]

    def close(self):
        for process in self.started:
            process.kill()
            process.wait()
        subprocess.run(["umount", "--lazy", self.mount], check=False)
        shutil.rmtree(self.directory, ignore_errors=True)


def how_soon(place, browser, rounds):
    """Seconds from a switch of the policy elsewhere, and from a refused punch, until the page shows them; fio runs meanwhile."""
    fio = place.fio(1000)
    soon = []
    try:
        for turn in range(rounds):
            word = ("defer", "refuse")[turn % 2]
            place.tool("daxfsctl", "policy", place.mount, "set", word)
            begin = time.monotonic()
            browser.wait(f"document.querySelector('#force').innerText === '{word}'", seconds=30)
            soon.append(time.monotonic() - begin)
    finally:
        fio.kill()
        fio.wait()
    return soon


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("build", metavar="BUILD")
    parser.add_argument("--pins", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=20)
    words = parser.parse_args()
    if reason := missing():
        print(f"SKIPPED: no {reason}")
        return SKIPPED
    os.sched_setaffinity(0, set(range(1, os.cpu_count())))  # Chromium's, too
    place = Place(words.build, words.pins)
    try:
        browser = Browser()
        try:
            server = place.start("daxfsctl", "serve", place.mount, "--no-token")
            address = next(word for word in server.stdout.readline().split() if word.startswith("http"))
            without, beside = [], []
            place.latency()  # lays the file out
            for _ in range(5):
                browser.open("about:blank")
                without.append(place.latency())
                browser.open(address)
                browser.wait("document.querySelector('#link').dataset.state === 'live'")
                beside.append(place.latency())
            soon = how_soon(place, browser, words.rounds)
            errors = browser.errors
        finally:
            browser.close()
    finally:
        place.close()
    print(f"shown after: median {statistics.median(soon):.2f} s, at most {max(soon):.2f} s, of {len(soon)} changes, {words.pins} pins")
    for name, values in (("without the page", without), ("beside it", beside)):
        print(f"4 KiB read, {name}: median {statistics.median(values) / 1000:.2f} us ({min(values) / 1000:.2f} to {max(values) / 1000:.2f})")
    print(f"ratio of the medians: {statistics.median(beside) / statistics.median(without):.3f}")
    if errors:
        print(f"errors in the console: {errors}")
    return 0 if max(soon) < IN_TIME and not errors else 1


if __name__ == "__main__":
    sys.exit(main())
