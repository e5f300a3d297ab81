"""Programs as they are under daxfs-run, beside others without it: random calls, fio, SQLite, LMDB."""

import itertools
import os

from harness import check
from load_sqlite import write_and_check

POOL_MIB = 512
PIECE = 20000  # calls
PIECES = 500  # ten million in all


def tool(place, name):
    program = os.path.join(place.build, name)
    check(os.path.exists(program), f"{program}: not built")
    return program


def under(place):
    return [tool(place, "daxfs-run"), "--after=1"]


def random_calls(place, policy, pieces):
    oracle = place.path("oracle")
    os.makedirs(oracle, exist_ok=True)
    with place.mounting(64, f"direct,pin_policy={policy}"):
        for _ in range(pieces):
            seed = int.from_bytes(os.urandom(3), "big")
            words = [tool(place, "tests/run_ops"), place.mountpoint, oracle, str(PIECE), str(seed)]
            place.run([*under(place), *words], seconds=3600)


def fio(place, engine, jobs, how):
    words = ["--name=x", f"--directory={place.mountpoint}", "--size=16M", "--rw=randrw", "--bsrange=512-64k", f"--ioengine={engine}"]
    words += ["--verify=crc32c", "--verify_fatal=1", "--verify_backlog=64", f"--numjobs={jobs}", how]
    place.run([*under(place), "fio", *words])


def lmdb(place, transactions):
    program = place.path("lmdb_writer")
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lmdb_writer.c")
    place.run(["cc", "-O2", "-o", program, source, "-llmdb"])
    for mode in "write", "map", "map-async":
        store = place.inside(mode)
        os.mkdir(store)
        place.run([*under(place), program, "fill", mode, store, str(transactions)], seconds=1800)
        place.run([program, "verify", mode, store, str(transactions)], seconds=600)
        place.run([*under(place), program, "verify", mode, store, str(transactions)], seconds=600)


def run(place):
    pieces = 3 if place.quick else place.rounds or PIECES
    for policy in "refuse", "defer":
        with place.report.step(f"run: {PIECE * max(1, pieces // 2):,} random calls beside tmpfs, pin_policy={policy}"):
            random_calls(place, policy, max(1, pieces // 2))
    transactions = 500 if place.quick else 5000
    with place.mounting(POOL_MIB, "direct"):
        empty = place.free()
        for engine, jobs in itertools.product(("psync", "sync", "vsync", "mmap"), (1, 4)):
            with place.report.step(f"run: fio {engine}, {jobs} at once"):
                for how in ("--thread=0", "--thread=1")[: 1 if jobs == 1 else 2]:
                    fio(place, engine, jobs, how)
        for mode in "DELETE", "WAL":
            with place.report.step(f"run: sqlite {mode}, one writer under daxfs-run, one beside it"):
                write_and_check(place, mode, transactions, before=(under(place), ()))
        with place.report.step("run: sqlite WAL, database mapped"):
            write_and_check(place, "WAL", transactions, ["PRAGMA mmap_size=268435456;"], before=(under(place), ()))
        with place.report.step(f"run: lmdb, {transactions} transactions"):
            lmdb(place, transactions)
        with place.report.step("run: all space is free again"):
            place.empty()
            place.check_free(empty)
