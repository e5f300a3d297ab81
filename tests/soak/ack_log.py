"""What an ack_writer has logged: the changes that must be there, and the one that may be."""

import copy
import json

import ack_ops
from harness import Failure, check


class AckLog:
    """The log at `path` is about `directory`."""

    def __init__(self, name, directory, path):
        self.name, self.directory, self.log = name, directory, path

    def acknowledged(self):
        try:
            with open(self.log, "rb") as log:
                return log.read().count(b"\nA\n")
        except FileNotFoundError:
            return 0

    def verify(self):
        with open(self.log, encoding="ascii") as log:
            # A line that was cut short had not begun.
            lines = [line for line in log.read().splitlines(keepends=True) if line.endswith("\n")]
        before = ack_ops.Model()
        in_doubt = None
        for line in lines:
            if line == "A\n":
                before.apply(in_doubt)
                in_doubt = None
            else:
                in_doubt = json.loads(line)
        reason = whole_difference(before, self.directory)
        if not reason or in_doubt is None:
            check(not reason, f"{self.name}: {reason}; all was acknowledged")
            return
        after = copy.deepcopy(before)
        after.apply(in_doubt)
        torn = in_doubt if ack_ops.is_torn(in_doubt) else None
        other = whole_difference(after, self.directory, before, torn)
        if other:
            raise Failure(f"{self.name}: neither before nor after {in_doubt}: {reason}; {other}")


def whole_difference(model, directory, before=None, torn=None):
    """The first difference between model and directory, or ''. Of the change `torn` there may be a part."""
    found = ack_ops.found_in(directory)
    if set(found) != set(model):
        return f"names differ: {sorted(set(found) ^ set(model))[:4]}"
    node = model[torn[1]] if torn else None
    for path in model:
        extra = (before[torn[1]].data, torn[2], torn[2] + torn[3]) if model[path] is node and torn else None
        reason = ack_ops.difference(model, directory, path, extra)
        if reason:
            return reason
    return ""
