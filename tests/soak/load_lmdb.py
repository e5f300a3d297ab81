"""LMDB: a store that is a shared mapping, written through it and beside it, read by another process meanwhile."""

import os

POOL_MIB = 512


def run(place):
    program = place.path("lmdb_writer")
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lmdb_writer.c")
    place.run(["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, source, "-llmdb"])
    transactions = 2000 if place.quick else 10000
    with place.mounting(POOL_MIB):
        empty = place.free()
        for mode in "write", "map", "map-async":
            store = place.inside(mode)
            with place.report.step(f"lmdb: {mode}, {transactions} transactions, reopened now and then"):
                os.mkdir(store)
                place.run([program, "fill", mode, store, str(transactions)], seconds=1800)
                place.run([program, "verify", mode, store, str(transactions)], seconds=600)
            with place.report.step(f"lmdb: {mode}, the same after a remount"):
                place.unmount()
                place.mount()
                place.run([program, "verify", mode, store, str(transactions)], seconds=600)
        with place.report.step("lmdb: all space is free again"):
            place.empty()
            place.check_free(empty)
