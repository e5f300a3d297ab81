// SPDX-License-Identifier: Apache-2.0
// Requests that wait at the gate: what they want, for whom they wait, and how long still.
import { element, name, number, plural, process, range, say, span } from "./page_format.js";

const MOST = 50;
const MOST_HOLDERS = 6;
const TIMEOUTS = { refuse: "then refused", defer: "then deferred" };

export class Requests {
  constructor(list, palette, select, now) {
    Object.assign(this, { list, palette, choose: select, now, shown: new Map(), selected: 0 });
    this.count = document.getElementById("waiting_count");
    this.nothing = document.getElementById("no_requests");
    this.more = element("li", "quiet");
  }

  show(waiting, policy) {
    this.then = TIMEOUTS[policy.on_timeout] ?? "";
    say(this.count, number(waiting.length));
    this.nothing.hidden = waiting.length > 0;
    const before = this.shown;
    this.shown = new Map();
    waiting.slice(0, MOST).forEach((request, index) => {
      const made = before.get(request.id) ?? this.make();
      before.delete(request.id);
      this.shown.set(request.id, made);
      this.fill(made, request);
      if (this.list.children[index] !== made.node) this.list.insertBefore(made.node, this.list.children[index] ?? null);
    });
    for (const { node } of before.values()) node.remove();
    if (waiting.length > MOST) {
      say(this.more, `and ${number(waiting.length - MOST)} more`);
      this.list.append(this.more);
    } else {
      this.more.remove();
    }
    this.tick();
    this.select(this.selected);
  }

  make() {
    const node = element("li", "request");
    const made = { node, what: element("b"), where: element("bdi", "path"), range: element("span", "quiet"), who: element("p", "quiet by"),
      bar: element("i"), left: element("span", "left"), holders: element("p", "waits-for") };
    const head = element("p", "asked");
    head.append(made.what, " ", made.where, " ", made.range);
    const time = element("div", "time");
    const track = element("span", "track");
    track.append(made.bar);
    time.append(track, made.left);
    node.append(head, made.who, time, made.holders);
    return made;
  }

  fill(made, request) {
    made.request = request;
    say(made.what, name(request.request).replaceAll("_", " "));
    say(made.where, name(request.path) || `inode ${request.inode}`);
    say(made.range, range(request.offset, request.length));
    const seen = JSON.stringify([request.waits_for, request.behind, [...this.palette.ofPid]]);
    if (seen === made.seen) return;
    made.seen = seen;
    const parts = [document.createTextNode("waits for ")];
    for (const holder of request.waits_for.slice(0, MOST_HOLDERS)) {
      const button = element("button", "chip");
      button.type = "button";
      button.dataset.pid = holder.pid;
      const swatch = element("i", "swatch");
      this.palette.mark(swatch, holder.pid);
      const counts = [holder.pins && plural(holder.pins, "pin"), holder.leases && plural(holder.leases, "lease")].filter(Boolean);
      button.append(swatch, element("bdi", "", process(holder.command, holder.pid)), element("span", "quiet", counts.join(", ")));
      button.addEventListener("click", () => this.choose(holder.pid));
      parts.push(button);
    }
    const more = request.waits_for.length - MOST_HOLDERS;
    if (more > 0) parts.push(element("span", "quiet", `and ${number(more)} more`));
    if (!request.waits_for.length) parts.push(element("span", "quiet", request.behind.length ? "its turn" : "holders that you may not see"));
    if (request.behind.length) {
      parts.push(element("span", "quiet", `behind ${plural(request.behind.length, "earlier request")}`));
    }
    made.holders.replaceChildren(...parts);
  }

  /** The time goes on between two answers. */
  tick() {
    const now = this.now();
    for (const { request, bar, left, node, who } of this.shown.values()) {
      const waited = Math.max(0, now - request.since);
      const { deadline } = request;
      say(who, `by ${process(request.command, request.pid)} · ${request.policy} · for ${span(waited)}`);
      const share = deadline ? Math.min(1, Math.max(0, (deadline - now) / Math.max(0.001, deadline - request.since))) : 1;
      bar.style.width = `${(share * 100).toFixed(1)}%`;
      node.classList.toggle("endless", !deadline);
      node.classList.toggle("soon", Boolean(deadline) && deadline - now < 5);
      say(left, deadline ? `${span(deadline - now)} left, ${this.then}` : "no time limit");
    }
  }

  select(pid) {
    this.selected = pid;
    for (const { node, request } of this.shown.values()) {
      const concerned = request.waits_for.some((holder) => holder.pid === pid) || request.pid === pid;
      node.classList.toggle("dim", pid !== 0 && !concerned);
      node.classList.toggle("chosen", pid !== 0 && concerned);
    }
  }
}
