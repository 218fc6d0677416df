// Events that did not come: marked where they belong, and brought from the history when the reader wants them.

import { button, element } from "./dom.js";

const PAGE = 500;
const PAGES = 4; // of one click

const AWAY = "while you were away";
const WORDS = {
  "catch-up": AWAY, expired: AWAY, too_many: AWAY, trimmed: AWAY,
  unavailable: "while Redis was away",
  reading: "while you were reading",
  past: "from before this page came",
};

// gap: {room, epoch?, from, to, count, reason}; `history(room, since, limit, epoch)` reads on; `show(event, marker)` puts
// one in its place before the marker.
export function gapMarker(gap, history, show) {
  const marker = element("li", undefined, "gap");
  const words = element("span");
  const open = button("Show them", () => fill());
  const say = (text) => { words.textContent = text; };
  let next = gap.from;

  const left = () => gap.to - next + 1;
  const title = (count) => `You missed ${count.toLocaleString("en")} events of ${gap.room} `
    + (WORDS[gap.reason] || `(${gap.reason})`);

  async function page() {
    const answer = await history(gap.room, next - 1, Math.min(PAGE, left()), gap.epoch);
    const lost = Math.max(0, Math.min(answer.first, gap.to + 1) - next);
    const events = answer.events.filter((event) => event.seq <= gap.to);
    if (lost) marker.before(gone(lost, gap.room));
    for (const event of events) show(event, marker);
    next = events.length ? events[events.length - 1].seq + 1 : gap.to + 1;
  }

  async function fill() {
    open.disabled = true;
    say(`Reading ${gap.room} …`);
    try {
      for (let pages = 0; pages < PAGES && left() > 0; pages += 1) await page();
    } catch (error) {
      say(`${title(left())}. They could not be read: ${error.message}`);
      open.disabled = false;
      return;
    }
    open.disabled = false;
    if (left() > 0) say(title(left()));
    else marker.remove();
  }

  say(title(gap.count));
  marker.append(words);
  if (gap.from > 0 && gap.to >= gap.from) marker.append(open);
  return { marker, fill };
}

export const gone = (count, room) =>
  element("li", `${count.toLocaleString("en")} events of ${room} are no longer kept`, "gap gone");
