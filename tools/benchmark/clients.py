"""Runs bench-client (or fio) against a target and reads what it measured."""

import contextlib
import json
import os
import subprocess
import time

WAIT_SECONDS = 60


class ClientFailed(Exception):
    pass


def pinned(cpus, command):
    """The command on these CPUs; anywhere if there are none."""
    return ["taskset", "-c", ",".join(map(str, cpus)), *command] if cpus else command


def call(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise ClientFailed(said[-1] if said else f"{os.path.basename(command[0])} ended with status {done.returncode}")
    return json.loads(done.stdout)


def run(run_, cpus, *words):
    return call(pinned(cpus, [run_.client, *words]))


def fill(run_, path, blocks, sparse=False):
    run(run_, None, "fill", "--file", path, "--blocks", str(blocks), *(["--sparse"] if sparse else []))


def io(run_, target, case, cpus):
    options = run_.options
    words = [
        "--file",
        target.shared_file,
        "--region",
        str(options.region),
        "--jobs",
        str(case.jobs),
        "--seconds",
        str(options.seconds),
    ]
    words += ["--block", "4096" if case.random else str(1 << 20)]
    words += ["--random"] if case.random else []
    words += ["--write"] if case.write else []
    # Cached reads begin with an empty page cache, else they would time the kernel and not the server.
    words += ["--direct"] if case.direct else [] if case.write else ["--cold"]
    words += ["--cpus", ",".join(map(str, cpus))] if cpus else []
    return run(run_, cpus, "io", *words)


@contextlib.contextmanager
def waiting(run_, target, waiters):
    """As long as this lasts, so many punches, each of a file of its own, wait for a holder."""
    child = subprocess.Popen(
        [run_.client, "wait", "--dir", target.directory, "--waiters", str(waiters)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + WAIT_SECONDS
        while target.waiting() < waiters:
            if child.poll() is not None or time.monotonic() > deadline:
                raise ClientFailed(f"{target.waiting()} of {waiters} requests wait")
            time.sleep(0.01)
        yield
    finally:
        try:
            _, said = child.communicate("", WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            _, said = child.communicate()
    if child.returncode != 0:
        raise ClientFailed(said.strip() or f"the waiting requests ended with status {child.returncode}")


def fio(run_, target, case, cpus):
    options = run_.options
    command = [
        "fio",
        "--name=bench",
        f"--filename={target.shared_file}",
        "--ioengine=psync",
        "--output-format=json",
        "--group_reporting",
        "--thread",
        f"--rw={'rand' if case.random else ''}{'write' if case.write else 'read'}",
        f"--bs={'4k' if case.random else '1m'}",
        f"--direct={int(case.direct)}",
        f"--numjobs={case.jobs}",
        f"--size={options.region // case.jobs}",
        f"--offset_increment={options.region // case.jobs}",
        f"--runtime={max(1, round(options.seconds))}",
        "--allow_file_create=0",
    ]
    # One pass for cached reads: the second would find everything in the page cache.
    command += ["--time_based"] if case.direct or case.write else []
    report = call(pinned(cpus, command))["jobs"][0]["write" if case.write else "read"]
    latency = report["clat_ns"].get("percentile", {})
    return {
        "ops": report["total_ios"],
        "ops_per_s": report["iops"],
        "bytes_per_s": report["bw_bytes"],
        "p50_us": latency.get("50.000000", 0) / 1000,
        "p99_us": latency.get("99.000000", 0) / 1000,
    }


def have_fio():
    return any(
        os.access(os.path.join(folder, "fio"), os.X_OK) for folder in os.environ.get("PATH", "").split(os.pathsep)
    )
