// SPDX-License-Identifier: Apache-2.0
// The policy in force, and the switch.
import { element, name, say, setting, size, number } from "./page_format.js";

const CHOICES = [
  ["refuse", "The call fails. Nothing has changed."],
  ["defer", "The call succeeds. Pinned blocks go to limbo until the unpin."],
  ["wait", "The call waits until the pins are gone."],
  ["break", "Holders of leases are told to give way; the call waits for them."],
];
const IGNORE = ["ignore", "The blocks are free at once, and holders see other files' bytes. For demonstrations only."];
const NOT_ALLOWED = "Only root and the user who mounted may switch policies. This server was started by another user.";
const READ_ONLY = "The filesystem is mounted read-only.";

export class Policy {
  constructor(send, changed, forbidden) {
    Object.assign(this, { send, changed, forbidden, may: false, buttons: new Map() });
    const at = (id) => document.getElementById(id);
    this.choices = at("choices");
    this.error = at("policy_error");
    this.mayNot = at("may_not");
    this.force = at("force");
    this.input = at("timeout");
    this.set = at("timeout_set");
    this.now = at("timeout_now");
    this.settings = at("settings");
    CHOICES.forEach(([word, meaning], index) => this.button(word, meaning, String(index + 1)));
    at("timeout_form").addEventListener("submit", (event) => {
      event.preventDefault();
      const text = this.input.value.trim();
      if (text && this.may) this.ask(`wait_timeout=${text}`, this.set).then((done) => done && (this.input.value = ""));
    });
  }

  button(word, meaning, key) {
    const button = element("button", "choice");
    button.type = "button";
    button.disabled = true;
    button.dataset.policy = word;
    button.setAttribute("aria-pressed", "false");
    const head = element("span", "word", word);
    if (key) {
      button.setAttribute("aria-keyshortcuts", key);
      head.append(element("kbd", "", key));
    } else {
      head.append(element("span", "unsafe", "unsafe"));
    }
    button.append(head, element("span", "meaning", meaning));
    button.addEventListener("click", () => this.ask(`pin_policy=${word}`, button));
    this.buttons.set(word, button);
    this.choices.append(button);
  }

  /** A key was pressed: true if it was one of 1 to 4. */
  key(key) {
    const choice = CHOICES[Number(key) - 1];
    if (!choice) return false;
    this.buttons.get(choice[0]).click();
    return true;
  }

  async ask(text, button) {
    if (!this.may || this.asking) return false;
    this.asking = true;
    button.setAttribute("aria-busy", "true");
    say(this.error, "\u00a0");
    try {
      await this.send(text);
      this.changed();
      return true;
    } catch (error) {
      if (error.status === 401) this.forbidden();
      say(this.error, error.status ? `Not switched: ${name(error.message)}` : "Not switched: the server does not answer.");
      return false;
    } finally {
      this.asking = false;
      button.removeAttribute("aria-busy");
    }
  }

  show({ status, may_switch: may }) {
    const { policy } = status;
    this.may = may;
    if (policy.pin_policy === "ignore" && !this.buttons.has("ignore")) this.button(...IGNORE);
    if (policy.pin_policy !== "ignore" && this.buttons.has("ignore")) {
      this.buttons.get("ignore").remove();
      this.buttons.delete("ignore");
    }
    for (const [word, button] of this.buttons) {
      const pressed = String(word === policy.pin_policy);
      if (button.getAttribute("aria-pressed") !== pressed) button.setAttribute("aria-pressed", pressed);
      button.disabled = !may;
    }
    this.input.disabled = !may;
    this.set.disabled = !may;
    this.mayNot.hidden = may;
    this.error.hidden = !may;
    say(this.mayNot, may ? "" : status.read_only ? `${NOT_ALLOWED} ${READ_ONLY}` : NOT_ALLOWED);
    say(this.force, name(policy.pin_policy));
    this.force.dataset.policy = policy.pin_policy;
    say(this.now, `now: ${setting(policy.wait_timeout)}`);
    this.list([
      ["on_timeout", policy.on_timeout], ["break_timeout", setting(policy.break_timeout)],
      ["short_timeout", setting(policy.short_timeout)], ["exit_grace", setting(policy.exit_grace)],
      ["longterm", policy.longterm], ["pin_limit", policy.pin_limit ? size(policy.pin_limit) : "none"],
      ["user_limit", policy.user_limit ? number(policy.user_limit) : "none"], ["limbo_limit", size(policy.limbo_limit)],
    ]);
  }

  list(pairs) {
    if (!this.settings.childElementCount) {
      for (const [key] of pairs) {
        const row = element("div");
        row.append(element("dt", "", key), element("dd"));
        this.settings.append(row);
      }
    }
    pairs.forEach(([, value], index) => say(this.settings.children[index].lastChild, name(value)));
  }
}
