// The list of thoughts.  Live ones are appended, those of the history go where their time is; the deltas of one thought
// are one growing line.  A reader who has scrolled back is not disturbed: nothing is cut above, and what comes is counted.

import { button, byId, element, fold, timeOf, validTime, withoutAnsi } from "./dom.js";

const MOST = 500;
const MOST_WHILE_READING = 3000;
const NEAR = 40; // pixels from the end that count as the end
const HUES = 6;

const hue = (name) => [...name].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) >>> 0, 7) % HUES;
const textOf = (thought) => withoutAnsi(typeof thought === "string" ? thought : JSON.stringify(thought) ?? "");
const before = (one, other) => one.ts < other.ts || (one.ts === other.ts && one.seq < other.seq);

export class Thoughts {
  #list = byId("thoughts");
  #scroller = byId("thoughts-scroll");
  #following = true;
  #facts = new WeakMap(); // line -> {ts, seq, rooms, key?, parts?}
  #growing = new Map(); // agent and thought -> line
  #total = 0;
  #unread = 0;
  #held = new Map(); // room -> the gap of what was not kept for a reader
  #divider;

  constructor(onGap) {
    this.onGap = onGap;
    this.#scroller.addEventListener("scroll", () => {
      const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
      const following = scrollHeight - scrollTop - clientHeight < NEAR;
      if (following && !this.#following) this.#released();
      this.#following = following;
      this.#showFollow();
    }, { passive: true });
    byId("follow").addEventListener("click", () => this.follow());
  }

  // --- what comes

  // `at`: undefined for live ones, "history", or the marker before which they belong.
  add(thoughts, meta, at) {
    for (const thought of thoughts) this.#addOne(thought, meta, at);
    this.#total += thoughts.length;
    byId("thought-count").textContent = this.#total.toLocaleString("en");
    this.#changed(at ? 0 : thoughts.length);
  }

  #addOne(thought, meta, at) {
    const rooms = Object.keys(meta.rooms || {});
    const fact = { ts: meta.ts ?? validTime(thought.timestamp) ?? Date.now(), seq: Object.values(meta.rooms || {})[0] ?? 0, rooms };
    const text = textOf(thought.thought);
    const key = thought.delta && thought.thoughtId !== undefined ? `${thought.agentId}\n${thought.thoughtId}` : undefined;
    const line = key === undefined ? undefined : this.#growing.get(key);
    if (line) return this.#grow(line, { ...fact, text });
    if (!at && this.#isFull()) return this.#hold(meta);
    this.#place(this.#line(thought, text, { ...fact, key, parts: key && [{ ...fact, text }] }), at);
  }

  #line(thought, text, fact) {
    const line = element("li", undefined, "thought");
    const agent = String(thought.agentId ?? "");
    const name = element("b", agent);
    const shown = element("p", text);
    name.title = agent;
    name.dataset.hue = String(hue(agent));
    shown.dir = "auto";
    if (thought.stream) line.dataset.stream = thought.stream;
    const body = element("div");
    body.append(shown);
    line.append(timeOf(validTime(thought.timestamp) ?? fact.ts), name, body);
    fold(shown, text);
    this.#facts.set(line, fact);
    if (fact.key !== undefined) this.#growing.set(fact.key, line);
    return line;
  }

  #grow(line, part) {
    const { parts } = this.#facts.get(line);
    const shown = line.querySelector("p");
    let at = parts.length;
    while (at > 0 && before(part, parts[at - 1])) at -= 1;
    parts.splice(at, 0, part);
    if (at === parts.length - 1) shown.append(part.text);
    else shown.textContent = parts.map((one) => one.text).join("");
    fold(shown, shown.textContent);
  }

  #place(line, at) {
    if (!at) {
      this.#append(line);
      return;
    }
    const fact = this.#facts.get(line);
    let previous = at === "history" ? this.#list.lastElementChild : at.previousElementSibling;
    while (previous) {
      const known = this.#facts.get(previous);
      if (known ? !before(fact, known) : at !== "history") break;
      previous = previous.previousElementSibling;
    }
    if (previous) previous.after(line);
    else this.#list.prepend(line);
  }

  #append(line) {
    if (this.#divider) this.#list.append(this.#divider);
    this.#divider = undefined;
    this.#list.append(line);
  }

  // --- what did not come

  mark(marker) {
    this.#append(marker);
    this.#changed(0);
  }

  // A history began again; what several rooms say at once is one line.
  restarted(room) {
    const last = this.#list.lastElementChild;
    const line = last && last.dataset.rooms ? last : element("li", "", "gap gone");
    const rooms = [...new Set([...(line.dataset.rooms || "").split("\n").filter(Boolean), room])];
    line.dataset.rooms = rooms.join("\n");
    line.textContent = `${rooms.length > 2 ? `${rooms.length} histories` : `The history of ${rooms.join(" and ")}`}`
      + " began again: what was published in between is not known";
    line.title = rooms.join(", ");
    this.mark(line);
  }

  // The next line that comes is the first after an absence.
  divide(text) { this.#divider = element("li", text, "divider"); }

  #isFull() { return !this.#following && this.#list.children.length >= MOST_WHILE_READING; }

  #hold(meta) {
    for (const [room, seq] of Object.entries(meta.rooms || {}).slice(0, 1)) {
      const gap = this.#held.get(room) || { room, epoch: meta.epoch, from: seq, to: seq, count: 0, reason: "reading" };
      this.#held.set(room, { ...gap, to: Math.max(gap.to, seq), count: gap.count + 1 });
    }
  }

  #released() {
    for (const gap of this.#held.values()) this.onGap(gap);
    this.#held.clear();
  }

  // --- the reader

  follow() {
    this.#released();
    this.#following = true;
    this.#changed(0);
  }

  #changed(more) {
    byId("empty").hidden = this.#list.children.length > 0;
    if (this.#following) {
      while (this.#list.children.length > MOST) this.#remove(this.#list.firstElementChild);
      this.#scroller.scrollTop = this.#scroller.scrollHeight;
    } else this.#unread += more;
    this.#showFollow();
  }

  #showFollow() {
    if (this.#following) this.#unread = 0;
    const follow = byId("follow");
    follow.hidden = this.#following;
    follow.textContent = this.#unread ? `↓ ${this.#unread.toLocaleString("en")} new` : "↓ Newest";
  }

  // --- leaving

  #remove(line) {
    const fact = this.#facts.get(line);
    if (fact && fact.key !== undefined && this.#growing.get(fact.key) === line) this.#growing.delete(fact.key);
    line.remove();
  }

  // Lines of rooms that nobody wants any more.
  keep(wanted) {
    for (const line of [...this.#list.children]) {
      const fact = this.#facts.get(line);
      if (fact && fact.rooms.length && !fact.rooms.some((room) => wanted.has(room))) this.#remove(line);
    }
    this.#changed(0);
  }
}
