// SPDX-License-Identifier: Apache-2.0
// Small charts of the last five minutes. They keep the answers of the server; nothing is asked for them.
import { element, number, plural, say, size, span } from "./page_format.js";
import { prepare, Palette } from "./page_colours.js";

const SECONDS = 300;
const MOST = 2000;
const RATES = ["refused", "deferred", "resumed"];
const GROUP = { refused: "refused", deferred: "limbo", resumed: "waiting" }; // as on the timeline

export class Gauges {
  constructor(box) {
    this.palette = new Palette();
    this.samples = [];
    this.gauges = [
      this.gauge(box, "free", "Free", [["free", "free"]]),
      this.gauge(box, "pinned", "Pinned", [["pinned", "holder-0"]]),
      this.gauge(box, "limbo", "In limbo", [["limbo", "limbo"]]),
      this.gauge(box, "waiting", "Waiting", [["waiting", "wanted"]]),
      this.gauge(box, "rates", "Answers a second", RATES.map((rate) => [rate, `event-${GROUP[rate]}`])),
    ];
  }

  gauge(box, id, title, lines) {
    const node = element("figure", "gauge");
    node.dataset.gauge = id;
    const canvas = element("canvas");
    canvas.setAttribute("aria-hidden", "true");
    const made = { id, canvas, lines, value: element("b", "value", "–"), note: element("span", "note quiet", "\u00a0"), rates: [] };
    const caption = element("figcaption");
    caption.append(element("span", "title", title));
    if (id === "rates") caption.append(this.legend(made));
    else caption.append(made.value, made.note);
    const axis = element("div", "axis");
    axis.append(element("span", "", "5 min ago"), element("span", "", "now"));
    node.append(caption, canvas, axis);
    box.append(node);
    return made;
  }

  /** Several lines have one chart: a number for each. */
  legend(made) {
    const box = element("span", "rates");
    for (const [rate] of made.lines) {
      const one = element("span");
      one.dataset.group = GROUP[rate];
      const value = element("b", "", "0");
      one.append(element("i", "swatch"), value, ` ${rate}`);
      made.rates.push(value);
      box.append(one);
    }
    return box;
  }

  show({ time, status, limbo, events }) {
    const last = this.samples.at(-1);
    if (last && time < last.time) this.samples = []; // another daemon, or another clock
    const sample = { time, free: status.free, pinned: status.pins.bytes, limbo: status.limbo, waiting: status.waiting, counters: events };
    // Rates over at least a second, so that one event is not "five a second".
    const base = this.samples.findLast((one) => one.time <= time - 1) ?? this.samples[0];
    for (const rate of RATES) {
      const step = base ? (events[rate] ?? 0) - (base.counters[rate] ?? 0) : 0;
      sample[rate] = base && time > base.time ? Math.max(0, step) / Math.max(1, time - base.time) : 0;
    }
    this.samples.push(sample);
    while (this.samples.length > MOST || this.samples[0].time < time - SECONDS - 5) this.samples.shift();
    this.total = status.total;
    const pins = status.pins.long + status.pins.short;
    const texts = {
      free: [size(status.free), `of ${size(status.total)}`],
      pinned: [size(status.pins.bytes), plural(pins, "pin")],
      limbo: [size(status.limbo), limbo.since ? `oldest ${span(time - limbo.since)}` : "nothing"],
      waiting: [number(status.waiting), `request${status.waiting === 1 ? "" : "s"}`],
    };
    for (const { id, value, note, rates } of this.gauges) {
      rates.forEach((node, index) => say(node, short(sample[RATES[index]])));
      if (!texts[id]) continue;
      say(value, texts[id][0]);
      say(note, texts[id][1]);
    }
    this.redraw();
  }

  redraw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.palette.read();
      for (const gauge of this.gauges) this.draw(gauge);
    });
  }

  draw({ id, canvas, lines }) {
    const { context, width, height } = prepare(canvas);
    const base = height - 1;
    context.fillStyle = this.palette.get("line");
    context.fillRect(0, base, width, 1);
    if (!this.samples.length) return;
    const now = this.samples.at(-1).time;
    const top = id === "free" ? this.total : Math.max(...this.samples.flatMap((one) => lines.map(([key]) => one[key])), id === "rates" ? 1 : id === "waiting" ? 2 : 1);
    const x = (time) => width - ((now - time) / SECONDS) * width;
    const y = (value) => base - 1 - (value / top) * (height - 4);
    for (const [key, colour] of lines) {
      context.beginPath();
      this.samples.forEach((one, index) => {
        if (index) context.lineTo(x(one.time), y(this.samples[index - 1][key])); // steps: nothing is known between two answers
        context.lineTo(x(one.time), y(one[key]));
      });
      context.strokeStyle = this.palette.get(colour);
      context.lineWidth = 1.5;
      context.lineJoin = "round";
      context.stroke();
      if (lines.length === 1) {
        context.lineTo(x(now), base);
        context.lineTo(x(this.samples[0].time), base);
        context.globalAlpha = 0.16;
        context.fillStyle = this.palette.get(colour);
        context.fill();
        context.globalAlpha = 1;
      }
    }
  }
}

const short = (rate) => (rate === 0 ? "0" : rate < 10 ? rate.toFixed(1) : number(rate));
