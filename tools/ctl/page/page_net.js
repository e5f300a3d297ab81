// SPDX-License-Identifier: Apache-2.0
// What the page asks of the server: snapshots, events, policies. Nothing else is ever requested.

const KEY = "daxfs-token";

/** The token of the address `/#token=...`. It is taken out of the address bar, so that it is not copied or bookmarked by mistake. */
export function takeToken() {
  const found = /(?:^#|&)token=([^&]+)/.exec(location.hash);
  if (found) {
    try {
      sessionStorage.setItem(KEY, decodeURIComponent(found[1]));
    } catch {
      // Storage is switched off: a reload will need the address again.
      takeToken.kept = found[1];
    }
    history.replaceState(null, "", location.pathname + location.search);
  }
  try {
    return sessionStorage.getItem(KEY) ?? takeToken.kept ?? "";
  } catch {
    return takeToken.kept ?? "";
  }
}

/** The server answered with an error: `status` and the sentence that it said. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function answer(response) {
  const text = await response.text();
  let body = {};
  try {
    body = JSON.parse(text);
  } catch {
    body = { error: text.slice(0, 300) };
  }
  if (!response.ok) throw new Refused(response.status, body.error || `The server answered with status ${response.status}.`);
  return body;
}

const headers = (token) => ({ Authorization: `Bearer ${token}` });
const PATIENCE_MS = 15000;

export async function snapshot(token, cells) {
  const options = { headers: headers(token), cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) };
  return answer(await fetch(`/api/snapshot?cells=${cells}`, options));
}

export async function setPolicy(token, text) {
  const options = {
    method: "POST", body: text, cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS),
    headers: { ...headers(token), "Content-Type": "text/plain" },
  };
  return answer(await fetch("/api/policy", options));
}

/**
 * Server-sent events, read by fetch and not by EventSource, which hides why it was refused. Ends when the server ends it, with
 * `Refused` when the user may not see events.
 */
export async function events(token, signal, opened, each) {
  const response = await fetch(`/events?token=${encodeURIComponent(token)}`, { headers: headers(token), cache: "no-store", signal });
  if (!response.ok) throw new Refused(response.status, "no events");
  opened();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      try {
        each(JSON.parse(line.slice(5)));
      } catch (error) {
        if (!(error instanceof SyntaxError)) throw error; // half a line, at worst: the next snapshot says all
      }
    }
  }
}
