// SPDX-License-Identifier: Apache-2.0
// Asks the server once a second and at once after an event, and hands each answer to the parts of the page.
import * as net from "./page_net.js";
import { name, say, size, clock } from "./page_format.js";
import { BlockMap } from "./page_map.js";
import { Holders, Leases } from "./page_tables.js";
import { Requests } from "./page_requests.js";
import { Policy } from "./page_policy.js";
import { Timeline } from "./page_timeline.js";
import { Gauges } from "./page_gauges.js";
import { Palette } from "./page_colours.js";

const EVERY_MS = 1000;
const HIDDEN_EVERY_MS = 5000;
const SOONEST_MS = 200; // between two questions, however many events there are
const CHANGES = new Set(["pin", "unpin", "lease", "unlease", "break", "refused", "deferred", "waiting", "resumed", "timeout",
  "interrupted", "freed", "policy", "quarantine"]);

const at = (id) => document.getElementById(id);
const state = { token: net.takeToken(), selected: 0, ahead: 0, latest: null, link: "asking" };
const commands = new Map(); // of processes that were seen: events tell the pid only
const serverNow = () => Date.now() / 1000 + state.ahead;

const palette = new Palette();
const select = (pid) => {
  state.selected = pid === state.selected ? 0 : pid;
  for (const part of [map, holders, leases, requests, timeline]) part.select(state.selected);
  at("unselect").hidden = state.selected === 0;
};
const map = new BlockMap(at("map"), palette, select);
const holders = new Holders(at("holders"), palette, select, serverNow);
const leases = new Leases(at("leases"), palette, select, serverNow);
const requests = new Requests(at("requests"), palette, select, serverNow);
const policy = new Policy((text) => net.setPolicy(state.token, text), () => askSoon(), forbidden);
const timeline = new Timeline(commands, palette, serverNow);
const gauges = new Gauges(at("gauges"));

// ---- asking -------------------------------------------------------------------------------------------------------------

let timer = 0;
let underWay = false;
let again = false;
let took = 0;
let ended = 0;

function askIn(ms) {
  clearTimeout(timer);
  timer = setTimeout(ask, ms);
}

/** After an event: soon, but asking never takes more than a quarter of the time. */
function askSoon() {
  if (underWay) again = true;
  else askIn(Math.max(0, Math.max(SOONEST_MS, 3 * took) - (performance.now() - ended)));
}

async function ask() {
  if (underWay || state.link === "forbidden") return;
  underWay = true;
  again = false;
  const began = performance.now();
  try {
    const answer = await net.snapshot(state.token, map.wanted());
    took = performance.now() - began;
    ended = began + took;
    state.ahead = answer.time - Date.now() / 1000;
    connected();
    show(answer);
  } catch (error) {
    if (error instanceof net.Refused && error.status === 401) forbidden();
    else gone(error);
  } finally {
    underWay = false;
    if (state.link !== "forbidden") {
      askIn(Math.max(document.hidden ? HIDDEN_EVERY_MS : EVERY_MS, 3 * took));
      if (again && state.link === "live") askSoon();
    }
  }
}

function show(answer) {
  state.latest = answer;
  const { status } = answer;
  for (const who of [...answer.holders, ...answer.waiting, ...answer.leases]) {
    if (who.command) commands.set(who.pid, who.command);
  }
  if (commands.size > 5000) commands.clear();
  palette.assign(answer.holders);
  timeline.nameProcesses();
  say(at("mountpoint"), name(status.mountpoint));
  say(at("pool"), [name(status.pool), size(status.total), status.dax ? "persistent memory" : "emulated",
    ...(status.read_only ? ["read-only"] : [])].join(" · "));
  document.title = `${name(status.mountpoint)} – daxfs`;
  at("stopped").hidden = !status.stopped;
  if (status.stopped) say(at("stopped"), `STOPPED: ${name(status.stopped)}`);
  const degraded = (status.degraded ?? []).filter((one) => one.what !== "stopped");
  at("degraded").hidden = degraded.length === 0;
  say(at("degraded"), degraded.map((one) => name(`${one.text}; ${one.way_out}`)).join("\n"));
  policy.show(answer);
  gauges.show(answer);
  map.show(answer);
  holders.show(answer.holders);
  requests.show(answer.waiting, status.policy);
  leases.show(answer.leases);
}

// ---- the state of the connection -------------------------------------------------------------------------------------

function link(called, text) {
  state.link = called;
  at("link").dataset.state = called;
  say(at("link_text"), text);
  document.body.classList.toggle("stale", called === "gone" || called === "forbidden");
}

function connected() {
  at("gone").hidden = true;
  const was = state.link;
  link("live", "live");
  if (was !== "live") listen();
}

function gone(error) {
  const since = state.latest ? ` What you see is of ${clock(state.latest.time).slice(0, 8)}.` : "";
  const why = error instanceof net.Refused ? error.message : "The server does not answer.";
  say(at("gone"), `${name(why)} Trying again every second.${since}`);
  at("gone").hidden = false;
  link("gone", "not connected");
}

function forbidden() {
  say(at("gone"), "This page has no valid token. Open the whole address that “daxfsctl serve” printed: it ends in #token=…");
  at("gone").hidden = false;
  link("forbidden", "no token");
}

// ---- events --------------------------------------------------------------------------------------------------------------

let listening = null;

/** Each time that the connection is made anew: what was refused before may be allowed now. */
async function listen() {
  listening?.abort();
  const mine = new AbortController();
  listening = mine;
  while (listening === mine) {
    try {
      await net.events(state.token, mine.signal, () => timeline.allowed(true), (event) => {
        timeline.add(event);
        if (CHANGES.has(event.event) && !document.hidden) askSoon();
      });
    } catch (error) {
      if (error instanceof net.Refused && error.status === 403) {
        timeline.allowed(false); // the page goes by asking alone
        return;
      }
    }
    await new Promise((done) => setTimeout(done, EVERY_MS));
    if (state.link !== "live") return; // `connected` will call
  }
}

// ---- keys, size, colours -------------------------------------------------------------------------------------------------

const help = at("help");
at("help_open").addEventListener("click", () => help.showModal());
at("unselect").addEventListener("click", () => select(state.selected));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || help.open) return;
  if (event.target instanceof HTMLInputElement) return;
  if (event.key === "?") help.showModal();
  else if (event.key === "Escape" && state.selected) select(state.selected);
  else if (event.key === "p" || event.key === "P") timeline.pause();
  else if (!policy.key(event.key)) return;
  event.preventDefault();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) askSoon();
});
const redraw = () => [map, gauges, timeline].forEach((part) => part.redraw());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  palette.read();
  redraw();
});
new ResizeObserver(redraw).observe(at("main"));
window.addEventListener("hashchange", () => {
  state.token = net.takeToken();
  if (state.link === "forbidden") {
    link("asking", "connecting");
    ask();
  }
});
setInterval(() => {
  if (document.hidden || state.link !== "live") return;
  requests.tick();
  leases.tick();
  timeline.tick();
}, 200);
setInterval(() => document.hidden || state.link !== "live" || holders.tick(), 1000);

ask();
