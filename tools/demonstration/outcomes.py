"""What became of the positions: the table, the timelines as text, and both as JSON."""

import positions
from actors import BLOCK, duration

WIDTH = 98
HEADS = ("holder", "pin", "truncate", "blocked", "kept for", "the holder was told", "its memory")
WIDTHS = (18, 11, 9, 9, 9, 28, 14)

# States of a holder's blocks.
HOLDS, WANTED, REFUSED, LIMBO, FOREIGN = "holds", "wanted", "refused", "limbo", "foreign"
MEANINGS = {
    HOLDS: "held, and nobody wants it",
    WANTED: "held, while a truncate waits",
    REFUSED: "held, the truncate was refused",
    LIMBO: "in limbo: no file's, not free",
    FOREIGN: "in use, but another file's by now",
}
LETTERS = {HOLDS: "=", WANTED: "w", REFUSED: "r", LIMBO: "~", FOREIGN: "X"}
ASKED, NEWS, NOTHING = "|", "!", "."


def states(outcome, corrupts):
    """What the holder's blocks were, from when to when; nothing if it could not pin them."""
    if outcome.until is None:
        return []
    spans = [(0, min(outcome.asked, outcome.until), HOLDS), (outcome.asked, min(outcome.answered, outcome.until), WANTED)]
    if outcome.error:
        spans.append((outcome.answered, outcome.until, REFUSED))
    elif outcome.until > outcome.answered:
        spans.append((outcome.answered, outcome.until, FOREIGN if corrupts else LIMBO))
    return [span for span in spans if span[1] > span[0]]


def kept_for(played, outcome):
    """Seconds for which space that was asked back could serve nobody else; None if it was at once free."""
    if outcome.until is None:
        return None
    end = outcome.answered if played.position.corrupts else outcome.until
    return max(0, end - outcome.asked)


def told(outcome):
    words = {"break": "give way", "changed": "it has changed", "revoked": "the lease is gone"}
    said = []
    for when, event, action in outcome.told:
        did = {"gives way": "; it did", "ignored": "; ignored"}.get(action, "")
        said.append(f"{words[event]}, +{max(0, when - outcome.asked) * 1000:.0f} ms{did}")
    return " / ".join(said) or "-"


def memory(outcome):
    if outcome.pin_error:
        return "-"
    return f"{outcome.foreign:,} FOREIGN" if outcome.foreign else "intact"


def row(played, outcome):
    kept = kept_for(played, outcome)
    return (
        outcome.kind.name,
        outcome.pin_error or "granted",
        outcome.error or "ok",
        duration(outcome.blocked),
        "-" if kept is None else duration(kept),
        told(outcome),
        memory(outcome),
    )


def line(cells):
    return "  " + "".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS)).rstrip()


def table(all_played):
    lines = [line(HEADS), "-" * WIDTH]
    for played in all_played:
        lines.append(f"{played.position.who}: {played.position.options}")
        lines += [line(row(played, outcome)) for outcome in played.outcomes]
        others = f"{played.damaged:,} blocks DAMAGED" if played.damaged else "every block as written"
        promised = "NO" if played.broken else "yes"
        lines.append(f"  other files: {others}{'':{max(1, 40 - len(others))}}as promised: {promised}")
    return "\n".join(lines)


def explanation():
    lines = ["Five holders of 8 MiB each, and five processes that truncate their files at the same moment:"]
    lines += [f"  {kind.name:18}{kind.explained}" for kind in positions.KINDS]
    lines += [
        "Other files take all free space, and whatever becomes free. The table will say how long each",
        "truncating process was blocked; for how long the space, once asked back, was kept from everybody else;",
        "what the holder was told, how long after the truncate began; and whether it ever read bytes in its",
        "memory that were not its own.",
    ]
    return "\n".join(lines)


def span_of(all_played):
    """Seconds that the timelines show: the same for all."""
    return max(played.end for played in all_played) * 1.02


def timeline(played, seconds, columns=54):
    column = lambda when: min(columns - 1, int(when / seconds * columns))
    lines = [f"{played.position.who}: {played.position.says}"]
    for outcome in played.outcomes:
        cells = [NOTHING] * columns
        for begin, end, state in states(outcome, played.position.corrupts):
            for at in range(column(begin), column(end) + 1):
                cells[at] = LETTERS[state]
        cells[column(outcome.asked)] = ASKED
        for when, _, _ in outcome.told:
            # Beside the mark of the truncate, if they meet there.
            cells[min(columns - 1, max(column(when), column(outcome.asked) + 1))] = NEWS
        if outcome.pin_error:
            result = f"no pin: {outcome.pin_error}"
        else:
            result = f"{outcome.error or 'ok'} after {duration(outcome.blocked)}"
        lines.append(f"  {outcome.kind.name:18}{''.join(cells)}  {result}")
    return "\n".join(lines)


def scale(seconds, columns=54):
    marks = [" "] * columns
    for second in range(int(seconds) + 1):
        at = int(second / seconds * columns)
        for index, letter in enumerate(f"{second} s"):
            if at + index < columns:
                marks[at + index] = letter
    return f"{'':20}{''.join(marks)}".rstrip()


def timelines(all_played):
    seconds = span_of(all_played)
    legend = [f"  {LETTERS[state]} {meaning}" for state, meaning in MEANINGS.items()]
    legend += [f"  {ASKED} truncate begins", f"  {NEWS} the holder is told", f"  {NOTHING} no holder"]
    pairs = [legend[at : at + 2] for at in range(0, len(legend), 2)]
    head = ["The same as timelines:", *("".join(word.ljust(48) for word in pair).rstrip() for pair in pairs)]
    body = []
    for played in all_played:
        body += ["", timeline(played, seconds)]
    return "\n".join([*head, *body, scale(seconds)])


def broken(all_played):
    return [f"NOT AS PROMISED, {played.position.who}: {promise}" for played in all_played for promise in played.broken]


def as_json(all_played):
    return {
        "as_promised": not broken(all_played),
        "block_size": BLOCK,
        "positions": [
            {
                "who": played.position.who,
                "options": played.position.options,
                "holders": [holder_as_json(played, outcome) for outcome in played.outcomes],
                "damaged_blocks": played.damaged,
                "reused_bytes": played.reused,
                "broken_promises": played.broken,
            }
            for played in all_played
        ],
    }


def holder_as_json(played, outcome):
    return {
        "holder": outcome.kind.name,
        "pin_errno": outcome.pin_error,
        "truncate_errno": outcome.error,
        "asked": outcome.asked,
        "answered": outcome.answered,
        "released": outcome.until,
        "kept_seconds": kept_for(played, outcome),
        "told": [{"when": when, "event": event, "action": action} for when, event, action in outcome.told],
        "foreign": outcome.foreign,
    }
