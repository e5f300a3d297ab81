"""Programs that copy from and into files by themselves, while others truncate, punch and replace the files."""

import os
import subprocess

from harness import Failure, check, wait_until

POOL_MIB = 16
POLICIES = "refuse", "defer", "wait", "break"
SECONDS, QUICK_SECONDS = 150, 10


def program_of(place):
    program = os.path.join(place.build, "tests", "direct_soak")
    check(os.path.exists(program), f"{program}: not built; ninja direct_soak")
    return program


def storm(place, policy, seconds):
    place.mount(f"direct,pin_policy={policy},short_timeout=50")
    empty = place.free()
    words = [program_of(place), place.mountpoint, str(seconds), "2", "2", "stop", "kill"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=seconds * 10 + 300, check=False)
    check(done.returncode == 0, f"direct_soak ended with {done.returncode}: {done.stderr.strip()[-300:]}")

    def is_quiet():
        status = place.ask("status")
        return status["limbo"] == status["waiting"] == status["attached"] == 0

    wait_until(is_quiet, 60, lambda: f"nobody attached, nothing in limbo: {place.ask('status')}")
    place.check_free(empty)
    place.unmount()
    return done.stdout.strip()


def ignored(place, seconds):
    """With pin_policy=ignore the same must find foreign bytes, or the other rounds have proved nothing."""
    place.mount("direct,pin_policy=ignore,unsafe_demo,short_timeout=1")
    words = [program_of(place), place.mountpoint, str(seconds), "1", "3", "stop"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=seconds * 10 + 300, check=False)
    place.unmount()
    if done.returncode != 1:
        raise Failure(f"nothing foreign was seen: {done.stdout.strip()} {done.stderr.strip()[-300:]}")


def run(place):
    seconds = QUICK_SECONDS if place.quick else SECONDS
    for policy in POLICIES:
        place.format(POOL_MIB)
        said = None
        with place.report.step(f"direct: {policy}, {seconds} s"):
            try:
                said = storm(place, policy, seconds)
            except BaseException:
                place.abandon()
                raise
        if said:
            print("      " + said, flush=True)
    place.format(POOL_MIB)
    with place.report.step("direct: ignore, and the damage is seen"):
        ignored(place, seconds)
