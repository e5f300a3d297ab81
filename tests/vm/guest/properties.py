"""properties.py BUILD fsdax|devdax GRANULARITY: what a mount on real (if emulated) persistent memory is like.

Whether it knows what it lies on, and whether its mappings and those of holders are synchronous and of huge pages."""

import collections
import contextlib
import os
import pathlib
import re
import stat
import subprocess
import sys

SOURCE = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(SOURCE / "tests/soak"))

from harness import MIB, Place, check, wait_until  # noqa: E402  (found by the line above)

POOL_MIB = 128
HELD_MIB = 16
HUGE_PAGE = 2 * MIB
TRACING = pathlib.Path("/sys/kernel/tracing")
SYNCHRONOUS = "sf"  # VmFlags in proc(5): MAP_SYNC


def mappings_of(process, path):
    """What smaps says of the mappings of this file: a dictionary for each."""
    found = []
    current = None
    with open(f"/proc/{process}/smaps", encoding="utf-8") as table:
        for line in table:
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                current = {}
                words = line.split()
                if words[-1] == path:
                    start, end = (int(part, 16) for part in words[0].split("-"))
                    current = {"start": start, "length": end - start}
                    found.append(current)
            else:
                name, _, value = line.partition(":")
                current[name] = value.split()
    return found


def is_synchronous(mapping):
    return SYNCHRONOUS in mapping["VmFlags"]


@contextlib.contextmanager
def huge_page_faults():
    """A list that afterwards has (thread, process or None, result) of each fault for a huge page of a file. Names of threads
    are the library's business: libfuse 3.17 gives its own."""
    event = TRACING / "events/fs_dax/dax_pmd_fault_done/enable"
    faults = []
    (TRACING / "options/record-tgid").write_text("1")
    event.write_text("1")
    try:
        yield faults
    finally:
        event.write_text("0")
        for line in (TRACING / "trace").read_text().splitlines():
            match = re.match(r".*-(\d+)\s+\(\s*(\d+|-+)\)\s.*dax_pmd_fault_done:.* (\S+)$", line)
            if match:
                faults.append((int(match[1]), int(match[2]) if match[2].isdigit() else None, match[3]))
        (TRACING / "trace").write_text("")


@contextlib.contextmanager
def holder(place):
    """daxfs-hold, which maps what it has pinned and writes to all of it."""
    path = place.inside("held")
    words = [path, "--length", f"{HELD_MIB}M", "--allocate"]
    with open(place.path("hold.out"), "w+", encoding="utf-8") as out:
        process = place.processes.start([place.program("daxfs-hold"), *words], stdout=out, stderr=out)

        def said():
            out.seek(0)
            return out.read()

        try:
            wait_until(lambda: "held" in said() or process.poll() is not None, 120, "daxfs-hold to hold")
            check(process.poll() is None, f"daxfs-hold ended with {process.returncode}: {said()}")
            yield process
        finally:
            process.terminate()
            process.wait(60)
            place.processes.end(process)
    check(process.returncode == 0, f"daxfs-hold ended with {process.returncode}")
    os.unlink(path)


def threads_of(process):
    return {process, *map(int, os.listdir(f"/proc/{process}/task"))}


def check_faults(faults, command, process, threads):
    # The tracer does not know the process of a thread that it has not seen being scheduled.
    mine = (result for thread, whose, result in faults if whose == process or (whose is None and thread in threads))
    results = collections.Counter(mine)
    # A synchronous mapping gets its page when the filesystem has written what it knows about it.
    huge = results["NOPAGE"] + results["NEEDDSYNC"]
    check(huge >= HELD_MIB // 2, f"{command}: {huge} huge pages, not {HELD_MIB // 2}: {dict(results)}")
    print(f"{command}: {huge} huge pages for {HELD_MIB} MiB", flush=True)


def check_device_mappings(mappings):
    for mapping in mappings:
        size = mapping["KernelPageSize"]
        check(size == [str(HUGE_PAGE >> 10), "kB"], f"a mapping has pages of {' '.join(size)}")


def check_mappings(place, kind):
    """Of what a holder has pinned, and the daemon zeroed for it."""
    with huge_page_faults() as faults, holder(place) as process:
        views = mappings_of(process.pid, place.pool)
        own = mappings_of(place.daemon.pid, place.pool)
        threads = {pid: threads_of(pid) for pid in (process.pid, place.daemon.pid)}
    check(views and own, "the pool is not mapped")
    check(all(map(is_synchronous, views)), f"the holder's mapping is not MAP_SYNC: {views}")
    if kind == "devdax":
        check_device_mappings(views + own)
    else:
        check(all(map(is_synchronous, own)), f"the daemon's mapping is not MAP_SYNC: {own}")
        check_faults(faults, "daxfs-hold", process.pid, threads[process.pid])
        check_faults(faults, "daxfs", place.daemon.pid, threads[place.daemon.pid])


def check_nodes(place):
    """Locks belong to a node: another one of the same device must be of no use, and a bind mount is none."""
    other, bound = place.path("other"), place.path("bound")
    os.mknod(other, stat.S_IFCHR | 0o600, os.stat(place.pool).st_rdev)
    for command in (["mkfs.daxfs", "--force", other], ["daxfs", other, place.mountpoint], ["fsck.daxfs", "-n", other]):
        done = subprocess.run([place.program(command[0]), *command[1:]], capture_output=True, text=True, check=False)
        check(done.returncode != 0, f"{command[0]} takes a node of its own")
        check("bind mount" in done.stderr, f"{command[0]} says: {done.stderr}")
    pathlib.Path(bound).touch()
    place.run(["mount", "--bind", place.pool, bound])
    try:
        place.run([place.program("fsck.daxfs"), "-n", bound])
    finally:
        place.run(["umount", bound])


def run(place, kind, granularity):
    place.format(POOL_MIB)
    with place.report.step(f"{kind}: the mount says dax, and granularity {granularity}"):
        place.mount()
        status = place.ask("status")
        check(status["dax"] is True, f"dax is {status['dax']}")
        check(status["granularity"] == granularity, f"granularity is {status['granularity']}")
    with place.report.step(f"{kind}: mappings of holder and daemon are synchronous, and of huge pages"):
        check_mappings(place, kind)
    place.unmount()
    if kind == "devdax":
        with place.report.step(f"{kind}: a node that mknod has made is refused, a bind mount is not"):
            check_nodes(place)


def main():
    build, kind, granularity = sys.argv[1:4]
    place = Place(build, pool=os.environ["POOL"])
    try:
        with place.report.step(f"{kind}: the whole of it"):
            run(place, kind, granularity)
    finally:
        place.close()
    return 1 if place.report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
