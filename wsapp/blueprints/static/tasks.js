// Tasks as bars, each in its latest state; failed ones first.

import { byId, element, fold, timeOf, validTime, withoutAnsi } from "./dom.js";

const MOST = 200;
const ORDER = ["failed", "in_progress", "pending", "completed"];
const WORDS = { failed: "failed", in_progress: "running", pending: "waiting", completed: "done" };

export class Tasks {
  #items = new Map(); // taskId -> {item, ts, seq, epoch, status, rooms}

  // A state that is older than the one that is shown changes nothing, whichever way it came.
  show(update, meta) {
    const id = String(update.taskId);
    const room = `task:${id}`;
    const found = this.#items.get(id);
    const at = { ts: meta.ts ?? 0, seq: (meta.rooms || {})[room], epoch: meta.epoch, rooms: Object.keys(meta.rooms || {}) };
    if (found && isOlder(at, found)) return;
    const item = found ? found.item : this.#make(id);
    this.#items.set(id, { ...at, item, status: update.status });
    fill(item, id, update, meta);
    if (!found) this.#bound();
    this.#count();
  }

  #make(id) {
    const item = element("li");
    const top = element("div", undefined, "top");
    const name = element("span", id, "name");
    const bar = element("progress");
    const message = element("small");
    name.title = id;
    message.dir = "auto";
    bar.max = 100;
    bar.setAttribute("aria-label", "progress of " + id);
    top.append(name, element("span", "", "status"));
    item.append(top, bar, message);
    byId("tasks").querySelector(".none")?.remove();
    byId("tasks").prepend(item);
    return item;
  }

  #bound() {
    if (this.#items.size <= MOST) return;
    const [oldest] = [...this.#items].find(([, one]) => one.status === "completed") || this.#items.entries().next().value;
    this.#drop(oldest);
  }

  #drop(id) {
    this.#items.get(id).item.remove();
    this.#items.delete(id);
  }

  #count() {
    const counts = ORDER.map((status) => [status, [...this.#items.values()].filter((one) => one.status === status).length]);
    byId("task-count").textContent = counts.filter(([, count]) => count)
      .map(([status, count]) => `${count} ${WORDS[status]}`).join(" · ");
  }

  keep(wanted) {
    for (const [id, { rooms }] of [...this.#items]) if (rooms.length && !rooms.some((room) => wanted.has(room))) this.#drop(id);
    this.#count();
  }
}

function isOlder(one, other) {
  if (one.seq !== undefined && other.seq !== undefined && one.epoch === other.epoch) return one.seq < other.seq;
  return one.ts < other.ts;
}

function fill(item, id, update, meta) {
  const bar = item.querySelector("progress");
  item.dataset.status = update.status;
  if (typeof update.progress === "number") bar.value = update.progress;
  else if (update.status === "completed") bar.value = 100;
  else if (update.status === "pending") bar.value = 0;
  else if (update.status === "in_progress") bar.removeAttribute("value");
  else if (!bar.hasAttribute("value")) bar.value = 0;
  const percent = bar.hasAttribute("value") ? ` · ${Math.round(bar.value)} %` : "";
  const when = validTime(update.timestamp) ?? meta.ts;
  item.querySelector(".status").textContent = String(update.status).replace("_", " ") + percent;
  item.querySelector(".top time")?.remove();
  if (when !== undefined) item.querySelector(".top").append(timeOf(when));
  const message = item.querySelector("small");
  message.textContent = withoutAnsi(String(update.message ?? ""));
  item.querySelector(".unfold")?.remove();
  fold(message, message.textContent);
}
