"""The table at the end, and what it means."""

import textwrap

from story import HELD, PUNCHED
from system import MIB

WIDTH = 100


def columns(results):
    """Rows of the table: what, then one cell for each policy."""
    each = lambda cell: [cell(result) for result in results]
    moment = lambda name: each(lambda result: str(result.space[name]))
    yield "pin_policy=", each(lambda result: result.policy)
    yield None, []
    yield f"punch {PUNCHED // MIB} MiB under the pin", each(lambda result: result.punch.result)
    yield "    after", each(lambda result: result.punch.took)
    yield "truncate that file to 0", each(lambda result: result.truncate.result)
    yield "    after", each(lambda result: result.truncate.took)
    yield "free / limbo, MiB: before", moment("before")
    yield "    punched and truncated", moment("taken")
    yield "    others fill it up", moment("full")
    yield "    holder has released", moment("released")
    yield "truncate after the release", each(lambda result: result.again.result if result.again else "-")
    yield None, []
    yield "the holder was told", each(lambda result: times(len(result.told)))
    yield "the holder saw", each(lambda result: "FOREIGN BYTES" if result.foreign else "intact")
    yield "    looks at a block", each(lambda result: f"{result.holder_checks:,}")
    yield "    with foreign bytes", each(lambda result: f"{result.foreign:,}")
    yield "damaged blocks elsewhere", each(lambda result: f"{result.damaged:,}")
    yield "fio's verified writes", each(lambda result: f"{result.fio_writes:,}")
    yield "    errors", each(lambda result: "ERRORS" if result.fio_errors else "none")
    yield "as promised", each(lambda result: "NO" if result.broken else "yes")


def times(count):
    return {0: "-", 1: "once", 2: "twice"}.get(count, f"{count} times")


def table(results):
    rows = list(columns(results))
    first = max(len(what) for what, _ in rows if what)
    widths = [max(len(cells[i]) for _, cells in rows if cells) for i in range(len(results))]
    lines = []
    for what, cells in rows:
        if what is None:
            lines.append("-" * (first + sum(widths) + 3 * len(widths)))
        else:
            padded = [cell.ljust(width) for cell, width in zip(cells, widths)]
            lines.append("   ".join([what.ljust(first), *padded]).rstrip())
    return "\n".join(lines)


MEANING = {
    "refuse": "refuse (the default) answers ETXTBSY and changes nothing; once the pin is gone, the same truncate works.",
    "defer": f"defer lets both through at once, and the {HELD // MIB} MiB wait in limbo, neither free nor a file's, until "
    "the holder releases.",
    "wait": "wait lets the punch return when the holder has released, and meanwhile the file can be read and other files "
    "go on.",
    "break": "break tells the holder, who has a lease, and it gives way; the blocks are free at once.",
    "ignore": "ignore is what happens without a gate: the blocks went to other files while the holder was still writing "
    "to them, and both sides lost data.",
}


def meaning(results):
    text = " ".join(MEANING[result.policy] for result in results)
    return textwrap.fill(text, WIDTH)


def broken(results):
    return [f"NOT AS PROMISED under {result.policy}: {promise}" for result in results for promise in result.broken]


def as_json(results):
    return {
        "as_promised": not broken(results),
        "policies": {
            result.policy: {
                "punch": result.punch.as_json(),
                "truncate": result.truncate.as_json(),
                "truncate_again": result.again.as_json() if result.again else None,
                "space": {name: {"free": space.free, "limbo": space.limbo} for name, space in result.space.items()},
                "holder": {"exit": result.holder_exit, "checks": result.holder_checks, "foreign": result.foreign, "told": result.told},
                "others": {"bytes": result.others, "damaged_blocks": result.damaged},
                "fio": {"writes": result.fio_writes, "errors": result.fio_errors},
                "broken_promises": result.broken,
            }
            for result in results
        },
    }
