"""A mount to look at in a browser: holders, somebody who punches, somebody who takes what becomes free. The visitor presses the
policies."""

import os
import random
import time

import actors
from holder import Holder
from system import MIB, Mount, Unable, cleaning_up, interruptions, read_line, say, spawn, stop

POOL = 192 * MIB
HELD = 32 * MIB
PUNCHED = 2 * MIB
ROUND_SECONDS = 8  # how long a holder keeps its pins before it takes them anew
PAUSE_SECONDS = 1.5
FOREVER = 1_000_000
START_SECONDS = 10

EXPLANATION = """\
Open it, and press refuse, defer, wait, break: the same two holders and the same puncher, and each time another answer.
  buffer is held with a lease: under break its holder is told, and gives way
  cache is held without one: under break the punch waits for its pins
A holder keeps its pins for 8 s and takes them anew. Ctrl-C ends it, and leaves nothing."""


def tell(options, work, record):
    """Goes on until it is interrupted, or for as many seconds as the options say."""
    with cleaning_up() as cleanup:
        mount = Mount(options.build, options.pool, options.mountpoint, os.path.join(work, "daxfs.log"), record)
        cleanup.callback(mount.stop)
        mount.start(POOL, "pin_policy=refuse,wait_timeout=30s")
        with mount.expected_to_live():
            play(mount, options, work, cleanup)


def play(mount, options, work, cleanup):
    server = serve(mount, options, work, cleanup)
    for name, lease in (("buffer", ["--lease"]), ("cache", [])):
        words = ["--allocate", "--length", str(HELD // 4), "--count", "4", "--interval-ms", "20", *lease]
        words += ["--seconds", str(FOREVER), "--rounds", str(FOREVER // ROUND_SECONDS)]
        holder = Holder(os.path.join(mount.binaries, "daxfs-hold"), mount.path(name), os.path.join(work, f"{name}.log"), *words)
        cleanup.callback(holder.stop)
        holder.start()
        holder.must_hold()
    taker = actors.Taker(os.path.join(work, "taker.log"))
    cleanup.callback(taker.stop)
    taker.start()
    end = time.monotonic() + options.seconds if options.seconds else None
    answer = True
    while server.poll() is None and mount.alive() and (end is None or time.monotonic() < end):
        if answer:
            offset = random.randrange(HELD // PUNCHED) * PUNCHED
            taker.ask("punch", mount.path(random.choice(("buffer", "cache"))), offset, PUNCHED)
        answer = taker.answer_within(PAUSE_SECONDS)
        if answer:
            time.sleep(PAUSE_SECONDS)
    if server.poll() is not None:
        raise Unable(f"daxfsctl serve has ended with status {server.returncode}")


def serve(mount, options, work, cleanup):
    log = os.path.join(work, "serve.log")
    command = [os.path.join(mount.binaries, "daxfsctl"), "serve", "--listen", options.listen or "127.0.0.1:0", mount.mountpoint]
    with open(log, "w", encoding="utf-8") as errors, interruptions.later():
        server = spawn(command, stdout=-1, stderr=errors, text=True)
    cleanup.callback(server.stdout.close)
    cleanup.callback(stop, server, (15, 10), (9, 10))
    address = read_line(server.stdout, START_SECONDS)
    if not address:
        with open(log, encoding="utf-8", errors="replace") as errors:
            raise Unable(f"daxfsctl serve does not start: {errors.read().strip()[-300:]}")
    say(f"\n  {address.strip()}\n\n{EXPLANATION}")
    return server
