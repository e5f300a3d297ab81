"""rdma.py BUILD registered|refused: a device that writes to pinned memory by itself, and punches beside it.

The device is soft-RoCE: rdma_rxe over a network device that leads nowhere."""

import os
import pathlib
import subprocess
import sys

SOURCE = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(SOURCE / "tests/soak"))

import errno  # noqa: E402

from ack_ops import punch  # noqa: E402  (found by the line above)
from harness import BLOCK, MIB, Failure, Place, check  # noqa: E402

POOL_MIB = 128
HELD = 2 * MIB
REFUSED = 3


class Device:
    """rdma-loopback, which holds `path` and writes to it."""

    def __init__(self, place, path):
        command = [place.program("tests/vm/rdma-loopback"), path, str(HELD)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = place.processes.start(command, **pipes)
        self.place = place
        self.greeting = self.process.stdout.readline().strip()

    def tell(self, word, seed):
        self.process.stdin.write(f"{word} {seed}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        check(answer == "ok", f"{word} {seed}: {answer or 'rdma-loopback is gone'}")

    def end(self):
        self.process.stdin.close()
        status = self.process.wait(60)
        self.place.processes.end(self.process)
        return status


def make_device():
    if os.path.exists("/sys/class/infiniband/rxe0"):
        return
    for command in (
        "ip link add roce0 type dummy",
        "ip address add 192.0.2.1/24 dev roce0",
        "ip link set roce0 up",
        "rdma link add rxe0 type rxe netdev roce0",
    ):
        subprocess.run(command.split(), check=True)


def punch_file(path, offset, length):
    """An errno."""
    fd = os.open(path, os.O_RDWR)
    try:
        punch(fd, offset, length)
    except OSError as error:
        return error.errno
    finally:
        os.close(fd)
    return 0


def filler_bytes(number):
    return bytes([1 + number % 255]) * MIB


def fill(place):
    """Files of a mebibyte until no block is free. Their number."""
    number = 0
    while True:
        try:
            with open(place.inside(f"filler{number}"), "wb", buffering=0) as file:
                done = 0
                while done < MIB:
                    done += file.write(filler_bytes(number)[done:])
        except OSError as error:
            check(error.errno == errno.ENOSPC, f"a write failed: {error}")
            os.unlink(place.inside(f"filler{number}"))
            return number
        number += 1


def damaged(place, count):
    """How many of the fillers are not what they were. On the medium: the page cache knows what they should be."""
    os.sync()
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("1")
    found = 0
    for number in range(count):
        with open(place.inside(f"filler{number}"), "rb") as file:
            found += file.read() != filler_bytes(number)
    return found


def check_registration(place):
    device = Device(place, place.inside("target"))
    check(device.greeting == "ok", device.greeting)
    device.tell("write", 1)
    device.tell("check", 1)
    return device


def refuse(place):
    device = check_registration(place)
    target = place.inside("target")
    os.truncate(target, HELD + MIB)
    with open(target, "r+b") as file:
        file.seek(HELD)
        file.write(bytes(MIB))
    before = place.free()
    for what, got, wanted in (
        ("a punch into it", punch_file(target, HELD // 2, MIB), errno.ETXTBSY),
        ("a punch beside it", punch_file(target, HELD, MIB), 0),
    ):
        check(got == wanted, f"{what}: {errno.errorcode.get(got, got)}, not {errno.errorcode.get(wanted, wanted)}")
    check(place.free() == before + MIB // BLOCK, "the punch beside it freed something else than a mebibyte")
    fillers = fill(place)
    device.tell("check", 1)
    device.tell("write", 2)
    device.tell("check", 2)
    check(damaged(place, fillers) == 0, "the device has written into other files")
    check(device.end() == 0, "rdma-loopback failed")


def take_away_and_reuse(place):
    """Punches all that the device writes to, fills the pool, lets it write. The device, and the number of fillers."""
    device = check_registration(place)
    got = punch_file(place.inside("target"), 0, HELD)
    check(got == 0, f"the punch: {errno.errorcode.get(got, got)}")
    fillers = fill(place)
    device.tell("write", 3)
    return device, fillers


def defer(place):
    device, fillers = take_away_and_reuse(place)
    limbo = place.ask("status")["limbo"]
    check(limbo == HELD, f"{limbo} bytes are in limbo, not {HELD}")
    device.tell("check", 3)
    check(damaged(place, fillers) == 0, "the device has written into other files")
    free = place.free()
    check(device.end() == 0, "rdma-loopback failed")
    place.check_free(free + HELD // BLOCK)


def ignore(place):
    """That the other two can fail."""
    device, fillers = take_away_and_reuse(place)
    found = damaged(place, fillers)
    check(found >= HELD // MIB, f"the device has damaged {found} files, and {HELD // MIB} were in its way")
    device.end()


def refused(place):
    device = Device(place, place.inside("target"))
    status = device.end()
    check(status == REFUSED, f"rdma-loopback ended with {status}: {device.greeting}")
    check("device DAX" in device.greeting, f"it does not say what to do: {device.greeting}")
    print(f"it says: {device.greeting}", flush=True)


def main():
    build, expected = sys.argv[1:3]
    place = Place(build, pool=os.environ["POOL"])
    if not os.path.exists(place.program("tests/vm/rdma-loopback")):
        print("skip  rdma: built without libibverbs (package libibverbs-dev)", flush=True)
        return 0
    steps = {
        "registered": (
            (refuse, "pin_policy=refuse", "a punch of registered memory is refused, one beside it is not"),
            (defer, "pin_policy=defer", "punched registered memory is nobody else's until the device is done"),
            (ignore, "pin_policy=ignore,unsafe_demo", "without a gate the device writes into other files"),
        ),
        "refused": ((refused, "", "the kernel refuses to register memory of an fsdax file, and we say so"),),
    }
    try:
        make_device()
        for act, options, text in steps[expected]:
            with place.report.step(f"rdma: {text}"), place.mounting(POOL_MIB, options):
                act(place)
    except (Failure, subprocess.SubprocessError) as error:
        print(f"FAIL  rdma: {error}", flush=True)
        return 1
    finally:
        place.close()
    return 1 if place.report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
