"""filler.py DIRECTORY SEED [FILES]: fills the free space with files, or has so many at most, checks that they stay what
they were, and removes them again, until SIGTERM. So whatever block becomes free is somebody else's a moment later. Exit
status 3: other bytes."""

import errno
import os
import random
import signal
import sys

BLOCK = 4096
MOST_FILES = 200


class Filler:
    def __init__(self, directory, seed, most=MOST_FILES):
        self.directory = directory
        self.most = int(most)
        self.dice = random.Random(seed)
        self.files = {}
        self.count = 0
        self.stopping = False

    def stop(self, *_):
        self.stopping = True

    def content(self, name, size):
        """Every 64 bytes say whose they are."""
        line = f"filler {self.directory[-20:]} {name} ".ljust(63, ".").encode() + b"\n"
        return (line * (size // 64 + 1))[:size]

    def create(self):
        self.count += 1
        name = f"f{self.count}"
        size = self.dice.choice([BLOCK, 3 * BLOCK, 100_000, 700_000])
        with open(os.path.join(self.directory, name), "wb") as file:
            self.files[name] = size
            file.write(self.content(name, size))

    def remove(self, some):
        for name in self.dice.sample(sorted(self.files), min(some, len(self.files))):
            os.unlink(os.path.join(self.directory, name))
            del self.files[name]

    def verify(self, name):
        with open(os.path.join(self.directory, name), "rb", buffering=0) as file:
            data = file.readall()
        wanted = self.content(name, self.files[name])
        if data == wanted:
            return
        at = next((i for i, (a, b) in enumerate(zip(data, wanted)) if a != b), min(len(data), len(wanted)))
        print(f"{name}: {len(data)} bytes of {len(wanted)}; at {at}: {data[at:at + 48]!r}", file=sys.stderr)
        sys.exit(3)

    def step(self):
        try:
            self.create()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            # The file may be there in part.
            name = f"f{self.count}"
            if self.files.pop(name, None) is not None:
                os.unlink(os.path.join(self.directory, name))
            self.remove(len(self.files) // 3 + 1)
        if self.files:
            self.verify(self.dice.choice(sorted(self.files)))
        if len(self.files) > self.most or self.dice.random() < 0.3:
            self.remove(2)

    def run(self):
        signal.signal(signal.SIGTERM, self.stop)
        while not self.stopping:
            self.step()
        for name in list(self.files):
            self.verify(name)
        self.remove(len(self.files))


def main():
    Filler(sys.argv[1], int(sys.argv[2]), *sys.argv[3:]).run()


if __name__ == "__main__":
    main()
