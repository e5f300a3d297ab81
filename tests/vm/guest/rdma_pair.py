"""rdma_pair.py BUILD: the example client/examples/rdma.c: a server of a file's blocks, clients that write and read them by
RDMA, and punches beside.

Both are in this guest; the device is soft-RoCE."""

import contextlib
import errno
import os
import subprocess
import sys

from rdma import SOURCE, make_device, punch_file

sys.path.insert(0, str(SOURCE / "tests/soak"))

from harness import MIB, Failure, Place, check  # noqa: E402  (found by the line above)

POOL_MIB = 128
HELD = 2 * MIB
ADDRESS, PORT = "192.0.2.1", "18515"
SECONDS = 300


class Server:
    """The example's server, which holds `target`."""

    def __init__(self, place):
        self.place = place
        self.processes = []
        self.target = place.inside("target")
        self.process = self.start("serve", self.target, str(HELD), PORT)
        self.says(f"serving {HELD} bytes")

    def start(self, *words):
        command = [self.place.program("tests/example_rdma"), *words]
        self.processes.append(self.place.processes.start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return self.processes[-1]

    def says(self, wanted):
        said = self.process.stdout.readline().strip()
        check(said == wanted, f"the server says '{said}', not '{wanted}'")

    def client(self, *words, data=None):
        done = subprocess.run(
            [self.place.program("tests/example_rdma"), *words], input=data, capture_output=True, check=False, timeout=SECONDS
        )
        check(done.returncode == 0, f"rdma {' '.join(words)}: {done.stderr.decode().strip()}")
        return done.stdout

    def write(self, offset, data):
        self.client("write", ADDRESS, PORT, str(offset), data=data)

    def read(self, offset, length):
        return self.client("read", ADDRESS, PORT, str(offset), str(length))

    def close(self):
        """Whatever has happened: it would keep the mount busy."""
        for process in self.processes:
            self.place.processes.end(process)
            process.stdout.close()
            process.stdin.close()


def content(path, offset, length):
    """As programs read it, from the medium."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, length, offset)
    finally:
        os.close(fd)


def named(error):
    return errno.errorcode.get(error, str(error))


def refuse(place):
    with contextlib.closing(Server(place)) as server:
        refuse_with(place, server)


def refuse_with(place, server):
    data = os.urandom(300_000)
    server.write(12345, data)
    check(server.read(12345, len(data)) == data, "a client reads something else than a client has written")
    check(content(server.target, 12345, len(data)) == data, "the file has something else than a client has written")
    os.truncate(server.target, HELD + MIB)
    for what, offset, wanted in (("a punch into it", MIB, errno.ETXTBSY), ("a punch beside it", HELD, 0)):
        got = punch_file(server.target, offset, MIB)
        check(got == wanted, f"{what}: {named(got)}, not {named(wanted)}")
    check(server.read(12345, len(data)) == data, "the punches have changed what is held")


def give_way(place):
    """While a client streams to and fro."""
    with contextlib.closing(Server(place)) as server:
        give_way_with(server)


def give_way_with(server):
    stream = server.start("stream", ADDRESS, PORT)
    said = stream.stdout.readline().strip()
    check(said == "streaming", f"the client says '{said}'")
    server.write(MIB, b"before")
    for number in range(3):
        got = punch_file(server.target, 0, HELD)
        check(got == 0, f"punch {number}: {named(got)}")
        server.says(f"gave way, and holds {HELD} bytes again")
        check(server.read(MIB, 6) == bytes(6), "what was punched is still there")
        server.write(MIB, b"before")
    stream.stdin.close()
    said = stream.stdout.read().strip()
    check(stream.wait(SECONDS) == 0 and "all intact" in said, f"the client that streams says '{said}'")
    check(not said.endswith(" 0 times"), f"it has never lost its key: {said}")
    print(f"it says: {said}", flush=True)


STEPS = (
    (refuse, "pin_policy=refuse", "what a client has written is in the file; a punch of it is refused, one beside is not"),
    (give_way, "pin_policy=break", "the server gives way to punches under a client's stream, which takes the new key"),
)


def main():
    place = Place(sys.argv[1], pool=os.environ["POOL"])
    if not os.path.exists(place.program("tests/example_rdma")):
        print("skip  rdma pair: built without libibverbs (package libibverbs-dev)", flush=True)
        return 0
    try:
        make_device()
        for act, options, text in STEPS:
            # What the server holds at its end is given back with it: no card works on for a process that is killed here.
            with place.report.step(f"rdma pair: {text}"), place.mounting(POOL_MIB, options + ",exit_grace=0"):
                act(place)
    except (Failure, subprocess.SubprocessError) as error:
        print(f"FAIL  rdma pair: {error}", flush=True)
        return 1
    finally:
        place.close()
    return 1 if place.report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
