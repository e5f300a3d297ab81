"""ack_writer.py data|names DIRECTORY LOG SEED: changes a directory, at random, until the filesystem is gone.

Before each change a line with it goes to LOG, which lies elsewhere, and once it is acknowledged an "A". So after
a crash it is known what must be there; the last change, if its "A" is missing, may be there or not."""

import errno
import json
import random
import sys

from ack_ops import Model, perform
from harness import BLOCK

GONE = {errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, errno.ESHUTDOWN, errno.EINTR, errno.ENODEV}
MOST_BYTES = {"data": 4 << 20, "names": 64 << 10}
MOST_NAMES = 120


def change_of_data(model, path, most, dice):
    size = len(model[path].data)
    kind = dice.choices(["write", "punch", "truncate"], [85, 10, 5])[0]
    if kind == "truncate":
        return ["truncate", path, dice.choice([0, dice.randrange(most), size // 2, size - size % BLOCK])]
    offset, length = dice.randrange(most), dice.choice([1, 100, BLOCK, 3 * BLOCK, 65536, 300000])
    if dice.random() < 0.5 or most < length:
        offset, length = offset - offset % BLOCK, BLOCK * dice.randrange(1, 17)
    length = min(length, most - offset)
    if kind == "punch":
        return ["punch", path, offset, length]
    how = dice.choice(["fsync", "sync", "dsync", "direct", "mmap"])
    if how == "mmap" and offset + length > size:
        how = "fsync"
    if how == "direct" and (offset % BLOCK or length % BLOCK):
        how = "sync"
    return ["write", path, offset, length, dice.randrange(1 << 60), how]


def change_of_names(model, dice):
    def any_of(*kinds):
        found = [path for path, node in model.items() if node.kind in kinds]
        return dice.choice(found) if found else None

    def new_name():
        where = any_of("directory") if dice.random() < 0.6 else None
        name = f"{dice.randrange(1 << 30):x}" + "n" * dice.choice([0, 0, 0, 30, 200])
        return f"{where}/{name}" if where and where.count("/") < 4 else name

    if len(model) < 5 or (len(model) < MOST_NAMES and dice.random() < 0.3):
        kind = dice.choices(["create", "mkdir", "symlink"], [70, 20, 10])[0]
        more = {"create": [dice.choice([0o644, 0o600, 0o755])], "mkdir": [], "symlink": ["t" * dice.choice([3, 900])]}
        return [kind, new_name(), *more[kind]]
    path = any_of("file", "directory", "symlink")
    node = model[path]
    is_leaf = not any(name.startswith(path + "/") for name in model)
    kind = dice.choice(
        ["rename", "rename", "over", "exchange", "remove", "remove", "link", "chmod", "setxattr", "data"]
    )
    if kind == "remove" and is_leaf:
        return ["rmdir" if node.kind == "directory" else "unlink", path]
    if kind == "rename":
        to = new_name()
        return ["rename", path, to] if not to.startswith(path + "/") else None
    if kind in ("over", "exchange") and node.kind != "directory":
        other = any_of("file", "symlink")
        if other == path:
            return None
        return ["rename" if kind == "over" else "exchange", path, other]
    if kind == "link" and node.kind == "file":
        return ["link", path, new_name()]
    if kind == "chmod" and node.kind != "symlink":
        return ["chmod", path, dice.choice([0o600, 0o640, 0o755, 0o700])]
    if kind == "setxattr" and node.kind != "symlink":
        return ["setxattr", path, f"user.{dice.randrange(3)}", dice.randrange(1 << 60), dice.choice([0, 5, 800])]
    if kind == "data" and node.kind == "file":
        return change_of_data(model, path, MOST_BYTES["names"], dice)
    return None


def main():
    profile, directory, log_path, seed = sys.argv[1:5]
    dice = random.Random(int(seed))
    model = Model()
    begun = [["create", f"file{i}", 0o644] for i in range(3)] if profile == "data" else []
    with open(log_path, "ab", buffering=0) as log:
        while True:
            if begun:
                change = begun.pop()
            elif profile == "data":
                change = change_of_data(model, dice.choice(list(model)), MOST_BYTES["data"], dice)
            else:
                change = change_of_names(model, dice)
            if change is None:
                continue
            log.write(json.dumps(change).encode() + b"\n")
            try:
                perform(directory, change)
            except OSError as error:
                if error.errno in GONE:
                    return 0
                print(f"ack_writer: {change}: {error}", file=sys.stderr)
                return 1
            log.write(b"A\n")
            model.apply(change)


if __name__ == "__main__":
    sys.exit(main())
