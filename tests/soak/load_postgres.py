"""PostgreSQL: the daemon is killed under pgbench, and while the server recovers; every transaction that a client was told
of is there, and pg_amcheck is content. Then the pool is full, and the server goes on when there is space again."""

import os
import random
import shutil
import subprocess

from engines import CACHES, figures, kill_after, lacking, rounds_of, status_of
from harness import BLOCK, MIB, Skip, check
from postgres_server import AS, Load, Server, make_data, programs

POOL_MIB = 768
ROUNDS, QUICK_ROUNDS = 15, 2  # in each mode of the cache
ENDED_BY_ITSELF = 0


def verify(server, load, counts, former):
    """What was acknowledged, and of each client at most one transaction more: the one that was under way."""
    found = {client: 0 for client in range(load.clients)}
    for line in server.ask(f"SELECT client, count(*), max(n) FROM ack WHERE round = {load.number} GROUP BY 1").splitlines():
        client, count, last = map(int, line.split("|"))
        check(count == last, f"client {client} has {count} transactions of {last}")
        found[client] = count
    for client, count in found.items():
        told = counts[client]
        check(told <= count <= told + 1, f"client {client} was told of {told} transactions, {count} are there")
    former[load.number] = sum(found.values())
    for number, count in former.items():
        there = int(server.ask(f"SELECT count(*) FROM ack WHERE round = {number}"))
        check(there == count, f"round {number} had {count} transactions, {there} are there")


def kill_round(place, server, load, dice, cache):
    kill_after(place, dice.uniform(1, 4))
    status = status_of(load.child, 120, "pgbench")
    place.processes.end(load.child)
    check(status != ENDED_BY_ITSELF, "pgbench heard of nothing")
    server.die()
    place.bury_daemon()
    place.mount(f"cache={cache}")
    if dice.random() < 0.5:
        server.launch()
        kill_after(place, dice.uniform(0, 1))
        server.die()
        place.bury_daemon()
        place.mount(f"cache={cache}")
    server.start()


def insert_until_full(server):
    """How many inserts of a MiB were acknowledged, and what the one that failed was told."""
    for number in range(1, 10000):
        text = f"INSERT INTO grow SELECT {number}, repeat(md5((i + {number})::text), 32) FROM generate_series(1, 1000) i"
        said = server.ask(text + " RETURNING 'done'", status=None, stderr=subprocess.STDOUT)
        if said.count("done") != 1000:
            return number - 1, said
    return 0, "never full"


def full(place, server, cache):
    """The server may die of it (PostgreSQL stops when it cannot write its log or sync its data). Nothing that it has
    acknowledged is lost."""
    server.ask("CREATE TABLE grow(number int, text text)")
    filler = place.inside("filler")
    with open(filler, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(place.free() * BLOCK - 48 * MIB, BLOCK))
    told, said = insert_until_full(server)
    check("No space left on device" in said or "server closed" in said or "terminat" in said, f"full: {said[-300:]}")
    how = "an error" if server.ask("SELECT 1", status=None) == "1" else "the server's end"
    server.ask("CHECKPOINT", status=None)
    os.unlink(filler)
    if server.child.poll() is None:
        server.ask("CHECKPOINT", status=None)
    if server.child.poll() is None:
        server.stop()
    else:
        server.die()
    # What only the page cache had is gone now.
    place.unmount()
    place.mount(f"cache={cache}")
    server.start()
    rows = server.ask("SELECT number, count(*), count(DISTINCT text) FROM grow GROUP BY 1 ORDER BY 1").splitlines()
    check(len(rows) in (told, told + 1), f"{told} inserts were acknowledged, {len(rows)} are there")
    check(rows == [f"{number}|1000|1000" for number in range(1, len(rows) + 1)], f"other rows: {rows[:3]}")
    print(f"      {told} MiB went in; the next one ended with {how}: {said.splitlines()[0][:120]}", flush=True)
    server.ask("DROP TABLE grow")
    place.run(server.client("pgbench", "-n", "-c", "4", "-T", "3", "bench"))
    server.check_sound()


def soak(place, cache, dice, seed):
    rounds = rounds_of(place, ROUNDS, QUICK_ROUNDS)
    scale = 1 if place.quick else 5
    former = {}
    with place.mounting(POOL_MIB, f"cache={cache}"):
        data = place.inside("data")
        with place.report.step(f"postgres: {cache}: initdb, pgbench -i"):
            make_data(place, data)
            server = Server(place, data)
            server.start()
            server.fill(scale)
        for number in range(rounds):
            with place.report.step(f"postgres: {cache}: kill -9 under pgbench, {number + 1} of {rounds} (seed {seed})"):
                load = Load(server, number, scale)
                kill_round(place, server, load, dice, cache)
                verify(server, load, load.acknowledged(), former)
                server.check_sound()
            if place.report.failed:
                print("      " + server.last_words(), flush=True)
                raise Skip("the rounds after a failure")
        check(sum(former.values()) > 10 * rounds, f"only {sum(former.values())} transactions in {rounds} rounds")
        with place.report.step(f"postgres: {cache}: {sum(former.values())} transactions there; full, and going on"):
            full(place, server, cache)
        with place.report.step(f"postgres: {cache}: every page's checksum, and the pool"):
            check(server.stop() == 0, f"the server ended badly: {server.last_words()}")
            place.run([*AS, f"{programs()}/pg_checksums", "--check", "-D", data], cwd="/")
            place.unmount()
            place.run([place.program("fsck.daxfs"), "-n", place.pool])
            place.mount(f"cache={cache}")


def measure(place, template, seconds):
    """pgbench on a copy of a database that nobody has used."""

    def once(directory):
        data = os.path.join(directory, "data")
        place.run(["cp", "-a", template, data])
        server = Server(place, data, {"max_wal_size": "1GB", "checkpoint_timeout": "1h", "shared_buffers": "128MB"})
        server.start()
        said = place.run(server.client("pgbench", "-n", "-c", "4", "-j", "2", "-T", str(seconds), "bench"))
        server.stop()
        tps = next(line for line in said.splitlines() if line.startswith("tps = "))
        return {"pgbench -c 4, transactions": float(tps.split()[2])}

    return once


def compare(place):
    template = place.path("template")
    make_data(place, template)
    server = Server(place, template)
    server.start()
    server.fill(1 if place.quick else 5)
    server.stop()
    try:
        figures(place, measure(place, template, 2 if place.quick else 15), POOL_MIB, 1 if place.quick else 3)
    finally:
        shutil.rmtree(template)


def run(place):
    if not programs() or lacking("setpriv"):
        raise Skip("PostgreSQL is not installed (postgresql, postgresql-contrib)")
    os.chmod(place.directory, 0o711)
    seed = random.SystemRandom().randrange(1 << 30)
    dice = random.Random(seed)
    for cache in CACHES:
        soak(place, cache, dice, seed)
    with place.report.step("postgres: figures"):
        compare(place)
