"""A PostgreSQL server of one's own, its data on the mount and its sockets beside it, and pgbench as its client."""

import collections
import glob
import os
import pwd
import signal
import subprocess

from harness import Failure, check, wait_until

# The server refuses to run as root. A change of the user forgets the signal at the parent's death.
AS = ["setpriv", "--pdeathsig", "KILL", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
SETTINGS = {
    "listen_addresses": "",
    "shared_buffers": "32MB",
    "max_wal_size": "64MB",
    "checkpoint_timeout": "30s",
    "autovacuum_naptime": "5s",
    "restart_after_crash": "off",
    "log_min_messages": "log",
}
# pgbench's own transaction, and a row that says which one it was: :n counts the transactions of a client.
SCRIPT = r"""\set n :n + 1
\set aid random(1, 100000 * :scale)
\set bid random(1, 1 * :scale)
\set tid random(1, 10 * :scale)
\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP);
INSERT INTO ack(round, client, n) VALUES (:round, :client_id, :n);
END;
"""


def programs():
    """Where Debian keeps the newest version's programs, or ''."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda path: int(path.split("/")[4]))
    return os.path.dirname(found[-1]) if found else ""


def make_data(place, data):
    user = pwd.getpwnam("postgres")
    os.mkdir(data)
    os.chown(data, user.pw_uid, user.pw_gid)
    command = [*AS, f"{programs()}/initdb", "-D", data, "--data-checksums", "-A", "trust", "-E", "UTF8", "--locale=C"]
    place.run(command, seconds=600, cwd="/")


class Server:
    def __init__(self, place, data, extra=None):
        self.place, self.data = place, data
        self.settings = SETTINGS | (extra or {})
        self.sockets, self.log = place.path("sockets"), place.path("postgres.log")
        user = pwd.getpwnam("postgres")
        os.makedirs(self.sockets, exist_ok=True)
        os.chown(self.sockets, user.pw_uid, user.pw_gid)
        self.child = None

    def launch(self):
        words = [word for name, value in self.settings.items() for word in ("-c", f"{name}={value}")]
        with open(self.log, "ab") as log:
            self.child = self.place.processes.start(
                [*AS, f"{programs()}/postgres", "-D", self.data, "-k", self.sockets, *words],
                stdout=log,
                stderr=log,
                cwd="/",
            )

    def start(self):
        """Returns when its recovery is over."""
        self.launch()
        asked = [f"{programs()}/pg_isready", "-q", "-h", self.sockets]
        wait_until(
            lambda: self.child.poll() is not None or subprocess.run(asked, check=False).returncode == 0,
            300,
            lambda: f"the server's start: {self.last_words()}",
        )
        check(self.child.poll() is None, f"the server does not start: {self.last_words()}")

    def last_words(self):
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return " | ".join(log.read().strip().splitlines()[-5:])

    def stop(self):
        self.child.send_signal(signal.SIGINT)
        return self.gone()

    def die(self):
        """At once. Its children go when they see it, and let go of the mount then."""
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGQUIT)
        self.gone()

    def gone(self):
        try:
            status = self.child.wait(120)
        except subprocess.TimeoutExpired:
            raise Failure(f"the server does not end: {self.last_words()}") from None
        self.place.processes.end(self.child)
        return status

    def client(self, name, *words):
        return [f"{programs()}/{name}", "-h", self.sockets, "-U", "postgres", *words]

    def ask(self, text, seconds=600, **how):
        return self.place.run(
            self.client("psql", "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", "bench", "-c", text), seconds=seconds, **how
        ).strip()

    def fill(self, scale):
        self.place.run(self.client("createdb", "bench"))
        self.place.run(self.client("pgbench", "-i", "-q", "-s", str(scale), "bench"))
        self.ask("CREATE TABLE ack(round int, client int, n int, PRIMARY KEY (round, client, n))")

    def check_sound(self):
        """Heaps, indexes and the sums that every transaction keeps."""
        self.place.run(self.client("pg_amcheck", "--install-missing", "--heapallindexed", "-d", "bench"))
        sums = self.ask(
            """SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),
            (SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)"""
        )
        check(len(set(sums.split("|"))) == 1, f"the sums differ: {sums}")


class Load:
    """pgbench, which logs a transaction when it was acknowledged."""

    def __init__(self, server, number, scale, clients=4):
        self.server, self.number, self.clients = server, number, clients
        place = server.place
        self.prefix = place.path(f"acks{number}")
        script = place.path("script.sql")
        with open(script, "w", encoding="ascii") as file:
            file.write(SCRIPT)
        defined = [word for name, value in (("n", 0), ("round", number), ("scale", scale)) for word in ("-D", f"{name}={value}")]
        words = ["-n", "-c", str(clients), "-j", "2", "-T", "600", *defined, "-f", script, "-l", "--log-prefix", self.prefix]
        self.child = place.processes.start(
            server.client("pgbench", *words, "bench"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/"
        )

    def acknowledged(self):
        """{client: how many}. pgbench writes out its log when it ends."""
        counts = collections.Counter()
        for path in glob.glob(self.prefix + ".*"):
            with open(path, encoding="ascii") as log:
                counts.update(int(line.split()[0]) for line in log)
            os.unlink(path)
        return counts
