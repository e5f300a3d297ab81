"""The table at the end, and what it means."""

import textwrap

from story import HELD, PUNCHED
from system import MIB

WIDTH = 100


def columns(results):
    """Rows of the table: what, then one cell for each policy."""
    moment = lambda name: [str(result.space[name]) for result in results]
    yield "pin_policy=", [result.policy for result in results]
    yield None, []
    yield f"punch {PUNCHED // MIB} MiB under the pin", [str(result.punch) for result in results]
    yield "truncate the pinned file to 0", [str(result.truncate) for result in results]
    yield "free / limbo in MiB: before", moment("before")
    yield "    punched and truncated", moment("taken")
    yield "    other files fill it up", moment("full")
    yield "    holder has released", moment("released")
    yield "truncate after the release", [str(result.again) if result.again else "-" for result in results]
    yield None, []
    yield "the holder saw", ["FOREIGN BYTES" if result.foreign else "intact" for result in results]
    yield "    in so many looks at a block", [f"{result.foreign:,} of {result.holder_checks:,}" for result in results]
    yield "damaged blocks in other files", [f"{result.damaged:,}" for result in results]
    yield "fio's verified writes beside it", [
        f"{result.fio_writes:,}, {'ERRORS' if result.fio_errors else 'no error'}" for result in results
    ]
    yield "as promised", ["NO" if result.broken else "yes" for result in results]


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
                "holder": {"exit": result.holder_exit, "checks": result.holder_checks, "foreign": result.foreign},
                "others": {"bytes": result.others, "damaged_blocks": result.damaged},
                "fio": {"writes": result.fio_writes, "errors": result.fio_errors},
                "broken_promises": result.broken,
            }
            for result in results
        },
    }
