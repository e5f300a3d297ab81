"""Redis with appendfsync always: redis, or the daemon below it, is killed under SETs; each SET that a client was told of is
there."""

import os
import random
import re
import signal
import socket
import subprocess
import threading

from engines import CACHES, figures, kill_after, lacking, rounds_of, status_of
from harness import Skip, check, wait_until

POOL_MIB = 256
ROUNDS, QUICK_ROUNDS = 30, 3  # in each mode of the cache
CLIENTS, KEYS = 4, 500
FIGURES_MIB = 256


class Server:
    def __init__(self, place, directory, *settings):
        self.place = place
        self.socket, self.log = place.path("redis.sock"), place.path("redis.log")
        words = ["--port", "0", "--unixsocket", self.socket, "--dir", directory, "--save", "", "--appendonly", "yes"]
        words += ["--appendfsync", "always", "--daemonize", "no", *settings]
        with open(self.log, "ab") as log:
            self.child = place.processes.start(["redis-server", *words], stdout=log, stderr=log)
        wait_until(
            lambda: self.child.poll() is not None or self.answers(), 120, lambda: f"redis' start: {self.last_words()}"
        )
        check(self.child.poll() is None, f"redis does not start: {self.last_words()}")

    def answers(self):
        try:
            with Client(self.socket) as client:
                return client.ask("PING") == b"PONG"
        except OSError:
            return False

    def last_words(self):
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return " | ".join(log.read().strip().splitlines()[-3:])

    def end(self):
        self.place.processes.end(self.child)


class Client:
    """One request and its answer, of the kinds that are needed here."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        try:
            self.socket.settimeout(60)
            self.socket.connect(path)
        except OSError:
            self.socket.close()
            raise
        self.file = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.socket.close()

    def ask(self, *words):
        words = [word.encode() for word in words]
        self.socket.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError("redis is gone")
        kind, rest = line[:1], line[1:-2]
        if kind == b"$":
            length = int(rest)
            return None if length < 0 else self.file.read(length + 2)[:-2]
        if kind == b"-":
            raise OSError(rest.decode())
        return rest


def value_of(client, n):
    return f"{client}:{n}:" + "x" * (n * 37 % 400)


class Writer(threading.Thread):
    """Sets its keys in turn. `told` counts the SETs that redis has answered, over all rounds."""

    def __init__(self, path, number, told):
        super().__init__(daemon=True)
        self.path, self.number, self.told = path, number, told

    def run(self):
        try:
            with Client(self.path) as client:
                while True:
                    if client.ask("SET", f"{self.number}/{self.told % KEYS}", value_of(self.number, self.told)) == b"OK":
                        self.told += 1
        except OSError:
            pass


def verify(server, told):
    """Each client's keys; the SET that was under way may be there, and is counted then."""
    with Client(server.socket) as client:
        for number, count in enumerate(told):
            more = False
            for key in range(min(KEYS, count + 1)):
                last = (count - 1 - key) // KEYS * KEYS + key if count > key else None
                expected = None if last is None else value_of(number, last).encode()
                found = client.ask("GET", f"{number}/{key}")
                if found != expected and key == count % KEYS and found == value_of(number, count).encode():
                    more = True
                else:
                    check(found == expected, f"key {number}/{key}: SET {last} of {count} is not there, but {found}")
            told[number] += more


def kill_round(place, told, dice, options):
    directory = place.inside("redis")
    os.makedirs(directory, exist_ok=True)
    # A log that is rewritten often, so that files are made, renamed and removed under load.
    server = Server(place, directory, "--auto-aof-rewrite-min-size", "256kb", "--auto-aof-rewrite-percentage", "20")
    writers = [Writer(server.socket, number, count) for number, count in enumerate(told)]
    for writer in writers:
        writer.start()
    of_daemon = dice.random() < 0.6
    if of_daemon:
        kill_after(place, dice.uniform(0.3, 2))
        status = status_of(server.child, 120, "redis")
        check(status != 0, "redis heard of nothing")
    else:
        threading.Event().wait(dice.uniform(0.3, 2))
        server.child.send_signal(signal.SIGKILL)
    for writer in writers:
        writer.join(60)
        check(not writer.is_alive(), "a client still waits for redis, which is dead")
    told[:] = [writer.told for writer in writers]
    server.end()
    if of_daemon:
        place.bury_daemon()
        place.mount(options)
    server = Server(place, directory)
    verify(server, told)
    server.end()


def soak(place, cache, dice, seed):
    options = f"cache={cache}"
    rounds = rounds_of(place, ROUNDS, QUICK_ROUNDS)
    told = [0] * CLIENTS
    with place.mounting(POOL_MIB, options):
        empty = place.free()
        for number in range(rounds):
            with place.report.step(f"redis: {cache}: kill -9 under SETs, {number + 1} of {rounds} (seed {seed})"):
                kill_round(place, told, dice, options)
            if place.report.failed:
                raise Skip("the rounds after a failure")
        with place.report.step(f"redis: {cache}: {sum(told)} SETs were there; fsck; all space is free again"):
            check(sum(told) > 50 * rounds, "hardly anything was set")
            place.unmount()
            place.run([place.program("fsck.daxfs"), "-n", place.pool])
            place.mount(options)
            place.empty()
            place.check_free(empty)


def measure(place, count):
    def once(directory):
        server = Server(place, directory)
        words = ["redis-benchmark", "-s", server.socket, "-t", "set", "-n", str(count), "-r", "100000", "-d", "100"]
        said = ""
        for clients in "1", "8":
            said += place.run([*words, "-c", clients, "-q"], stderr=subprocess.STDOUT).replace("\r", "\n")
        server.end()
        found = re.findall(r"([\d.]+) requests per second", said)
        return {f"SETs of {clients} clients": float(value) for clients, value in zip((1, 8), found)}

    return once


def run(place):
    if missing := lacking("redis-server", "redis-benchmark"):
        raise Skip(f"{missing}: not installed (redis-server, redis-tools)")
    seed = random.SystemRandom().randrange(1 << 30)
    dice = random.Random(seed)
    for cache in CACHES:
        soak(place, cache, dice, seed)
    with place.report.step("redis: figures"):
        figures(place, measure(place, 2000 if place.quick else 8000), FIGURES_MIB, 1 if place.quick else 3)
