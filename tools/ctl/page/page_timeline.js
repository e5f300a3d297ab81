// SPDX-License-Identifier: Apache-2.0
// What happens at the gate: a strip of the last minute, and the last 200 events in words.
import { clock, element, name, number, process, range, say } from "./page_format.js";
import { prepare } from "./page_colours.js";

const SHOWN = 200;
const STRIP_SECONDS = 60;
const AXIS = 16; // the height of its labels
const DRAW_EVERY_MS = 200;
// A group is one filter and one row of the strip.
const GROUPS = [
  ["pins", ["pin", "unpin"]],
  ["leases", ["lease", "unlease", "break"]],
  ["refused", ["refused"]],
  ["waiting", ["waiting", "resumed", "timeout", "interrupted"]],
  ["limbo", ["deferred", "freed"]],
  ["policy", ["policy", "quarantine"]],
];
const GROUP_OF = new Map(GROUPS.flatMap(([group, kinds]) => kinds.map((kind) => [kind, group])));
const VERBS = {
  pin: "pinned", unpin: "unpinned", lease: "took a lease on", unlease: "gave up a lease on", break: "was told: give way on",
  refused: "was refused", deferred: "went ahead; pinned blocks to limbo:", waiting: "waits for", resumed: "went ahead on",
  timeout: "has waited long enough for", interrupted: "gave up", freed: "unpinned; free again: pool",
  policy: "switched the policy to", quarantine: "still holds pins of a former daemon on",
};

export class Timeline {
  constructor(commands, palette, now) {
    Object.assign(this, { commands, palette, now, sequence: 0, paused: false, held: 0, total: 0, selected: 0 });
    const at = (id) => document.getElementById(id);
    this.list = at("timeline");
    this.nothing = at("no_events");
    this.button = at("pause");
    this.lanes = at("lanes");
    // Kept for each group, so that a flood of pins does not wash away the one refusal.
    this.kept = new Map(GROUPS.map(([group]) => [group, []]));
    this.off = new Set();
    this.marks = [];
    this.unnamed = new Map();
    this.counters = new Map();
    for (const [group] of GROUPS) this.filter(at("filter"), group);
    this.button.addEventListener("click", () => this.pause());
    this.allowed(true);
  }

  filter(box, group) {
    const button = element("button", "kind");
    button.type = "button";
    button.dataset.group = group;
    button.setAttribute("aria-pressed", "true");
    const count = element("span", "quiet", "0");
    button.append(element("i", "swatch"), element("span", "", group), count);
    button.addEventListener("click", () => {
      if (!this.off.delete(group)) this.off.add(group);
      button.setAttribute("aria-pressed", String(!this.off.has(group)));
      this.render();
      this.redraw();
    });
    this.counters.set(group, { node: count, count: 0 });
    box.append(button);
  }

  pause() {
    this.paused = !this.paused;
    this.held = 0;
    this.button.setAttribute("aria-pressed", String(this.paused));
    this.button.firstChild.data = this.paused ? "Go on " : "Pause ";
    if (!this.paused) this.changed();
  }

  allowed(may) {
    this.nothing.textContent = may ? "Nothing has happened since this page was opened."
      : "You may not see events: only root and the user who mounted may. The rest of this page is asked for once a second.";
    this.button.disabled = !may;
  }

  add(event) {
    if (event.lost) this.keep({ lost: event.lost, time: event.time }, "policy");
    const group = GROUP_OF.get(event.event);
    if (group) this.keep(event, group);
  }

  keep(event, group) {
    this.sequence += 1;
    const kept = this.kept.get(group);
    kept.push({ event, group, sequence: this.sequence });
    if (kept.length > 2 * SHOWN) kept.splice(0, kept.length - SHOWN);
    this.counters.get(group).count += 1;
    this.marks.push({ time: event.time, group, kind: event.event });
    if (this.marks.length > 8000) this.marks.splice(0, 4000);
    if (this.paused) this.held += 1;
    this.changed();
  }

  /** At most five times a second, however many events come. */
  changed() {
    if (this.timer) return;
    this.timer = setTimeout(() => {
      this.timer = 0;
      for (const { node, count } of this.counters.values()) say(node, number(count));
      if (this.paused) this.button.firstChild.data = this.held ? `Go on (${number(this.held)} new) ` : "Go on ";
      else this.render();
    }, DRAW_EVERY_MS);
  }

  render() {
    if (this.paused && this.rendered === [...this.off].join()) return;
    const newest = this.paused ? this.renderedTo ?? 0 : this.sequence;
    this.rendered = [...this.off].join();
    this.renderedTo = newest;
    const all = [];
    for (const [group, kept] of this.kept) if (!this.off.has(group)) all.push(...kept.filter((one) => one.sequence <= newest));
    all.sort((a, b) => b.sequence - a.sequence).splice(SHOWN);
    const before = this.nodes ?? new Map();
    this.nodes = new Map();
    all.forEach((one, index) => {
      const node = before.get(one.sequence) ?? this.make(one);
      before.delete(one.sequence);
      this.nodes.set(one.sequence, node);
      if (this.list.children[index] !== node) this.list.insertBefore(node, this.list.children[index] ?? null);
    });
    for (const node of before.values()) node.remove();
    this.nothing.hidden = all.length > 0;
    this.list.hidden = all.length === 0;
  }

  make({ event, group }) {
    const node = element("li");
    node.dataset.group = group;
    node.dataset.pid = event.pid ?? 0;
    const time = element("time", "", clock(event.time));
    if (event.lost) {
      node.append(time, element("b", "", "lost"), element("span", "", `${number(event.lost)} events came too fast to be shown`));
      return node;
    }
    const text = element("span");
    const who = element("bdi", "", process(this.commands.get(event.pid), event.pid));
    if (!this.commands.has(event.pid)) this.unnamed.set(who, event.pid);
    text.append(who, ` ${VERBS[event.event]} `);
    if (event.event === "policy") {
      text.append(element("b", "", name(event.policy)));
    } else {
      if (event.path || event.inode) text.append(element("bdi", "path", name(event.path) || `inode ${event.inode}`), " ");
      text.append(element("span", "quiet", range(event.offset, event.length)));
    }
    node.append(time, element("b", "", event.event), text);
    node.classList.toggle("dim", this.selected !== 0 && event.pid !== this.selected);
    return node;
  }

  /** An event comes before the snapshot that tells what its process is called. */
  nameProcesses() {
    for (const [node, pid] of this.unnamed) {
      const command = this.commands.get(pid);
      if (command) say(node, process(command, pid));
      if (command || !node.isConnected) this.unnamed.delete(node);
    }
  }

  select(pid) {
    this.selected = pid;
    for (const node of this.list.children) node.classList.toggle("dim", pid !== 0 && node.dataset.pid !== String(pid));
  }

  tick() {
    if (!this.paused) this.redraw();
  }

  redraw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
    });
  }

  /** Marks wander to the left. Those of one kind in one pixel are drawn once. */
  draw() {
    const { context, width, height } = prepare(this.lanes);
    const now = this.now();
    const old = this.marks.findIndex((mark) => mark.time > now - STRIP_SECONDS);
    if (old !== 0) this.marks.splice(0, old < 0 ? this.marks.length : old);
    const row = (height - AXIS) / GROUPS.length; // beside the button of the group
    context.font = `11px ${getComputedStyle(this.lanes).fontFamily}`;
    context.textBaseline = "middle";
    GROUPS.forEach(([group], index) => {
      const y = Math.round(row * (index + 0.5));
      context.globalAlpha = this.off.has(group) ? 0.4 : 1;
      context.fillStyle = this.palette.get("line");
      context.fillRect(0, y, width, 1);
    });
    context.globalAlpha = 1;
    context.fillStyle = this.palette.get("quiet");
    for (const [share, text, align] of [[0, "1 min ago", "left"], [0.5, "30 s", "center"], [1, "now", "right"]]) {
      context.textAlign = align;
      context.fillText(text, share * width, height - AXIS / 2);
    }
    context.textAlign = "left";
    const drawn = new Set();
    for (const { time, group, kind } of this.marks) {
      const index = GROUPS.findIndex(([one]) => one === group);
      const x = Math.round(width - 2 - ((now - time) / STRIP_SECONDS) * (width - 4));
      const key = x * 16 + index;
      if (drawn.has(key) || x < 1) continue;
      drawn.add(key);
      context.globalAlpha = this.off.has(group) ? 0.2 : 1;
      context.fillStyle = this.palette.get(`event-${group}`);
      const ends = kind === "unpin" || kind === "unlease" || kind === "resumed" || kind === "freed";
      const tall = Math.round(row * (ends ? 0.26 : 0.58));
      context.fillRect(x - 1, Math.round(row * (index + 0.5) - tall / 2), 3, tall);
    }
    context.globalAlpha = 1;
  }
}
