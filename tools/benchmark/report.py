"""From samples to Markdown and JSON."""

import statistics

COLUMNS = ["daxfs", "null", "passthrough_ll", "tmpfs"]
UNIT_NAMES = {"kops": "k/s", "GB/s": "GB/s", "us": "µs"}


class Results:
    """Samples by (placement, case key, target), one per repetition."""

    def __init__(self):
        self.samples = {}
        self.failures = []

    def add(self, placement, key, target, sample):
        self.samples.setdefault((placement, key, target), []).append(sample)

    def values(self, placement, case, target, key=None):
        return [case.value(sample) for sample in self.samples.get((placement, key or case.key, target), [])]

    def ratio(self, placement, case, goal):
        """The median of the repetitions' ratios: each compares neighbours in time. None if one side is missing."""
        ours = self.values(placement, case, goal.target)
        peers = self.values(placement, case, goal.peer, goal.peer_case)
        ratios = [a / b for a, b in zip(ours, peers) if b > 0]
        return statistics.median(ratios) if ratios else None


def spread(values):
    """Half the range, relative to the median."""
    middle = statistics.median(values)
    return (max(values) - min(values)) / 2 / middle if middle > 0 else 0.0


def number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def cell(values):
    return f"{number(statistics.median(values))} ±{spread(values) * 100:.0f}%" if values else "–"


def verdict(case, goal, ratio):
    if ratio is None:
        return "–"

    def reached(limit):
        return ratio <= limit if case.costs else ratio >= limit

    if goal.aim is not None and reached(goal.aim):
        return "aim reached"
    if goal.floor is not None:
        return ("ok" if goal.aim is None else "above the floor") if reached(goal.floor) else "**below the floor**"
    return "below the aim" if goal.aim is not None else ""


def limit(case, value):
    return "" if value is None else f"{'≤' if case.costs else '≥'} {value:.2f}"


def row(*cells):
    return "| " + " | ".join(cells) + " |"


def table(header):
    return [row(*header), "|" + "---|" * len(header)]


def ratio_cells(results, placement, case, goal):
    ratio = results.ratio(placement, case, goal)
    return [
        "–" if ratio is None else f"{ratio:.2f} × {goal.peer}",
        limit(case, goal.floor),
        limit(case, goal.aim),
        verdict(case, goal, ratio),
    ]


def rates(results, placement, cases):
    lines = table(["what", "jobs", *COLUMNS, "unit", "p99 µs daxfs / peer", "daxfs is", "floor", "aim", "result"])
    for case in cases:
        goal = case.goals[0]
        latencies = [results.samples.get((placement, case.key, name), []) for name in (goal.target, goal.peer)]
        tails = " / ".join(
            number(statistics.median([s["p99_us"] for s in samples])) if samples else "–" for samples in latencies
        )
        cells = [cell(results.values(placement, case, name)) for name in COLUMNS]
        lines.append(
            row(
                case.what,
                str(case.jobs),
                *cells,
                UNIT_NAMES[case.unit],
                tails,
                *ratio_cells(results, placement, case, goal),
            )
        )
    return lines + ceilings(results, placement, cases)


def ceilings(results, placement, cases):
    """Ratios beside the one that a case is judged by."""
    lines = []
    for case in cases:
        found = [(goal, results.ratio(placement, case, goal)) for goal in case.goals[1:]]
        parts = [f"{goal.target} is {ratio:.2f} × {goal.peer}" for goal, ratio in found if ratio is not None]
        if parts:
            lines.append(f"- {case.what}: {', '.join(parts)}")
    return ["", *lines] if lines else []


def beside(name):
    """'daxfs, 10 pins held beside' for the target 'daxfs+10'."""
    base, plus, pins = name.partition("+")
    return f"{base}, {int(pins):,} pins held" if plus else base


def costs(results, placement, cases):
    lines = table(["what", "filesystem", "median µs", "p99 µs", "cost ratios (floor, aim: result)"])
    for case in cases:
        for target in case.targets:
            samples = results.samples.get((placement, case.key, target))
            if not samples:
                continue
            ratios = []
            for goal in case.goals:
                ratio = results.ratio(placement, case, goal)
                if goal.target != target or ratio is None:
                    continue
                peer = beside(goal.peer) + (f", {goal.peer_words}" if goal.peer_words else "")
                limits = [
                    f"{name} {limit(case, value)}"
                    for name, value in (("floor", goal.floor), ("aim", goal.aim))
                    if value is not None
                ]
                ratios.append(f"{ratio:.2f} × {peer} ({', '.join(limits)}: {verdict(case, goal, ratio)})")
            tail = number(statistics.median([sample["p99_us"] for sample in samples]))
            lines.append(
                row(case.what, beside(target), cell(results.values(placement, case, target)), tail, "; ".join(ratios))
            )
    return lines


PLACEMENTS = {
    "pinned": "Pinned: client and servers on one CPU (2 jobs: on two)",
    "unpinned": "Unpinned: the scheduler places client and servers",
}


def markdown(results, cases, machine, options, placements):
    lines = ["# daxfs benchmark", ""]
    lines += [f"- {name}: {text}" for name, text in {**machine, **options}.items()]
    lines += [
        "",
        "Medians of the repetitions ± half their range. Ratios are medians of each repetition's ratio. How to read this: docs/benchmarking.md.",
    ]
    for placement in placements:
        lines += ["", f"## {PLACEMENTS[placement]}", ""]
        of_rates = [case for case in cases if not case.costs]
        of_costs = [case for case in cases if case.costs]
        if of_rates:
            lines += rates(results, placement, of_rates) + [""]
        if of_costs:
            lines += costs(results, placement, of_costs)
    if results.failures:
        lines += ["", "## Broken", ""] + [f"- {failure}" for failure in results.failures]
    return "\n".join(lines) + "\n"


def as_json(results, cases, machine, options, placements):
    measured, ratios = [], []
    for placement in placements:
        for case in cases:
            for target in case.targets:
                samples = results.samples.get((placement, case.key, target))
                if samples:
                    values = results.values(placement, case, target)
                    measured.append(
                        {
                            "placement": placement,
                            "case": case.key,
                            "target": target,
                            "unit": case.unit,
                            "median": statistics.median(values),
                            "spread": spread(values),
                            "values": values,
                            "p50_us": [sample["p50_us"] for sample in samples],
                            "p99_us": [sample["p99_us"] for sample in samples],
                            "ops_per_s": [sample["ops_per_s"] for sample in samples],
                        }
                    )
            for goal in case.goals:
                ratio = results.ratio(placement, case, goal)
                if ratio is not None:
                    ratios.append(
                        {
                            "placement": placement,
                            "case": case.key,
                            "target": goal.target,
                            "peer": goal.peer,
                            "peer_case": goal.peer_case or case.key,
                            "ratio": ratio,
                            "less_is_better": case.costs,
                            "floor": goal.floor,
                            "aim": goal.aim,
                        }
                    )
    return {"machine": machine, "options": options, "results": measured, "ratios": ratios, "failures": results.failures}
