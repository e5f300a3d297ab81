"""The timelines of all positions as one SVG file that needs nothing else."""

import math
from xml.sax.saxutils import escape

import outcomes
from actors import duration

# Okabe and Ito's colours, which colour-blind readers can tell apart; lightness differs, too.
COLOURS = {
    outcomes.HOLDS: "#56b4e9",
    outcomes.WANTED: "#0072b2",
    outcomes.REFUSED: "#e69f00",
    outcomes.LIMBO: "#009e73",
    outcomes.FOREIGN: "#d55e00",
}
INK, FAINT, BLOCKED = "#222222", "#dddddd", "#000000"

COLUMNS = 2
PLOT_LEFT, PLOT_WIDTH, RESULT_WIDTH = 128, 330, 142
PANEL_WIDTH = PLOT_LEFT + PLOT_WIDTH + RESULT_WIDTH + 20
LANE, LANES_TOP, AXIS = 28, 46, 40
MARGIN, TOP = 16, 108


class Drawing:
    def __init__(self, title):
        self.title = title
        self.parts = []

    def text(self, x, y, words, size=12, **style):
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}"{attributes(style)}>{escape(words)}</text>')

    def bar(self, left, right, y, height, fill):
        width = max(1.5, right - left)
        self.parts.append(f'<rect x="{left:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" fill="{fill}"/>')

    def stroke(self, x1, y1, x2, y2, colour=INK, width=1.0):
        self.parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'
        )

    def ok(self, x, y):
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#ffffff" stroke="{INK}" stroke-width="1.5"/>')

    def refused(self, x, y):
        self.stroke(x - 4, y - 4, x + 4, y + 4, width=2)
        self.stroke(x - 4, y + 4, x + 4, y - 4, width=2)

    def told(self, x, y):
        """A flag that points at the moment."""
        self.parts.append(f'<path d="M{x:.1f} {y:.1f} l-4.5 -8 h9 z" fill="#cc79a7" stroke="{INK}" stroke-width="0.8"/>')

    def svg(self, width, height):
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
            f'font-family="DejaVu Sans, Verdana, Helvetica, Arial, sans-serif" fill="{INK}" role="img">'
        )
        title = f"<title>{escape(self.title)}</title>"
        ground = f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
        return "\n".join([head, title, ground, *self.parts, "</svg>"]) + "\n"


def attributes(style):
    return "".join(f' {name.replace("_", "-")}="{value}"' for name, value in style.items())


def share(value, first, last):
    """Where a value lies between two others on a logarithmic scale: 0 to 1."""
    return math.log(value / first) / math.log(last / first)


def draw(all_played):
    drawing = Drawing("daxfs: what each position does with a truncate that meets pins")
    rows = -(-len(all_played) // COLUMNS)
    lanes = max(len(played.outcomes) for played in all_played)
    panel_height = LANES_TOP + lanes * LANE + AXIS
    width = 2 * MARGIN + COLUMNS * PANEL_WIDTH
    seconds = outcomes.span_of(all_played)
    legend(drawing)
    for number, played in enumerate(all_played):
        left = MARGIN + number % COLUMNS * PANEL_WIDTH
        panel(drawing, played, left, TOP + number // COLUMNS * panel_height, seconds)
    return drawing.svg(width, TOP + rows * panel_height + MARGIN)


def legend(drawing):
    drawing.text(MARGIN, 28, "Five holders of pinned blocks, and five processes that truncate their files", 17, font_weight="bold")
    x = MARGIN
    for state, meaning in outcomes.MEANINGS.items():
        drawing.bar(x, x + 22, 44, 11, COLOURS[state])
        drawing.text(x + 28, 54, meaning, 11.5)
        x += 240
    y = 78
    drawing.bar(MARGIN, MARGIN + 22, y - 6, 4, BLOCKED)
    drawing.text(MARGIN + 28, y, "the truncating process is blocked", 11.5)
    drawing.ok(MARGIN + 251, y - 4)
    drawing.text(MARGIN + 268, y, "its truncate succeeds", 11.5)
    drawing.refused(MARGIN + 491, y - 4)
    drawing.text(MARGIN + 508, y, "its truncate fails", 11.5)
    drawing.told(MARGIN + 731, y)
    drawing.text(MARGIN + 748, y, "the holder is told", 11.5)


def panel(drawing, played, left, top, seconds):
    at = lambda when: left + PLOT_LEFT + when / seconds * PLOT_WIDTH
    drawing.text(left, top + 14, f"{played.position.who}: {played.position.says}", 12.5, font_weight="bold")
    drawing.text(left, top + 31, played.position.options, 11, font_family="DejaVu Sans Mono, monospace")
    bottom = top + LANES_TOP + len(played.outcomes) * LANE
    for second in range(int(seconds) + 1):
        drawing.stroke(at(second), top + LANES_TOP - 6, at(second), bottom, FAINT)
        drawing.text(at(second), bottom + 14, str(second), 11, text_anchor="middle")
    drawing.stroke(at(0), bottom, at(seconds), bottom)
    drawing.text(left + PLOT_LEFT + PLOT_WIDTH / 2, bottom + 28, "seconds", 11, text_anchor="middle")
    for number, outcome in enumerate(played.outcomes):
        lane(drawing, played, outcome, top + LANES_TOP + number * LANE, left, at)


def lane(drawing, played, outcome, y, left, at):
    drawing.text(left + PLOT_LEFT - 8, y + 15, outcome.kind.name, 11.5, text_anchor="end")
    for begin, end, state in outcomes.states(outcome, played.position.corrupts):
        drawing.bar(at(begin), at(end), y + 4, 9, COLOURS[state])
    if outcome.pin_error:
        drawing.text(at(0) + 3, y + 12, "no pin", 10, font_style="italic")
    drawing.bar(at(outcome.asked), at(outcome.answered), y + 16, 4, BLOCKED)
    (drawing.refused if outcome.error else drawing.ok)(at(outcome.answered), y + 18)
    for when, _, _ in outcome.told:
        drawing.told(at(when), y + 5)
    pin = f"pin: {outcome.pin_error}" if outcome.pin_error else f"{outcome.error or 'ok'}, {duration(outcome.blocked)}"
    drawing.text(left + PLOT_LEFT + PLOT_WIDTH + 8, y + 12, pin, 11)
    if outcome.foreign:
        foreign = f"{outcome.foreign:,} foreign blocks"
        drawing.text(left + PLOT_LEFT + PLOT_WIDTH + 8, y + 24, foreign, 10, fill=COLOURS[outcomes.FOREIGN])
