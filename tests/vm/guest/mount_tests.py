"""mount_tests.py BUILD [SELECTION]: passes the mount tests, each in a process of its own as ctest does, with pools in the
place that with_pool has made. SELECTION is Catch's; the name of its file is a tag of every test: '[#pin_view_test]'."""

import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys

SOURCE = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(SOURCE / "tests/soak"))

from harness import Failure, Processes, Report, Skip  # noqa: E402  (found by the line above)

SECONDS = 600
SKIPPED = re.compile(r"SKIPPED: (.*)")


def names_of(program, selection):
    words = [program, "--filenames-as-tags", *selection]
    # Catch 2, then Catch 3. The exit status may be the number of tests.
    for options in (["--list-test-names-only"], ["--list-tests", "--verbosity", "quiet"]):
        listed = subprocess.run([*words, *options], capture_output=True, text=True, check=False)
        if not listed.stderr:
            break
    names = [line.strip() for line in listed.stdout.splitlines() if line.strip()]
    if listed.stderr or not names:
        sys.exit(f"mount_tests: there is no test {' '.join(selection)}: {listed.stderr}")
    return names


def pass_one(program, name, processes, report):
    pattern = re.sub(r"([\\,\[])", r"\\\1", name)
    with report.step(name):
        child = processes.start([program, pattern], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            said, _ = child.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            processes.end(child)
            raise Failure(f"still running after {SECONDS} s") from None
        skipped = SKIPPED.search(said)
        if skipped:
            raise Skip(skipped[1])
        if child.returncode:
            raise Failure(f"exit status {child.returncode}\n{said}")


def main():
    program = os.path.join(sys.argv[1], "tests/tests_mount")
    names = names_of(program, sys.argv[2:])
    # A device is one pool: one test at a time.
    jobs = 1 if os.environ.get("DAXFS_TEST_POOL_DEVICE") else os.cpu_count()
    # A round is seconds on an emulated CPU; the default is eight.
    os.environ.setdefault("DAXFS_CRASH_ROUNDS", "2")
    if jobs == 1:  # its clock and the kernel's limits are no other test's
        os.environ["DAXFS_TEST_OWN_MACHINE"] = "1"
    report = Report()
    processes = Processes()
    with concurrent.futures.ThreadPoolExecutor(jobs) as workers:
        passing = [workers.submit(pass_one, program, name, processes, report) for name in names]
        for one in passing:
            one.result()
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
