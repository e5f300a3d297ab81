// SPDX-License-Identifier: Apache-2.0
// Colours: the sheet's, for canvases, and one for each holder, which it keeps for as long as it holds.

const HOLDER_STYLES = 6; // three colours, solid and dotted; page.css has them as --holder-0 to --holder-2
const STYLES = [...Array(HOLDER_STYLES).keys()];

export class Palette {
  constructor() {
    this.ofPid = new Map();
    this.gone = new Map(); // those that left first come first
    this.read();
  }

  /** The variables of the sheet, which differ in light and dark. */
  read() {
    const style = getComputedStyle(document.documentElement);
    this.colour = (name) => style.getPropertyValue(`--${name}`).trim();
    this.cache = new Map();
  }

  get(name) {
    let found = this.cache.get(name);
    if (found === undefined) {
      found = this.colour(name);
      this.cache.set(name, found);
    }
    return found;
  }

  /**
   * Holders keep their style; new ones get a free one, those with the most bytes first. The rest share one. The style of a
   * holder that has gone waits for it, until somebody needs it: many unpin and pin again.
   */
  assign(holders) {
    const alive = new Set(holders.map((holder) => holder.pid));
    for (const [pid, style] of this.ofPid) {
      if (alive.has(pid)) continue;
      this.ofPid.delete(pid);
      this.gone.set(pid, style);
    }
    const fresh = holders.filter((holder) => holder.bytes > 0 && !this.ofPid.has(holder.pid))
      .sort((a, b) => b.bytes - a.bytes || a.pid - b.pid).slice(0, HOLDER_STYLES);
    for (const { pid } of fresh.filter((holder) => this.gone.has(holder.pid))) this.take(pid, this.gone.get(pid));
    for (const { pid } of fresh.filter((holder) => !this.ofPid.has(holder.pid))) {
      const taken = new Set([...this.ofPid.values(), ...this.gone.values()]);
      const style = STYLES.find((one) => !taken.has(one)) ?? this.gone.values().next().value;
      if (style === undefined) return;
      this.take(pid, style);
    }
  }

  take(pid, style) {
    for (const [other, ofOther] of this.gone) if (ofOther === style) this.gone.delete(other);
    this.ofPid.set(pid, style);
  }

  /** { colour, dotted, key } of a holder. */
  holder(pid) {
    const style = this.ofPid.get(pid);
    if (style === undefined) return { colour: this.get("holder-rest"), dotted: false, key: "rest" };
    return { colour: this.get(`holder-${style % 3}`), dotted: style >= 3, key: String(style) };
  }

  /** Marks an element with the style of a holder; page.css knows [data-holder]. */
  mark(node, pid) {
    const { key } = this.holder(pid);
    if (node.dataset.holder !== key) node.dataset.holder = key;
  }
}

/** A canvas as large as its box in the device's own pixels: returns its context, and its size in the sheet's. */
export function prepare(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}
