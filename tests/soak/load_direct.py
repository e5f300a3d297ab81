"""Programs that copy from and into files by themselves, while others truncate, punch and replace the files."""

import os
import random
import subprocess
import time

from harness import Failure, check, wait_until

POOL_MIB = 16
POLICIES = "refuse", "defer", "wait", "break"
SECONDS, QUICK_SECONDS = 150, 10


def program_of(place):
    program = os.path.join(place.build, "tests", "direct_soak")
    check(os.path.exists(program), f"{program}: not built; ninja direct_soak")
    return program


def settles(place, empty):
    def is_quiet():
        status = place.ask("status")
        return status["limbo"] == status["waiting"] == status["attached"] == 0

    wait_until(is_quiet, 60, lambda: f"nobody attached, nothing in limbo: {place.ask('status')}")
    place.check_free(empty)


def storm(place, policy, seconds):
    # Who waits for a client that is stopped does so in the process that would let it go on.
    place.mount(f"direct,pin_policy={policy},short_timeout=50ms,wait_timeout=200ms,break_timeout=200ms")
    empty = place.free()
    words = [program_of(place), place.mountpoint, str(seconds), "2", "2", "stop", "kill"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=seconds * 10 + 300, check=False)
    check(done.returncode == 0, f"direct_soak ended with {done.returncode}: {done.stderr.strip()[-300:]}")

    settles(place, empty)
    place.unmount()
    return done.stdout.strip()


def deaths(place, policy, seconds, dice):
    """The daemon is killed and mounted again, while clients copy, are stopped in the middle, and go on."""
    options = f"direct,pin_policy={policy},short_timeout=50ms,wait_timeout=200ms,break_timeout=200ms,exit_grace=1s"
    place.mount(options)
    # Between two mounts it is not there: else clients would make files below the mount point.
    files = place.inside("files")
    os.mkdir(files)
    with open(os.path.join(files, "first"), "w", encoding="ascii"):
        pass  # directories keep the blocks that they once had
    os.unlink(os.path.join(files, "first"))
    empty = place.free()
    words = [program_of(place), files, str(seconds), "2", "2", "stop", "kill", "deaths"]
    child = place.processes.start(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    killed = 0
    while child.poll() is None:
        time.sleep(dice.uniform(0.1, 1.5))
        place.kill_daemon()
        place.daemon.wait(60)
        subprocess.run(["umount", "-l", place.mountpoint], check=True)
        place.mount(options)
        killed += 1
    said, wrong = child.communicate()
    check(child.returncode == 0, f"direct_soak ended with {child.returncode}: {wrong.strip()[-300:]}")
    for name in os.listdir(files):
        os.unlink(os.path.join(files, name))
    settles(place, empty)
    place.unmount()
    return f"{said.strip()}; {killed} daemons killed"


def ignored(place, seconds):
    """With pin_policy=ignore the same must find foreign bytes, or the other rounds have proved nothing."""
    place.mount("direct,pin_policy=ignore,unsafe_demo,short_timeout=1ms")
    words = [program_of(place), place.mountpoint, str(seconds), "1", "3", "stop"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=seconds * 10 + 300, check=False)
    place.unmount()
    if done.returncode != 1:
        raise Failure(f"nothing foreign was seen: {done.stdout.strip()} {done.stderr.strip()[-300:]}")


def run(place):
    seconds = QUICK_SECONDS if place.quick else SECONDS
    dice = random.Random(7)
    steps = [(policy, "beside detaches", storm, ()) for policy in POLICIES]
    steps += [(policy, "the daemon is killed, too", deaths, (dice,)) for policy in ("refuse", "defer")]
    for policy, name, act, more in steps:
        place.format(POOL_MIB)
        said = None
        with place.report.step(f"direct: {policy}, {name}, {seconds} s"):
            try:
                said = act(place, policy, seconds, *more)
            except BaseException:
                place.abandon()
                raise
        if said:
            print("      " + said, flush=True)
    place.format(POOL_MIB)
    with place.report.step("direct: ignore, and the damage is seen"):
        ignored(place, seconds)
