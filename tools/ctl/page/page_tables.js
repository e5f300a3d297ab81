// SPDX-License-Identifier: Apache-2.0
// Tables whose rows are kept from one answer to the next: a cell is touched only where its text changes.
import { element, name, number, range, say, size, span } from "./page_format.js";

const MOST_ROWS = 200;

class Table {
  /** columns: { key, title, text(row), value(row), number, ticks }. A column whose text goes with the time `ticks`. */
  constructor(table, columns, options) {
    Object.assign(this, { table, columns, ...options, rows: [], shown: new Map(), selected: 0 });
    this.head = element("tr");
    for (const column of columns) this.head.append(this.heading(column));
    const head = element("thead");
    head.append(this.head);
    this.body = element("tbody");
    this.more = element("caption", "quiet");
    table.append(this.more, head, this.body);
    this.sortBy(columns.find((column) => column.key === options.sort), options.descending);
  }

  heading(column) {
    const cell = element("th", column.number ? "number" : "");
    cell.scope = "col";
    cell.dataset.key = column.key;
    const button = element("button", "", column.title);
    button.type = "button";
    button.addEventListener("click", () => {
      // A second press turns the order around; numbers begin with the largest.
      this.sortBy(column, column === this.sorted ? !this.descending : Boolean(column.number));
      this.arrange();
    });
    cell.append(button);
    return cell;
  }

  sortBy(column, descending) {
    Object.assign(this, { sorted: column, descending });
    [...this.head.children].forEach((cell, index) => {
      const order = this.columns[index] !== column ? "none" : descending ? "descending" : "ascending";
      cell.setAttribute("aria-sort", order);
    });
  }

  show(rows) {
    this.rows = rows;
    say(this.count, number(rows.length));
    this.nothing.hidden = rows.length > 0;
    this.table.hidden = rows.length === 0;
    this.arrange();
  }

  arrange() {
    const { value } = this.sorted;
    const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
    const sign = this.descending ? -1 : 1;
    const sorted = [...this.rows].sort((a, b) => sign * compare(value(a), value(b)) || compare(this.id(a), this.id(b)));
    const shown = sorted.slice(0, MOST_ROWS);
    const before = this.shown;
    this.shown = new Map();
    shown.forEach((row, index) => {
      const id = this.id(row);
      const made = before.get(id) ?? this.make(row);
      before.delete(id);
      made.row = row;
      this.shown.set(id, made);
      this.columns.forEach((column, at) => say(made.cells[at], column.text(row)));
      this.mark(made, row);
      if (this.body.children[index] !== made.node) this.body.insertBefore(made.node, this.body.children[index] ?? null);
    });
    for (const { node } of before.values()) node.remove();
    const hidden = this.rows.length - shown.length;
    say(this.more, hidden > 0 ? `the first ${MOST_ROWS} in this order; ${number(hidden)} more` : "");
    this.select(this.selected);
  }

  make(row) {
    const node = element("tr");
    const made = { node, row };
    made.cells = this.columns.map((column, at) => {
      const cell = element(at ? "td" : "th", column.number ? "number" : column.wide ? "wide" : "");
      if (at === 0) cell.scope = "row";
      node.append(cell);
      if (at > 0) return cell;
      const button = element("button", "who");
      button.type = "button";
      button.setAttribute("aria-pressed", "false");
      const text = element("bdi");
      made.swatch = element("i", "swatch");
      button.append(made.swatch, text);
      cell.append(button);
      return text;
    });
    node.addEventListener("click", () => {
      node.querySelector("button").focus({ preventScroll: true }); // and not all of the table
      this.choose(made.row.pid);
    });
    return made;
  }

  mark(made, row) {
    this.palette.mark(made.swatch, row.pid);
    if (made.cells.wide !== row.path) {
      made.cells.wide = row.path;
      made.node.title = name(row.path);
    }
    made.node.classList.toggle("alarm", Boolean(row.breaking));
  }

  select(pid) {
    this.selected = pid;
    for (const { node, row } of this.shown.values()) {
      node.classList.toggle("chosen", pid !== 0 && row.pid === pid);
      node.classList.toggle("dim", pid !== 0 && row.pid !== pid);
      node.querySelector("button").setAttribute("aria-pressed", String(pid !== 0 && row.pid === pid));
    }
  }

  tick() {
    this.columns.forEach((column, at) => {
      if (column.ticks) for (const { cells, row } of this.shown.values()) say(cells[at], column.text(row));
    });
  }
}

const at = (id) => document.getElementById(id);
const some = (count) => (count ? number(count) : "");

export class Holders extends Table {
  constructor(table, palette, choose, now) {
    super(table, [
      { key: "command", title: "holder", text: (row) => name(row.command) || "unknown", value: (row) => name(row.command) },
      { key: "pid", title: "process", number: true, text: (row) => String(row.pid), value: (row) => row.pid },
      { key: "bytes", title: "pinned", number: true, text: (row) => size(row.bytes), value: (row) => row.bytes },
      { key: "pins", title: "pins", number: true, value: (row) => row.long + row.short,
        text: (row) => (row.short ? `${number(row.long)} + ${number(row.short)} short` : some(row.long)) },
      { key: "leases", title: "leases", number: true, value: (row) => row.leases,
        text: (row) => (row.breaking ? `${number(row.breaking)} breaking` : some(row.leases)) },
      { key: "holds_up", title: "holds up", number: true, text: (row) => some(row.holds_up), value: (row) => row.holds_up },
      { key: "grace", title: "grace", number: true, text: (row) => some(row.grace), value: (row) => row.grace },
      { key: "since", title: "since", number: true, ticks: true, value: (row) => (row.since ? -row.since : -Infinity),
        text: (row) => (row.since ? span(now() - row.since) : "") },
      { key: "path", title: "file", wide: true, value: (row) => name(row.path),
        text: (row) => name(row.path) + (row.files > 1 ? ` and ${number(row.files - 1)} more` : "") },
    ], { palette, choose, sort: "bytes", descending: true, id: (row) => row.pid, count: at("holders_count"), nothing: at("no_holders") });
  }

  mark(made, row) {
    super.mark(made, row);
    if (row.grace && row.grace === row.long + row.short) made.swatch.dataset.holder = "grace";
    made.node.classList.toggle("holds-up", row.holds_up > 0);
  }
}

export class Leases extends Table {
  constructor(table, palette, choose, now) {
    const left = (row) => (row.deadline ? `told, ${span(row.deadline - now())} left` : "told");
    super(table, [
      { key: "command", title: "holder", text: (row) => `${name(row.command) || "unknown"} (${row.pid})`, value: (row) => name(row.command) },
      { key: "state", title: "state", ticks: true, value: (row) => (row.breaking ? 0 : 1),
        text: (row) => (row.breaking ? left(row) : row.exclusive ? "exclusive" : "shared") },
      { key: "path", title: "file", wide: true, text: (row) => name(row.path) || `inode ${row.inode}`, value: (row) => name(row.path) },
      { key: "offset", title: "range", number: true, text: (row) => range(row.offset, row.length), value: (row) => row.offset },
    ], { palette, choose, sort: "state", descending: false, id: (row) => row.id, count: at("leases_count"), nothing: at("no_leases") });
  }
}
