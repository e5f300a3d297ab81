// SPDX-License-Identifier: Apache-2.0
// The pool as cells on a canvas. Each cell is a column that fills from below: pinned, grace, limbo, files; the rest is free.
import { element, number, plural, process, range, say, size } from "./page_format.js";
import { prepare } from "./page_colours.js";

const MOST_CELLS = 16384;
const PITCH = 7; // the size of a cell that is asked for, its gap included
const LEGEND = [["free", "free"], ["file", "files"], ["pinned", "pinned"], ["limbo", "limbo"], ["grace", "grace"]];

/** The parts of a cell in blocks. They never overlap: what is pinned or in limbo is not shown as a file's, too. */
export function parts([used, pinned, limbo, grace], blocks) {
  const inFiles = Math.max(0, Math.min(used, blocks - limbo));
  const ended = Math.min(grace, inFiles);
  const held = Math.min(pinned, inFiles - ended);
  return { pinned: held, grace: ended, limbo, file: inFiles - held - ended, free: Math.max(0, blocks - limbo - inFiles) };
}

export class BlockMap {
  constructor(canvas, palette, select) {
    Object.assign(this, { canvas, palette, cells: [], blocks: 0, cellBlocks: 1, blockSize: 4096, selected: 0, cursor: -1 });
    this.says = document.getElementById("map_says");
    this.scale = document.getElementById("map_scale");
    this.legend(document.getElementById("legend"));
    canvas.addEventListener("pointermove", (event) => this.point(this.cellAt(event)));
    canvas.addEventListener("pointerleave", () => this.point(-1));
    canvas.addEventListener("blur", () => this.point(-1));
    canvas.addEventListener("click", (event) => {
      const cell = this.cells[this.cellAt(event)];
      if (cell?.[4]) select(cell[4]);
    });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns, ArrowUp: -this.columns }[event.key];
      const cell = this.cells[this.cursor];
      if (step) this.point(Math.min(this.cells.length - 1, Math.max(0, this.cursor < 0 ? 0 : this.cursor + step)));
      else if (event.key === "Enter" && cell?.[4]) select(cell[4]);
      else return;
      event.preventDefault();
    });
  }

  legend(list) {
    this.amounts = {};
    for (const [key, word] of LEGEND) {
      const item = element("li");
      const swatches = element("span", "swatches");
      for (const style of key === "pinned" ? ["0", "1", "2"] : [key]) {
        const swatch = element("i", "swatch");
        if (key === "pinned") swatch.dataset.holder = style;
        else swatch.dataset.kind = style;
        swatches.append(swatch);
      }
      this.amounts[key] = element("b", "", "–");
      item.append(swatches, element("span", "", word), this.amounts[key]);
      list.append(item);
    }
  }

  /** How many cells fit. */
  wanted() {
    const { clientWidth, clientHeight } = this.canvas;
    return Math.max(64, Math.min(MOST_CELLS, Math.floor(clientWidth / PITCH) * Math.floor(clientHeight / PITCH)));
  }

  show({ map, status, holders, waiting }) {
    this.blockSize = status.block_size;
    this.names = new Map([...holders, ...waiting].map((who) => [who.pid, who.command]));
    const seen = JSON.stringify(map.cells) + [...this.palette.ofPid];
    if (seen === this.seen && map.blocks === this.blocks) {
      this.tell();
      return;
    }
    Object.assign(this, { seen, cells: map.cells, blocks: map.blocks, cellBlocks: map.cell_blocks });
    const sum = { pinned: 0, grace: 0, limbo: 0, file: 0, free: 0 };
    this.cells.forEach((cell, index) => {
      const of = parts(cell, this.blocksOf(index));
      for (const key of Object.keys(sum)) sum[key] += of[key];
    });
    for (const [key, node] of Object.entries(this.amounts)) say(node, size(sum[key] * this.blockSize));
    say(this.scale, `${number(this.blocks)} of ${size(this.blockSize)} · a cell is ${size(this.cellBlocks * this.blockSize)}`);
    this.tell();
    this.redraw();
  }

  blocksOf(index) {
    return Math.min(this.cellBlocks, this.blocks - index * this.cellBlocks);
  }

  select(pid) {
    this.selected = pid;
    this.redraw();
  }

  /** The largest cells with which all find room. */
  arrange(width, height) {
    let pitch = Math.max(2, Math.floor(Math.sqrt((width * height) / Math.max(1, this.cells.length))) + 1);
    while (pitch > 2 && Math.floor(width / pitch) * Math.floor(height / pitch) < this.cells.length) pitch -= 1;
    this.pitch = pitch;
    this.columns = Math.max(1, Math.floor(width / pitch));
  }

  cellAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left) / this.pitch);
    const index = Math.floor((event.clientY - box.top) / this.pitch) * this.columns + column;
    return column < 0 || column >= this.columns || index >= this.cells.length ? -1 : index;
  }

  point(index) {
    if (index === this.cursor) return;
    this.cursor = index;
    this.tell();
    this.redraw();
  }

  /** What the cell under the pointer is. */
  tell() {
    const cell = this.cells[this.cursor];
    if (!cell) {
      say(this.says, "Point at a cell, or move there with the arrow keys.");
      return;
    }
    const blocks = this.blocksOf(this.cursor);
    const of = parts(cell, blocks);
    const counts = [["pinned", "pinned"], ["grace", "in grace"], ["limbo", "in limbo"], ["file", "of files"], ["free", "free"]]
      .filter(([key]) => of[key] > 0).map(([key, word]) => `${number(of[key])} ${word}`);
    const begin = this.cursor * this.cellBlocks * this.blockSize;
    const who = cell[4] ? ` · mostly by ${process(this.names?.get(cell[4]), cell[4])}` : "";
    say(this.says, `${range(begin, blocks * this.blockSize)} of the pool · ${plural(blocks, "block")}: ${counts.join(", ")}${who}`);
  }

  redraw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
    });
  }

  draw() {
    const { context, width, height } = prepare(this.canvas);
    this.arrange(width, height);
    const { pitch, columns, palette } = this;
    const gap = pitch > 3 ? 1 : 0;
    const side = pitch - gap;
    const free = palette.get("map-free");
    this.cells.forEach((cell, index) => {
      const x = (index % columns) * pitch;
      const y = Math.floor(index / columns) * pitch;
      context.globalAlpha = this.selected && cell[4] !== this.selected ? 0.22 : 1;
      context.fillStyle = free;
      context.fillRect(x, y, side, side);
      const blocks = this.blocksOf(index);
      const of = parts(cell, blocks);
      let bottom = y + side;
      const fill = (share, style) => {
        if (share <= 0) return 0;
        const tall = Math.min(bottom - y, Math.max(Math.min(2, side), Math.round((side * share) / blocks)));
        context.fillStyle = style;
        context.fillRect(x, bottom - tall, side, tall);
        bottom -= tall;
        return tall;
      };
      if (of.pinned) {
        const { colour, dotted } = palette.holder(cell[4]);
        const tall = fill(of.pinned, colour);
        if (dotted && side >= 4 && tall >= 3) {
          context.fillStyle = palette.get("map-dot");
          context.fillRect(x + Math.floor(side / 2) - 1, bottom + Math.floor(tall / 2) - 1, 2, 2);
        }
      }
      if (of.grace) this.hatch(context, x, side, bottom, fill(of.grace, palette.get("grace")));
      fill(of.limbo, palette.get("limbo"));
      fill(of.file, palette.get("map-file"));
    });
    context.globalAlpha = 1;
    if (this.cursor >= 0 && this.cursor < this.cells.length) {
      context.strokeStyle = palette.get("text");
      context.lineWidth = 2;
      context.strokeRect((this.cursor % columns) * pitch - 1, Math.floor(this.cursor / columns) * pitch - 1, side + 2, side + 2);
    }
  }

  /** Grace has a stroke as well as a colour. */
  hatch(context, x, side, bottom, tall) {
    if (side < 4 || tall < 3) return;
    context.strokeStyle = this.palette.get("map-dot");
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(x + 0.5, bottom - 0.5);
    context.lineTo(x + Math.min(side, tall) - 0.5, bottom - Math.min(side, tall) + 0.5);
    context.stroke();
  }
}

