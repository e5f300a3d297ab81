"""sqlite: two writers at once, in each way of keeping a journal."""

import subprocess

from harness import check

POOL_MIB = 512


def script(writer, transactions, settings):
    """Each transaction adds a row and moves an amount between accounts, whose sum therefore stays what it was."""
    lines = [".bail on", ".timeout 300000", *settings]
    for i in range(transactions):
        a, b = (writer * 31 + i * 7) % 100, (writer * 17 + i * 13) % 100
        lines += [
            "BEGIN IMMEDIATE;",
            f"INSERT INTO log(writer, n, text) VALUES({writer}, {i}, hex(randomblob({20 + i % 400})));",
            f"UPDATE account SET amount = amount - {i % 50} WHERE id = {a};",
            f"UPDATE account SET amount = amount + {i % 50} WHERE id = {b};",
            "ROLLBACK;" if i % 50 == 49 else "COMMIT;",
        ]
    return "\n".join(lines) + "\n"


def sqlite(place, database, text):
    return place.run(["sqlite3", database], seconds=900, input=text).strip()


def write_and_check(place, mode, transactions, extra=(), before=((), ())):
    """`before`: words before the two writers' commands."""
    database = place.inside(f"{mode.lower()}{len(extra)}.db")
    accounts = " UNION ALL ".join(f"SELECT {i}, 1000" for i in range(100))
    sqlite(
        place,
        database,
        f"""PRAGMA journal_mode={mode};
        CREATE TABLE log(writer INT, n INT, text TEXT, PRIMARY KEY(writer, n));
        CREATE INDEX by_text ON log(text);
        CREATE TABLE account(id INTEGER PRIMARY KEY, amount INT);
        INSERT INTO account {accounts};""",
    )
    settings = [f"PRAGMA journal_mode={mode};", "PRAGMA synchronous=FULL;", *extra]
    writers = []
    for writer in range(2):
        path = place.path(f"script{writer}")
        with open(path, "w", encoding="ascii") as file:
            file.write(script(writer, transactions, settings))
        with open(path, "rb") as text:
            how = {"stdin": text, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
            writers.append(place.processes.start([*before[writer], "sqlite3", database], **how))
    for writer in writers:
        _, error = writer.communicate(timeout=1800)
        place.processes.end(writer)
        check(writer.returncode == 0, f"a writer ended with {writer.returncode}: {error.decode()[-300:]}")
    kept = transactions - transactions // 50
    questions = {
        "PRAGMA integrity_check;": "ok",
        "PRAGMA journal_mode;": mode.lower() if mode == "WAL" else "delete",
        "SELECT count(*), count(DISTINCT writer) FROM log;": f"{2 * kept}|2",
        "SELECT sum(amount) FROM account;": "100000",
    }
    for question, answer in questions.items():
        said = sqlite(place, database, question)
        check(said == answer, f"{question} says '{said[:200]}', not '{answer}'")
    sqlite(place, database, "DELETE FROM log WHERE n % 2; VACUUM;")
    check(sqlite(place, database, "PRAGMA integrity_check;") == "ok", "not sound after VACUUM")


def run(place):
    transactions = 1000 if place.quick else 5000
    with place.mounting(POOL_MIB):
        empty = place.free()
        for mode in "DELETE", "TRUNCATE", "PERSIST", "WAL":
            with place.report.step(f"sqlite: {mode}, 2 writers, {transactions} transactions each"):
                write_and_check(place, mode, transactions)
        with place.report.step("sqlite: WAL, database mapped"):
            write_and_check(place, "WAL", transactions, ["PRAGMA mmap_size=268435456;"])
        with place.report.step("sqlite: sound after a remount"):
            place.unmount()
            place.mount()
            for name in "delete0", "truncate0", "persist0", "wal0", "wal1":
                said = sqlite(place, place.inside(name + ".db"), "PRAGMA integrity_check;")
                check(said == "ok", f"{name}: {said[:200]}")
        with place.report.step("sqlite: all space is free again"):
            place.empty()
            place.check_free(empty)
