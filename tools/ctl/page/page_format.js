// SPDX-License-Identifier: Apache-2.0
// Numbers as people read them, and names as they may be shown.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const grouped = new Intl.NumberFormat("en");

export const number = (value) => grouped.format(Math.round(value));

/** 67108864 is "64 MiB": three digits, and `more` if they are wanted. */
export function size(bytes, more = 0) {
  let unit = 0;
  let value = Math.max(0, Number(bytes) || 0);
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = value >= 100 || unit === 0 ? 0 : value >= 10 ? 1 : 2;
  return `${Number(value.toFixed(digits + more))} ${UNITS[unit]}`;
}

/** A file range. A truncate reaches to the end of all numbers. */
export function range(offset, length) {
  if (offset + length >= Number.MAX_SAFE_INTEGER) return `from ${size(offset)} on`;
  let more = 0;
  while (more < 6 && offset && length && size(offset, more) === size(offset + length, more)) more += 1;
  return `${offset ? size(offset, more) : "0"} – ${size(offset + length, more)}`;
}

/** A span of time: "0.4 s", "12 s", "3 min 20 s", "2 h 5 min". */
export function span(seconds) {
  const s = Math.max(0, seconds);
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 100) return `${Math.floor(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} days`;
}

/** A setting in seconds; 0 or null is none. */
export const setting = (seconds) => (seconds ? `${Number(Number(seconds).toFixed(3))} s` : "none");

/** The time of day with milliseconds, as the reader's clock would say it. */
export function clock(time) {
  const date = new Date(time * 1000);
  const two = (n) => String(n).padStart(2, "0");
  const ms = String(date.getMilliseconds()).padStart(3, "0");
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${ms}`;
}

// Anybody chooses names of files and commands: control characters and those that turn the direction of text around are shown
// as such, so that no name looks like another.
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
export const name = (text) => String(text ?? "").replace(UNSEEN, "\ufffd");

export const process = (command, pid) => (command ? `${name(command)} (${pid})` : `process ${pid}`);

export const plural = (count, word) => `${number(count)} ${word}${count === 1 ? "" : "s"}`;

/** An element with a class and text. Text is never markup here. */
export function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Sets text only where it differs, so that nothing is laid out anew and no selection is lost. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
