// Project events, the newest first.

import { byId, element, fold, timeOf, validTime, withoutAnsi } from "./dom.js";

const MOST = 300;

export class Events {
  #facts = new WeakMap(); // line -> {ts, rooms}

  // The time is the publisher's, else that of the publication: never that of the page.
  show(name, data, meta, at) {
    const list = byId("events");
    list.querySelector(".none")?.remove();
    const line = element("li");
    const own = data && typeof data === "object" ? validTime(data.timestamp) : undefined;
    const text = data === undefined ? "" : withoutAnsi(brief(data));
    const shown = element("p", text);
    shown.dir = "auto";
    line.append(timeOf(own ?? meta.ts ?? Date.now()), element("b", name), shown);
    fold(shown, text);
    const fact = { ts: meta.ts ?? own ?? 0, rooms: Object.keys(meta.rooms || {}) };
    this.#facts.set(line, fact);
    if (at) this.#place(list, line, fact.ts);
    else list.prepend(line);
    while (list.children.length > MOST) list.lastElementChild.remove();
  }

  #place(list, line, ts) {
    let next = list.firstElementChild;
    while (next && this.#facts.get(next).ts > ts) next = next.nextElementSibling;
    if (next) next.before(line);
    else list.append(line);
  }

  keep(wanted) {
    for (const line of [...byId("events").children]) {
      const fact = this.#facts.get(line);
      if (fact && fact.rooms.length && !fact.rooms.some((room) => wanted.has(room))) line.remove();
    }
  }
}

function brief(data) {
  if (data === null || typeof data !== "object" || Array.isArray(data)) return JSON.stringify(data);
  const { id, seq, timestamp, ...rest } = data;
  return Object.entries(rest)
    .map(([key, value]) => `${key}=${typeof value === "string" ? value : JSON.stringify(value)}`).join("  ");
}
