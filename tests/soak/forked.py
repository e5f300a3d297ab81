"""A part of a load as a child of this very process: a round of a second has no time to start interpreters."""

import multiprocessing
import os
import sys

from harness import Failure, die_with_parent

FORK = multiprocessing.get_context("fork")


class Forked:
    """Runs `main()` of a module with these arguments. What it says goes to the file `log`."""

    def __init__(self, main, arguments, log):
        self.log = log
        ours, self.lifeline = os.pipe()  # its standard input, which does not end before we do
        self.process = FORK.Process(target=self.run, args=(main, arguments, ours), daemon=True)
        self.process.start()
        os.close(ours)

    def run(self, main, arguments, stdin):
        die_with_parent()
        os.setsid()
        os.close(self.lifeline)
        fd = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for target in (1, 2):
            os.dup2(fd, target)
        sys.stdin = os.fdopen(stdin)
        sys.argv = [main.__module__, *map(str, arguments)]
        sys.exit(main())

    def end(self):
        os.close(self.lifeline)
        self.process.kill()
        self.process.join(30)
        self.process.close()

    def wait(self, seconds):
        """Its exit status, after which it is gone; and what it said."""
        self.process.join(seconds)
        status = self.process.exitcode
        self.end()
        with open(self.log, encoding="utf-8", errors="replace") as log:
            said = log.read().strip()
        if status is None:
            raise Failure(f"{os.path.basename(self.log)}: still running after {seconds} s: {said[-300:]}")
        return status, said
