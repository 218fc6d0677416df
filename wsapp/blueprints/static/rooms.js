// The rooms that the address names, and what the server has granted.

import { button, byId, element } from "./dom.js";

const KIND = /^(agent|task|project):./;
const CONTROL = /[\u0000-\u001f\u007f-\u009f]/; // steers the terminal that a copied command is pasted into
const decoded = (part) => { try { return decodeURIComponent(part).trim(); } catch { return ""; } };
const DEFAULT_ROOMS = ["agent:coder", "task:t1", "project:p1"];

// A bare name is an agent's.
export const roomOf = (text) => {
  const name = text.replaceAll(new RegExp(CONTROL, "g"), "").trim();
  return KIND.test(name) ? name : "agent:" + name;
};

export class Rooms {
  wanted = new Set();
  joined = new Map(); // room -> "yes" | "asked" | "refused"
  why = new Map(); // room -> why it was refused

  constructor(onLeave) { this.onLeave = onLeave; }

  // Read the address; returns the token that a link has brought, "" for one that cannot be read.
  read() {
    const parts = location.hash.slice(1).split("&");
    const token = parts.find((part) => part.startsWith("token="));
    const named = parts.filter((part) => part !== token).join("&").split(",").map(decoded)
      .filter((room) => KIND.test(room) && !CONTROL.test(room));
    const next = new Set(named.length ? named : DEFAULT_ROOMS);
    for (const room of [...this.wanted]) if (!next.has(room)) this.leave(room);
    for (const room of next) this.wanted.add(room);
    this.write(); // without the token: an address is copied, shown and kept
    return token && decoded(token.slice("token=".length));
  }

  write() {
    const rooms = [...this.wanted].map((room) => encodeURIComponent(room).replace("%3A", ":"));
    history.replaceState(null, "", "#" + rooms.join(","));
  }

  add(room) {
    if (this.joined.get(room) === "refused") this.joined.delete(room);
    this.wanted.add(room);
    this.write();
  }

  leave(room) {
    this.wanted.delete(room);
    const was = this.joined.get(room);
    this.joined.delete(room);
    this.onLeave(room, was === "yes" || was === "asked");
  }

  // The subscriptions that are still to be asked for, by kind.
  missing() {
    const byKind = new Map();
    for (const room of this.wanted) {
      if (this.joined.has(room)) continue;
      const kind = room.slice(0, room.indexOf(":"));
      byKind.set(kind, [...(byKind.get(kind) || []), room]);
    }
    return byKind;
  }

  refuse(room, why) {
    this.joined.set(room, "refused");
    this.why.set(room, why);
  }

  lost() { for (const [room, how] of this.joined) if (how === "asked") this.joined.delete(room); }

  show() {
    byId("rooms").replaceChildren(...[...this.wanted].map((room) => {
      const item = element("li", undefined, "room");
      item.dataset.joined = this.joined.get(room) || "no";
      if (item.dataset.joined === "refused") item.title = this.why.get(room) || "refused";
      const leave = button("×", () => { this.leave(room); this.write(); this.show(); });
      leave.setAttribute("aria-label", "stop watching " + room);
      item.append(element("span", room), leave);
      return item;
    }));
  }
}
